"""Why one class rather than another, on the command line: numbers, words, record, report."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fullgrad
from fullgrad.cli.main import main
from fullgrad.vision.image_result import explain_images
from fullgrad.vision.images import preprocess, read_image
from fullgrad.vision.models import load_model
from fullgrad.vision.schema import read_record
from fullgrad.viz.comparison import compare as compare_methods
from pages import SOURCE

MODEL = "own.py:make_model"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(SOURCE)
    pixels = np.random.default_rng(0).integers(0, 128, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("a.png")
    return tmp_path


def explain(*arguments: str) -> int:
    return main(["explain", "a.png", "--model", MODEL, "--out", "out", *arguments])


def numbers() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    model = load_model(MODEL)
    x = preprocess(read_image("a.png"), model.preprocessing)[None]
    return model.module, x, model.module(x)[0].detach()


@pytest.mark.parametrize("more", [[], ["--method", "input_x_gradient"]], ids=str)
def test_the_difference_is_explained(
    here: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    assert explain("--target", "1", "--rather-than", "2", "--layers", *more) == 0
    said = capsys.readouterr().out
    model, x, logits = numbers()
    record = json.loads(Path("out/a.json").read_text())
    target, other = record["target"], record["target"]["rather_than"]
    a, b = target["name"] or "class 1", other["name"] or "class 2"
    assert f"explained: {a} [1] rather than {b} [2], logits " in said
    assert (target["index"], other["index"]) == (1, 2)
    assert target["logit"] == pytest.approx(float(logits[1]), rel=1e-4)
    assert other["logit"] == pytest.approx(float(logits[2]), rel=1e-4)
    assert other["margin"] == pytest.approx(float(logits[1] - logits[2]), rel=1e-4)
    split = record["decomposition"]
    total = sum(s["sum"] for s in split["shares"]) + split["residual"]
    assert total == pytest.approx(other["margin"], rel=1e-9)
    assert sum(s["share"] for s in split["shares"]) == pytest.approx(1, abs=1e-4)
    assert "--rather-than 2" in record["command"]
    assert record["options"]["rather_than"] == "2"
    name = more[1] if more else fullgrad.methods.RECOMMENDED
    wanted = fullgrad.methods.attribute(name, model, x, fullgrad.targets.margin(1, 2))
    np.testing.assert_allclose(
        np.load("out/a.saliency.npy"), wanted[0, 0].detach().numpy(), rtol=1e-3, atol=1e-5
    )
    assert (
        read_record(Path("out/a.json").read_bytes(), "a.json").target.explained == other["margin"]
    )


def test_the_report_has_it_in_words(here: Path) -> None:
    assert explain("--target", "1", "--rather-than", "2", "--layers") == 0
    assert main(["report", "out", "--out", "report.html"]) == 0
    page = Path("report.html").read_text()
    target = json.loads(Path("out/a.json").read_text())["target"]
    assert "(class 1) rather than" in page or "class 1 rather than class 2" in page
    assert "Where the difference of the logits comes from" in page
    assert "speaks for the first class more than for the second" in page
    assert "The difference of the logits is the exact sum" in page
    assert "Residual: the difference of the logits minus all parts" in page
    assert "part of the difference of the logits" in page
    assert "= difference of the logits" in page
    assert "Shares are of the difference of the logits" in page
    assert "= logit" not in page
    assert "Do not trust it" not in page
    assert target["rather_than"]["index"] == 2


def test_the_predicted_class_rather_than_another(here: Path) -> None:
    _, _, logits = numbers()
    predicted, other = int(logits.argmax()), int(logits.argmin())
    assert explain("--rather-than", str(other)) == 0
    target = json.loads(Path("out/a.json").read_text())["target"]
    assert (target["index"], target["chosen"]) == (predicted, "predicted")
    assert target["rather_than"]["margin"] > 0


def test_a_class_compared_with_itself(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain("--target", "1", "--rather-than", "1") == 2
    assert "--target and --rather-than are the same class: 1" in capsys.readouterr().err
    _, _, logits = numbers()
    assert explain("--rather-than", str(int(logits.argmax()))) == 1
    assert "itself, so there is nothing to compare it with" in capsys.readouterr().err
    assert explain("--rather-than", "77") == 2
    assert "target 77 is out of range" in capsys.readouterr().err


def compare(*arguments: str) -> int:
    given = ["--methods", "complete_fullgrad", "input_x_gradient", "fullgrad"]
    return main(["compare", "a.png", "--model", MODEL, *given, *arguments])


def test_a_comparison_of_methods_explains_the_difference(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare("--target", "1", "--rather-than", "2") == 0
    said = capsys.readouterr().out
    model, x, logits = numbers()
    found = json.loads(Path("comparison.json").read_text())
    (row,) = found["rows"]
    target, other = row["target"], row["target"]["rather_than"]
    assert (target["index"], other["index"]) == (1, 2)
    margin = float(logits[1] - logits[2])
    assert other["margin"] == pytest.approx(margin, rel=1e-4)
    assert target["logit"] == pytest.approx(float(logits[1]), rel=1e-4)
    words = f"[1] rather than {other['name'] or 'class 2'} [2], probability "
    assert words in said
    assert f", logits {target['logit']:.4g} - {other['logit']:.4g} = {other['margin']:.4g}" in said
    assert "Every map explains the margin at its left" in found["rule"]
    assert found["options"]["rather_than"] == "2"
    assert "--rather-than 2" in found["command"]
    contrast = fullgrad.targets.margin(1, 2)
    for cell in row["maps"]:
        wanted = fullgrad.methods.attribute(cell["method"], model, x, contrast)
        assert cell["most"] == pytest.approx(float(wanted.max()), rel=1e-3)
        assert cell["least"] == pytest.approx(float(wanted.min()), rel=1e-3, abs=1e-6)
    assert read_record(Path("comparison.json").read_bytes(), "c").rows[0].target.rather_than

    assert main(["report", ".", "--out", "report.html"]) == 0
    page = Path("report.html").read_text()
    assert escape(f"{target['name']} rather than {other['name']}") in page
    assert "other logit" in page
    assert "margin: the first less the second, whose gradient the methods take" in page


def test_a_comparison_of_methods_for_a_class_and_itself(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare("--target", "1", "--rather-than", "1") == 2
    assert "--target and --rather-than are the same class: 1" in capsys.readouterr().err
    _, _, logits = numbers()
    assert compare("--rather-than", str(int(logits.argmax()))) == 1
    assert "itself, so there is nothing to compare it with" in capsys.readouterr().err
    assert not Path("comparison.png").exists()
    assert compare("--rather-than", str(int(logits.argmin()))) == 0
    (row,) = json.loads(Path("comparison.json").read_text())["rows"]
    assert row["target"]["chosen"] == "predicted"
    assert row["target"]["rather_than"]["margin"] > 0


def test_the_sheet_names_both_classes(here: Path) -> None:
    found = compare_methods(load_model(MODEL), ["a.png"], ["sobel"], target=1, rather_than=2)
    (row,) = found.rows
    assert row.subject == f"{row.label} rather than {row.rather_than.label}"
    said = [text.get_text() for text in found.figure().texts]
    together = " ".join(" ".join(said).split())
    assert row.subject in together
    assert f"margin {row.rather_than.margin:.3g}" in together
    assert "less that of the class after 'rather than'" in together
    (plain,) = compare_methods(load_model(MODEL), ["a.png"], ["sobel"], target=1).rows
    assert plain.subject == plain.label


def test_in_python(here: Path) -> None:
    model = load_model(MODEL)
    (found,) = explain_images(model, ["a.png"], target=1, rather_than=0, parts=())
    _, _, logits = numbers()
    assert found.explained == found.rather_than.margin
    assert found.explained == pytest.approx(float(logits[1] - logits[0]), rel=1e-5)
    assert found.rather_than.label == (found.rather_than.name or "class 0")
    (plain,) = explain_images(model, ["a.png"], target=1, parts=())
    assert plain.explained == plain.logit
    assert plain.rather_than is None
    for other, message in ((9, "target 9 is out of range"), (1, "to explain is 1 itself")):
        with pytest.raises(fullgrad.errors.TargetError, match=message):
            explain_images(model, ["a.png"], target=1, rather_than=other, parts=())

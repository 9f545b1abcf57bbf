"""``evaluate``: images and models that are unusual, or that it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from evaluating import NET, write_images
from fullgrad.cli.main import main
from fullgrad.evaluation.bench import prepared
from fullgrad.vision.images import input_of, read_photograph
from fullgrad.vision.models import load_model

MORE = """
def value():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 1))

def dense():
    return nn.Conv2d(3, 3, 3, padding=1)
"""
METHODS = ("input_gradient", "sobel")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET + MORE)
    write_images(Path("photos"), 3)
    return tmp_path


def given(*more: str, model: str = "make_model", images: str = "photos") -> list[str]:
    words = ["evaluate", "--model", f"net.py:{model}", "--images", images, "--out", "out"]
    return [*words, "--tests", "class-sensitivity", "--methods", *METHODS, *more]


def test_an_array_is_what_explain_takes(here: Path) -> None:
    values = np.random.default_rng(0).normal(3, 5, (3, 16, 16)).astype(np.float32)
    np.save("a.npy", values)
    Path("list.csv").write_text("file\na.npy\nphotos/000.png\n")
    preprocessing = load_model("net.py:make_model").preprocessing
    wanted = torch.stack(
        [input_of(read_photograph(p), preprocessing) for p in ("a.npy", "photos/000.png")]
    )
    options = {"images": "list.csv", "methods": METHODS}
    evaluate = prepared("evaluate", model=("net.py:make_model",), **options)
    assert torch.equal(evaluate.subjects[0].inputs((0, 1)), wanted)  # type: ignore[attr-defined]
    pixels = prepared("pixel-perturbation", model="net.py:make_model", **options)
    assert torch.equal(pixels.batch(0, 2).x, wanted)  # type: ignore[attr-defined]
    assert main(given(images="list.csv")) == 0
    assert set(pd.read_csv("out/results.csv")["case"]) == {"a.npy", "photos/000.png"}


def test_one_image_gives_a_page(here: Path) -> None:
    assert main(given("--limit", "1")) == 0
    page = Path("out/report.html").read_text()
    assert "no interval" in page
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", page))


def test_a_broken_image_is_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/broken.png").write_bytes(b"no image")
    for again in ("", "finished before"):
        assert main(given()) == 1
        said = capsys.readouterr().out
        assert "excluded: broken.png: " in said
        assert again in said
    record = json.loads(Path("out/record.json").read_text())
    assert record["plan"]["count"] == 3
    assert Path("out/report.html").is_file()


def test_usual_weights_are_a_dash(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(load_model("net.py:make_model").module.state_dict(), "w.pt")
    both = ["--model", "net.py:make_model", "net.py:Odd", "--weights"]
    assert main([*given(), *both, "w.pt", "-"]) == 0
    models = json.loads(Path("out/record.json").read_text())["plan"]["models"]
    assert [m["weights"] for m in models] == ["checkpoint w.pt", "as Odd set them"]
    assert main([*given(), *both, "w.pt"]) == 2
    assert "give one for each, '-' for a model's usual ones" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (given(model="value"), "net.py:value returns one number for each image, and evaluate"),
        (given(model="dense"), "not (1, classes); give a --model file.py:FUNCTION that returns it"),
        (
            ["bench", "pixel-perturbation", *given(model="dense")[1:7]],
            "not (1, classes); give a --model file.py:FUNCTION that returns it",
        ),
        (given(images="twice.csv"), "lines 2 and 4 of twice.csv name the same file, ./photos/000"),
        (given(images="deep.csv"), "deep.npy has 5 channels (5 channels of float64), and the"),
    ],
)
def test_what_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    lines = ("photos/000.png,0", "photos/001.png,0", "./photos/000.png,1")
    Path("twice.csv").write_text("\n".join(["file,class_index", *lines]))
    np.save("deep.npy", np.zeros((5, 16, 16)))
    Path("deep.csv").write_text("file\ndeep.npy\n")
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "--target" not in said
    assert not Path("out").exists()

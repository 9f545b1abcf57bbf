"""Any target on the command line: words, numbers, records, sheets, reports and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fullgrad
from fullgrad.cli.main import main
from fullgrad.targets import margin, neuron, region, several_classes
from fullgrad.vision.images import preprocess, read_image
from fullgrad.vision.models import load_model
from fullgrad.vision.schema import RecordError, read_record

SOURCE = """
import torch
from torch import nn

PREPROCESSING = {"resize": 20, "crop": [16, 16], "interpolation": "bilinear", "mean": [0.5] * 3,
                 "std": [0.5] * 3}
CLASSES = ["road", "sky", "tree"]

def body(*more):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Conv2d(4, 3, 3, padding=1), *more)

def dense():
    return body()

def classifier():
    return body(nn.AdaptiveAvgPool2d(1), nn.Flatten())

def price():
    return body(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1))

def gray():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""
METHOD = '''
def size(model, inputs, target, power: float = 1.0):
    """The size of the input's numbers."""
    return inputs.abs() ** power

number = 3
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(SOURCE)
    Path("mine.py").write_text(METHOD)
    pixels = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("a.png")
    mask = np.zeros((20, 20), np.uint8)
    mask[4:10, 6:14] = 255
    Image.fromarray(mask).save("mask.png")
    return tmp_path


def explain(make: str, target: str, *more: str) -> int:
    given = ["--target", target] if target else []
    return main(["explain", "a.png", "--model", f"own.py:{make}", *given, *more, "--out", "out"])


def mask() -> torch.Tensor:
    """The picture, cropped as the model sees it."""
    return torch.from_numpy(np.array(read_image("mask.png"))[2:18, 2:18, 0] > 127)


CASES = {
    "region:road:mask.png": ("dense", lambda: region(0, mask(), fit=True), "road in 48 of 256"),
    "region:sky:mask.png - region:road:mask.png": (
        "dense",
        lambda: margin(region(1, mask(), fit=True), region(0, mask(), fit=True)),
        "sky in 48 of 256 positions rather than road in 48 of 256 positions",
    ),
    "neuron:0:1,2,3": ("dense", lambda: neuron("0", (1, 2, 3)), "neuron (1, 2, 3) of 0"),
    "0,3,4": ("dense", lambda: (0, 3, 4), "output (0, 3, 4)"),
    "road + tree": ("classifier", lambda: several_classes([0, 2]), "road + tree"),
    "value:0:EUR": ("price", lambda: 0, "output 0 in EUR"),
}


@pytest.mark.parametrize("text", CASES)
def test_explain(here: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    make, target, words = CASES[text]
    assert explain(make, text, "--layers") == 0
    out, err = capsys.readouterr()
    assert f"explained: {words}" in out and err == ""
    assert out.endswith("\n1 of 1 done -> out\n")
    model = load_model(f"own.py:{make}")
    x = preprocess(read_image("a.png"), model.preprocessing)[None]
    wanted = fullgrad.methods.attribute(fullgrad.methods.RECOMMENDED, model.module, x, target())
    np.testing.assert_allclose(np.load("out/a.saliency.npy"), wanted[0, 0], rtol=1e-4, atol=1e-6)
    record: Any = read_record(Path("out/a.json").read_bytes(), "a.json")
    number = float(fullgrad.decompose(model.module, x, target()).output[0])
    assert record.target.logit == pytest.approx(number, rel=1e-5, abs=1e-7)
    assert record.target.index is None and record.target.probability is None
    assert record.target.described.startswith(words)
    assert bool(record.top) == (make == "classifier")
    total = sum(s.sum for s in record.decomposition.shares) + record.decomposition.residual
    assert total == pytest.approx(number, rel=1e-5, abs=1e-7)
    if make == "classifier":
        assert main(["report", "out", "--out", "r.html"]) == 0
        page = Path("r.html").read_text()
        assert "which was asked for. It is " in page and "Where the output comes from" in page
        assert words in page


def test_a_margin_is_that_of_rather_than(here: Path) -> None:
    assert explain("classifier", "road - sky") == 0
    record = json.loads(Path("out/a.json").read_text())["target"]
    assert (record["index"], record["rather_than"]["index"]) == (0, 1)
    assert "described" not in record


def test_a_record_has_a_class_or_words(here: Path) -> None:
    assert explain("classifier", "road") == 0
    values = json.loads(Path("out/a.json").read_text())
    values["target"]["described"] = "road"
    with pytest.raises(RecordError, match="a target is a class, or it is described"):
        read_record(json.dumps(values).encode(), "a.json")


def test_compare_check_and_own_methods(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model", "own.py:dense", "--target", "region:road:mask.png"]
    methods = ["fullgrad", "complete_fullgrad", "mine.py:size:power=2.0", "mine.py:size"]
    assert main(["compare", "a.png", *given, "--methods", *methods]) == 0
    assert "a.png: road in 48 of 256 positions, output " in capsys.readouterr().out
    record: Any = read_record(Path("comparison.json").read_bytes(), "c")
    assert [m.label for m in record.methods] == methods
    assert record.methods[2].about == "The size of the input's numbers."
    assert record.rule.endswith("Every map explains the number at its left, which was asked for.")
    assert main(["report", ".", "--out", "r.html"]) == 0
    assert "road in 48 of 256 positions" in Path("r.html").read_text()
    capsys.readouterr()
    assert main(["check", "own.py:dense", "--target", "region:road"]) == 0
    assert "explained  f = road where it is predicted\n" in capsys.readouterr().out
    assert explain("classifier", "", "--method", "mine.py:size", "--option", "power=3") == 0
    saved = json.loads(Path("out/a.json").read_text())["saliency"]
    assert (saved["method"], saved["options"]) == ("mine.py:size", {"power": 3})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["dense", ""],
            "not (1, classes); name what to explain in it with --target, such as 'regio",
        ),
        (["price", ""], "returns one number for each image, and no classes: explain it with --tar"),
        (["dense", "region:rod"], "no class is named 'rod'; did you mean 'road'?"),
        (["dense", "region:0:no.png"], "no.png does not exist"),
        (["classifier", "similar:no.png"], "no.png does not exist"),
        (
            ["classifier", "log:sky", "--rather-than", "0"],
            "--rather-than compares one class with an",
        ),
        (["dense", "region:0", "--check"], "--check needs classes' outputs, but cla"),
        (
            ["classifier", "road", "--method", "gradcam"],
            "did you mean 'grad_cam'? known: fullgrad,",
        ),
        (["classifier", "road", "--method", "no.py:f"], "the Python file no.py does not exist"),
        (["classifier", "road", "--method", "mine.py:g"], "mine.py has no function 'g'"),
        (["classifier", "road", "--method", "mine.py:number"], "is int, not a function (model, in"),
        (
            ["classifier", "road", "--weights", "none", "--checkpoint", "x"],
            "are the same option: g",
        ),
        (["classifier", "road", "--size", "3y"], "'3y' is not a size: give N or HxW"),
        (["gray", "0"], "first convolution takes 1 channel, and the input has 3: give --mean and"),
    ],
)
def test_mistakes(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert explain(*arguments) == 2
    err = capsys.readouterr().err
    assert message in err and len([x for x in err.splitlines() if "note:" not in x]) == 1
    assert not Path("out").exists()


def test_a_mask_that_marks_nothing_where_the_model_looks(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (20, 20)).save("black.png")
    assert explain("dense", "region:0:black.png") == 2
    assert "the mask black.png has no white part where the model looks" in capsys.readouterr().err


def test_names_and_files_are_looked_at_before_a_model_is_loaded(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("fullgrad.cli.arguments.load_model", load)
    for arguments, message in (
        (["a.png", "--target", "tabby cat"], "no class is named 'tabby cat'; did you mean 'tabby'"),
        (["no.png"], "no.png does not exist"),
        (["no.png", "none.png"], "no.png, none.png do not exist"),
        (["a.png", "--method", "gradcam"], "did you mean 'grad_cam'?"),
        (["a.png", "--labels", "no.txt"], "the labels file no.txt cannot be read"),
        (["a.png", "--rather-than", "tabbi"], "did you mean 'tabby'"),
        (["a.png", "--model", "own.py:dense", "--target", "region:0:no.png"], "no.png does not ex"),
    ):
        assert main(["explain", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_what_is_stated_of_a_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And class names from class folders; one line at the end."""
    for name in ("data/dog/b.png", "data/cat/a.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), "gray").save(name)
    Path("data/cat/broken.png").write_bytes(b"none")
    stated = ["--mean", "0.5", "--std", "0.25", "--size", "12", "--interpolation", "bicubic"]
    given = ["--model", "own.py:gray", *stated, "--target", "dog"]
    Path("own.py").write_text(SOURCE.replace("CLASSES", "NAMES"))
    assert main(["explain", "data", *given, "--out", "out"]) == 1
    out, err = capsys.readouterr()
    assert "class names are assumed to be those of the folders: cat, dog" in err
    assert "data/dog/b.png: dog [1], probability" in out
    assert out.endswith("2 of 3 done, 1 failed -> out\n")
    model = json.loads(Path("out/dog/b.json").read_text())["model"]
    assert model["preprocessing"]["crop"] == [12, 12]
    assert model["preprocessing"]["mean"] == [0.5]
    assert model["assumed"] == []
    Path("own.py").write_text(SOURCE.replace("PREPROCESSING", "OTHER"))
    assert main(["explain", "a.png", "--model", "own.py:classifier", "--out", "out"]) == 0
    assert "fullgrad: note: assumed for own.py ImageNet's preproc" in capsys.readouterr().err
    assumed = json.loads(Path("out/a.json").read_text())["model"]["assumed"]
    assert assumed[0].startswith("assumed for own.py ImageNet's preprocessing")
    assert main(["report", "out/a.json", "--out", "r.html"]) == 0
    assert "what nobody stated of the model, and was taken" in Path("r.html").read_text()

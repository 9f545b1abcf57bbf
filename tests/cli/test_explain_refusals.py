"""What ``fullgrad explain``, ``compare`` and ``demo`` refuse before they do anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullgrad.cli.main import main

SOURCE = """
from torch import nn
PREPROCESSING = {"resize": 16, "crop": [16, 16], "interpolation": "bilinear",
    "mean": [0.5] * 3, "std": [0.25] * 3}
CLASSES = ["1", "2", "3"]
def make_model():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3))
"""
MODEL = ["--model", "net.py:make_model"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(SOURCE)
    pixels = np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("a.png")
    return tmp_path


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (["explain", ""], "IMAGE: the path is empty; '.' is the current folder"),
        (["explain", "a.png", "--out", ""], "--out: the path is empty"),
        (["compare", "a.png", "--out", ""], "--out: the path is empty"),
        (["demo", "--out", ""], "--out: the path is empty"),
        (["explain", "a.png", "--check", "--quiet"], "--check only prints, which --quiet forbids"),
        (["explain", "a.png", "--option", "n=1", "--option", "n=2"], "--option n is given twice"),
        (
            ["explain", "a.png", "--psi", "layer", "--option", "psi=channel"],
            "--psi and --option psi are the same",
        ),
        (["compare", "a.png", "--methods", "fullgrad:psi=channel,psi=layer"], "gives psi twice"),
        (["explain", "x" * 300 + ".png"], "x.png does not exist"),
        (
            ["explain", "a.png", *MODEL, "--target", "2"],
            "the target '2' is the name of class 1 and the index of class 2, which is named '3': "
            "give the index as 01 for the first, as 02 for the second",
        ),
    ],
)
def test_mistakes_are_told(
    here: Path, capsys: pytest.CaptureFixture[str], call: list[str], told: str
) -> None:
    try:
        code = main(call)
    except SystemExit as error:  # of argparse
        code = int(str(error.code))
    said = capsys.readouterr().err
    assert code == 2
    assert told in said
    assert {p.name for p in here.iterdir()} == {"net.py", "a.png"} | {
        p.name for p in here.glob("__pycache__")
    }


@pytest.mark.parametrize(("target", "index"), [("01", 1), ("02", 2), ("3", 2), ("0", 0)])
def test_a_class_whose_name_is_a_number(
    here: Path, capsys: pytest.CaptureFixture[str], target: str, index: int
) -> None:
    assert main(["explain", "a.png", *MODEL, "--no-overlay", "--target", target]) == 0
    assert f"explained: {index + 1} [{index}]" in capsys.readouterr().out


def test_one_path_that_is_too_long_among_others(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "a.png", "x" * 300, *MODEL, "--no-overlay"]) == 1
    out, err = capsys.readouterr()
    assert "xxx cannot be read: File name too long" in err
    assert "1 of 2 done, 1 failed" in out


def test_a_picture_that_is_no_sheet_is_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["compare", "a.png", *MODEL, "--methods", "input_gradient"]
    sheet = Path("comparison.png")
    sheet.write_bytes(b"mine")
    assert main(call) == 2
    assert "comparison.png is no sheet of fullgrad" in capsys.readouterr().err
    assert sheet.read_bytes() == b"mine"
    sheet.unlink()
    assert main(call) == 0
    assert main([*call, "random"]) == 0, "its own sheet"
    sheet.write_bytes(sheet.read_bytes() + b"drawn on")
    assert main(call) == 2


@pytest.mark.parametrize("name", ["cat.png", "contact-sheet.png", "cat.json"])
def test_the_demo_replaces_its_own_files_only(
    here: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    pytest.importorskip("skimage.data")
    Path("dd").mkdir()
    Path("dd", name).write_bytes(b"mine")
    assert main(["demo", "--out", "dd", *MODEL]) == 2
    said = capsys.readouterr().err
    assert f"{Path('dd', name)} is there already and not from fullgrad demo: name another" in said
    assert [p.read_bytes() for p in Path("dd").iterdir()] == [b"mine"]


def test_the_demo_again(here: Path) -> None:
    pytest.importorskip("skimage.data")
    assert main(["demo", "--out", "dd", *MODEL]) == 0
    assert main(["demo", "--out", "dd", *MODEL]) == 0

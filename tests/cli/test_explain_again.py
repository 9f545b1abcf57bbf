"""``fullgrad explain`` on several photographs and on those that were explained before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullgrad.cli.main import main
from fullgrad.vision.schema import ImageRecord, read_record

SOURCE = """
import torch
from torch import nn
PREPROCESSING = {"resize": 16, "crop": [16, 16], "interpolation": "bilinear",
    "mean": [0.5] * 3, "std": [0.25] * 3}
CLASSES = ["cat", "dog", "horse"]
def made(outputs):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, outputs))
def make_model():
    return made(3)
def value():
    return made(1)
def dense():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
"""


def picture(path: str, seed: int) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small model and two photographs."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(SOURCE)
    picture("a.png", 0)
    picture("b.png", 1)
    return tmp_path


@pytest.mark.parametrize(
    ("model", "target"),
    [
        ("value", "value:0"),
        ("make_model", "log:cat"),
        ("make_model", "cat + dog"),
        ("dense", "region:1"),
    ],
)
def test_several_photographs_of_a_target_without_a_probability(
    here: Path, capsys: pytest.CaptureFixture[str], model: str, target: str
) -> None:
    call = ["explain", "a.png", "b.png", "--model", f"net.py:{model}", "--target", target]
    assert main([*call, "--no-overlay"]) == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("a.png: ") and second.startswith("b.png: ")
    assert ", probability " not in first
    assert last == "2 of 2 done -> fullgrad-output"


METHOD = """
def size(model, inputs, target):
    return inputs.abs() * 1.0
"""


def change_labels() -> list[str]:
    text = "one\ntwo\nthree\n" if not Path("names.txt").exists() else "one\ntwo\nfour\n"
    Path("names.txt").write_text(text)
    return ["--labels", "names.txt"]


def change_method() -> list[str]:
    old = Path("mine.py")
    old.write_text(METHOD if not old.exists() else METHOD.replace("1.0", "2.0"))
    return ["--method", "mine.py:size"]


def change_mask() -> list[str]:
    shown = (0, 0, 12, 20) if not Path("mask.png").exists() else (12, 0, 24, 20)
    mask = Image.new("L", (24, 20), 0)
    mask.paste(255, shown)
    mask.save("mask.png")
    return ["--model", "net.py:dense", "--target", "region:1:mask.png"]


def change_reference() -> list[str]:
    picture("reference.png", 5 + Path("reference.png").exists())
    return ["--target", "similar:reference.png"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (change_labels, "class names "),
        (change_method, "content of mine.py:size "),
        (change_mask, "content of mask.png "),
        (change_reference, "content of reference.png "),
    ],
    ids=["labels", "method", "mask", "reference"],
)
def test_changed_content_of_a_file_that_an_option_names_is_another_setting(
    here: Path, capsys: pytest.CaptureFixture[str], change: Callable[[], list[str]], told: str
) -> None:
    call = ["explain", "a.png", "--model", "net.py:make_model", "--no-overlay", "--out", "o"]
    call += change()
    assert main(call) == 0
    assert main(call) == 0
    assert "1 of them before, with the same settings" in capsys.readouterr().out
    change()
    assert main(call) == 2
    message = capsys.readouterr().err
    assert "with other settings" in message and told in message
    assert main([*call, "--replace"]) == 0
    assert main(call) == 0


def test_a_relative_path_in_another_folder_is_another_photograph(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture("w1/p.png", 3)
    picture("w2/p.png", 4)
    call = ["--model", str(here / "net.py:make_model"), "--no-overlay", "--out", str(here / "o")]
    monkeypatch.chdir("w1")
    assert main(["explain", "p.png", *call]) == 0
    monkeypatch.chdir("../w2")
    assert main(["explain", "p.png", *call]) == 2
    assert "is the result of another photograph, p.png" in capsys.readouterr().err
    text = (here / "o/p.json").read_text()
    record = read_record(text.encode(), "p.json")
    assert isinstance(record, ImageRecord) and record.image.path == "p.png"
    monkeypatch.chdir(here)
    picture("w1/p.png", 6)  # edited, and named from elsewhere
    assert main(["explain", "w1/p.png", *call]) == 0


def test_an_edited_photograph_is_explained_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture("w/p.png", 3)
    call = ["--model", str(here / "net.py:make_model"), "--no-overlay", "--out", str(here / "o")]
    assert main(["explain", "w/p.png", *call]) == 0
    for seed, (folder, path) in enumerate(
        [(".", "w/p.png"), ("w", "p.png"), ("w", str(here / "w/p.png")), (".", "./w/../w/p.png")]
    ):
        picture(str(here / "w/p.png"), 10 + seed)
        monkeypatch.chdir(here / folder)
        assert main(["explain", path, *call]) == 0, (folder, path)


def test_pictures_of_an_earlier_result_do_not_outlast_it(here: Path) -> None:
    call = ["explain", "a.png", "--model", "net.py:make_model", "--out", "o"]
    assert main([*call, "--target", "cat", "--layers"]) == 0
    names = {".json", ".overlay.png", ".saliency.npy", ".layers.npz"}
    assert {p.name.removeprefix("a") for p in Path("o").iterdir()} == names
    assert main([*call, "--target", "dog", "--no-overlay", "--replace"]) == 0
    assert {p.name for p in Path("o").iterdir()} == {"a.json", "a.saliency.npy"}

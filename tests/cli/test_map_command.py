"""``fullgrad map``: what it prints, its exit codes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fullgrad
from fullgrad.cli.main import main

NET = """
from torch import nn

PREPROCESSING = {"resize": 8, "crop": [8, 8], "interpolation": "bilinear",
    "mean": [0.5] * 3, "std": [0.25] * 3}
CLASSES = ["cat", "dog", "cow"]

def make_model():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), "uint8")
        path = tmp_path / "photos" / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


BASE = ["map", "photos", "--model", "net.py:make_model", "--workers", "0", "--out", "maps"]


def test_a_run_from_beginning_to_end(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BASE, "--unit", "2", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "5 samples in 3 units, 0 of them done\ncombined_fullgrad maps of 8 x 8, float16" in said
    assert "left: 5 maps, about " in said and not (here / "maps").exists()
    assert main([*BASE, "--unit", "2"]) == 0
    out, err = capsys.readouterr()
    assert "3 of 3 units are in maps (plan " in out and "), 0 rows without a map\n" in out
    assert "this run: 3 units, 5 rows, 0 of them without a map" in out
    assert err.endswith("left\n") and "5 of 5 maps" in err
    assert main([*BASE, "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert "this run: 0 units" in out and err == ""
    assert main([*BASE, "--dry-run"]) == 0
    assert "left: 0 maps, about 0.0 s" in capsys.readouterr().out
    store = fullgrad.datasets.open("maps")
    assert store.plan.class_names == ("cat", "dog", "cow") and store.plan.model["name"]


def test_own_methods(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mine.py").write_text("def size(m, x, t, power=1.0):\n    return x.abs() ** power\n")
    line = [*BASE, "--dtype", "float32", "--method", "mine.py:size", "--option", "power=2"]
    assert main([*line, "--quiet"]) == 0
    store = fullgrad.datasets.open("maps")
    assert store.plan.method == "mine.py:size" and store.plan.options["power"] == 2
    assert bool((store.maps >= 0).all()) and float(store.maps.max()) > 0
    (here / "mine.py").write_text("def size(m, x, t, power=1.0):\n    return x ** power\n")
    capsys.readouterr()
    assert main([*line, "--quiet"]) == 2, "other code"
    assert "maps holds maps of other settings (" in capsys.readouterr().err


def test_targets_and_parts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [*BASE, "--unit", "2", "--target", "dog", "2", "--grid", "4", "4", "--dtype", "uint8"]
    assert main([*line, "--part", "1/2", "--quiet"]) == 0, "its own part is done"
    store = fullgrad.datasets.open("maps")
    assert store.done == (1,) and store.maps.shape == (4, 4, 4)
    assert store.index["target"].tolist() == [1, 2] * 2
    (here / "photos/cat/1.png").write_bytes(b"damaged")
    assert main([*line, "--quiet"]) == 2
    assert "data.digest: " in capsys.readouterr().err
    line = [*BASE[:-1], "other", "--target", "true", "--folder-classes", "--quiet"]
    assert main(line) == 1, "one photograph is damaged"
    assert main(line) == 1, "it still is, though nothing is left to do"
    store = fullgrad.datasets.open("other")
    assert store.index["target"].tolist()[1:] == [0, 1, 1, 1]
    assert store.index["error"].notna().sum() == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--part", "2/2"], "'2/2' is not I/N with I from 0 to N - 1"),
        (["--batch-size", "0"], "'0' is not a whole number of at least 1"),
        (["--workers", "x"], "'x' is not a whole number"),
        (["--ray", "auto"], "--ray belongs to --executor ray"),
        (["--target", "nosuch"], "nosuch"),
        (["--target", "predicted", "true"], "--target predicted goes alone, not with true: make a"),
        (["--target", "cat", "true"], "--target true goes alone, not with cat: make a store for"),
        (["--tokens", "7"], "no texts are explained here: leave it out"),
        (["--check", "--dry-run"], "--check computes damaged units again, --dry-run nothing: "),
        (["--executor", "torchrun"], "needs RANK and WORLD_SIZE"),
        (["--grid", "9", "9"], "a map of 8 x 8 cannot be pooled to a grid of 9 x 9"),
    ],
    ids=[
        *["part", "batch", "workers", "ray", "target", "predicted", "true", "tokens", "check"],
        *["torchrun", "grid"],
    ],
)
def test_mistakes(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], text: str
) -> None:
    assert main([*BASE, *words]) == 2
    assert text in capsys.readouterr().err
    assert not (here / "maps").exists()


def test_no_classifier_and_no_images(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "dense.py").write_text(NET.replace("nn.Flatten(), nn.Linear(72, 3)", "nn.Identity()"))
    line = ["map", "photos", "--model", "dense.py:make_model", "--out", "maps"]
    assert main([*line, "--target", "1"]) == 2
    assert "--target needs a classifier" in capsys.readouterr().err
    (here / "none").mkdir()
    assert main([BASE[0], "none", *BASE[2:]]) == 2
    assert "the folder none holds no image files" in capsys.readouterr().err
    assert not (here / "maps").exists()

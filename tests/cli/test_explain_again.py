"""``fullgrad explain`` on several photographs and on those that were explained before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullgrad.cli.main import main

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

"""A store is refused when anything in the file of its model, method or transform changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fullgrad
from fullgrad.cli.main import main

NET = """
import numpy as np
import torch
from torch import nn

PREPROCESSING = {"resize": 8, "crop": [8, 8], "interpolation": "bilinear",
    "mean": [0.5] * 3, "std": [0.25] * 3}
FACTOR = 1

def squash(x):
    return torch.relu(x)

def scaled(x):
    return x * FACTOR

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 2, 3), nn.Linear(72, 3)

    def forward(self, x):
        return self.head(squash(self.stem(x)).flatten(1))

def make_model():
    return Net()

def size(model, x, target):
    return scaled(x.abs()).sum(1, keepdim=True)

def prepared(image):
    return scaled(torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), "uint8")
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    for name in ("net", "own"):
        (tmp_path / f"{name}.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "file", "what"),
    [
        ([], "net", "model.digest: "),
        (["--method", "own.py:size"], "own", "code: "),
        (["--transform", "own.py:prepared"], "own", "data.transform: "),
    ],
    ids=["model", "method", "transform"],
)
def test_a_helper_that_changes_makes_another_plan(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], file: str, what: str
) -> None:
    line = ["map", "photos", "--model", "net.py:make_model", "--out", "maps", "--workers", "0"]
    line += [*(["--method", "complete_fullgrad"] * ("--method" not in words)), *words]
    line += ["--unit", "2", "--quiet"]
    assert main(line) == 0
    (here / "maps/index/000001.parquet").unlink()
    assert main(line) == 0, "nothing changed"
    (here / "maps/index/000001.parquet").unlink()
    changed = NET.replace("return torch.relu", "return 3 * torch.relu").replace("= 1\n", "= 2\n")
    (here / f"{file}.py").write_text(changed)
    capsys.readouterr()
    assert main(line) == 2
    assert what in capsys.readouterr().err
    assert fullgrad.datasets.open("maps").done == (0,)

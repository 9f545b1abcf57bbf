"""A model that changed has no numbers: neither finished ones nor pieces of an interrupted run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from evaluating import write_images
from fullgrad.cli.main import main
from fullgrad.evaluation.bench import prepared
from fullgrad.vision.models import load_model
from fullgrad.vision.provenance import state_digest

NET = """
from pathlib import Path
import torch
from torch import nn

PREPROCESSING = {"resize": 16, "crop": [16, 16], "interpolation": "bilinear",
    "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}

class Shown(nn.Module):  # as some models show their settings
    def forward(self, x):
        return x

    def extra_repr(self):
        return str(object())

def make_model():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Shown(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 3))
    net.load_state_dict(torch.load(Path(__file__).with_name("w.pt")))
    return net

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
"""
PIXELS = ("bench", "pixel-perturbation", "--fractions", "0.1", "0.5")
EVALUATE = ("evaluate", "--tests", "class-sensitivity")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    write_images(Path("photos"), 3)
    trained(0)
    return tmp_path


def trained(seed: int) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Identity(), nn.Identity())
    torch.save(nn.Sequential(*net, nn.Flatten(), nn.Linear(4, 3)).state_dict(), "w.pt")


def given(words: tuple[str, ...], out: str = "out") -> list[str]:
    more = ["--model", "net.py:make_model", "--images", "photos", "--store", "kept"]
    return [*words, *more, "--methods", "input_gradient", "sobel", "--out", out]


def numbers(out: str) -> str:
    return Path(out, "results.csv").read_text()


@pytest.mark.parametrize("words", [PIXELS, EVALUATE])
def test_weights_that_the_file_loads_itself(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main(given(words)) == 0
    before = numbers("out")
    assert main(given(words)) == 0
    assert "finished before" in capsys.readouterr().out
    trained(1)
    assert main(given(words, "other")) == 0
    assert "finished before" not in capsys.readouterr().out
    assert numbers("other") != before
    code = main(given(words))
    said = capsys.readouterr()
    if words == PIXELS:
        assert code == 2
        assert "results of another run (state: " in said.err
    else:
        assert "results of other options, which these replace" in said.out
        assert numbers("out") == numbers("other")
    trained(0)
    assert main(given(words, "again")) == 0
    assert numbers("again") == before


@pytest.mark.parametrize("words", [PIXELS, EVALUATE])
def test_the_file_of_the_model(here: Path, words: tuple[str, ...]) -> None:
    assert main(given(words)) == 0
    Path("net.py").write_text(NET.replace("return x\n", "return x.sin()\n"))
    assert main(given(words, "other")) == 0
    assert numbers("other") != numbers("out")


def test_a_record_of_before_is_made_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(given(PIXELS)) == 0
    before, path = numbers("out"), Path("out/record.json")
    record = json.loads(path.read_text())
    del record["plan"]["state"]
    path.write_text(json.dumps(record | {"code": "of an older version"}))
    assert main(given(PIXELS)) == 0
    assert "holds results of other code of fullgrad" in capsys.readouterr().out
    assert numbers("out") == before
    assert len(json.loads(path.read_text())["plan"]["state"]) == 16


def test_pieces_have_the_same_names_each_time(here: Path) -> None:
    options: dict[str, Any] = {"images": "photos", "methods": ("sobel",), "batch_size": 2}
    evaluate = {**options, "tests": ("class-sensitivity",)}
    for make in ("make_model", "lazy"):
        spec = f"net.py:{make}"
        assert state_digest(load_model(spec)) == state_digest(load_model(spec))
        for name, own in (
            ("pixel-perturbation", {**options, "model": spec}),
            ("evaluate", {**evaluate, "model": (spec,)}),
        ):
            assert prepared(name, **own).units() == prepared(name, **own).units()

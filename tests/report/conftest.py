"""A folder with everything that reports are made of."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullgrad.cli.main import main
from pages import HOSTILE, SOURCE


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that reports are made of."""
    here = tmp_path_factory.mktemp("reports")
    patch = pytest.MonkeyPatch()
    patch.chdir(here)
    Path("own.py").write_text(SOURCE)
    for name, seed in (("a.png", 0), ("b.png", 1)):
        pixels = np.random.default_rng(seed).integers(0, 128, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(name)
    model = ["--model", "own.py:make_model"]
    assert main(["explain", "a.png", "b.png", "--out", "maps", *model]) == 0
    sheet = ["compare", "a.png", "b.png", *model, "--methods", "fullgrad", "sobel", "--out"]
    assert main([*sheet, "sheets/sheet.png"]) == 0
    assert main([*sheet, "sheets/drawn.svg"]) == 0
    assert main([*sheet, "sheets/paper.pdf"]) == 0
    bench = here / "bench"
    bench.mkdir()
    record = {
        "plan": {"model": "own.py", "fills": ["black"], "weights": None, "content": "<i>x</i>"},
        "excluded": [{"image": HOSTILE, "why": "no <b>image</b>"}],
        "seconds": {"maps fullgrad": 0.25},
        "versions": {"torch": "2.0", "timm": None},
        "threads": 2,
        "command": "fullgrad bench pixel-perturbation --images photos --out bench",
    }
    (bench / "plan.json").write_text(json.dumps(record["plan"]))
    (bench / "record.json").write_text(json.dumps(record))
    rows = {
        "ranking": [
            ["method", "area", "rank"],
            ["fullgrad<br>", "0.123456789", "1"],
            ["sobel", "7e-5", "2"],
        ],
        "summary": [["method", "fraction"], *([f"row {i};", "0.5"] for i in range(450))],
        "differences": [["first", "differ"], ["fullgrad", "True"]],
        "results": [["image"], ["never shown"]],
    }
    for name, table in rows.items():
        with (bench / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(table)
    Image.new("RGB", (20, 10), "red").save(bench / "curves.png")
    patch.undo()
    return here


@pytest.fixture
def here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in."""
    shutil.copytree(folder, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w"

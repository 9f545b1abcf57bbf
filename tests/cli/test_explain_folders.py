"""``fullgrad explain`` on folders: subfolders, resume, what is printed and what is written."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fullgrad._files import write_together
from fullgrad.cli.main import main
from fullgrad.report import report
from fullgrad.vision.schema import ImageRecord, read_record

SOURCE = """
from torch import nn
PREPROCESSING = {"resize": 24, "crop": [20, 20], "interpolation": "bilinear",
    "mean": [0.5] * 3, "std": [0.25] * 3}
def make_model():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
"""
NAMES = ("a", "dogs/a", "dogs/b", "dogs/old/a")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photographs in subfolders, and a small model beside it."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(SOURCE)
    for seed, name in enumerate(NAMES):
        Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 128, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{name}.png")
    return tmp_path


def own(*arguments: str) -> list[str]:
    return ["explain", "photos", *arguments, "--model", "own.py:make_model", "--out", "out"]


def records() -> dict[str, float]:
    """When each record was written, by its name."""
    found = sorted(Path("out").rglob("*.json"))
    return {f.relative_to("out").with_suffix("").as_posix(): f.stat().st_mtime_ns for f in found}


def test_results_lie_in_the_folders_of_their_photographs(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(own("--batch-size", "3")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    *lines, last = out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"photos/{n}.png" for n in NAMES]
    form = r".*: class \d \[\d\], probability \d+\.\d%, logit \S+, residual \S+e[-+]\d+"
    assert all(re.fullmatch(form, line) for line in lines)
    assert last == "4 of 4 done -> out"
    assert tuple(records()) == NAMES
    assert all(Path("out", f"{n}.overlay.png").stat().st_size > 1000 for n in NAMES)
    assert report([Path("out")]).counted == "4 explained photographs"


def test_a_second_start_explains_what_is_not_there(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(own("--no-overlay")) == 0
    assert not list(Path("out").rglob("*.overlay.png"))
    written = records()
    record = Path("out/dogs/b.json")
    record.write_bytes(record.read_bytes()[:200])  # cut off
    Path("out/a.saliency.npy").unlink()
    Image.new("RGB", (9, 9), "red").save("photos/dogs/old/a.png")  # another photograph now
    capsys.readouterr()
    assert main(own("--no-overlay", "--batch-size", "1")) == 0
    again = records()
    assert [n for n in NAMES if again[n] == written[n]] == ["dogs/a"]
    assert capsys.readouterr().out.splitlines()[-1] == (
        "4 of 4 done, 1 of them before, with the same settings -> out"
    )
    assert main(own("--no-overlay", "--quiet")) == 0
    assert (
        capsys.readouterr().out == "4 of 4 done, 4 of them before, with the same settings -> out\n"
    )
    assert records() == again
    assert main(own("--quiet")) == 0  # overlays are asked for now
    assert len(list(Path("out").rglob("*.overlay.png"))) == 4


@pytest.mark.parametrize(
    ("arguments", "difference"),
    [
        (["--option", "steps=1"], 'option [], now ["steps=1"]'),
        (["--target", "1"], 'target null, now "1"'),
        (
            ["--layers", "--target", "1", "--cell", "8", "--option", "steps=1"],
            'cell 16, now 8, target null, now "1", layers false, now true, and 1 more): add',
        ),
        ([], "model state "),
    ],
    ids=["psi", "target", "many", "model"],
)
def test_other_settings_are_refused_or_replaced(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], difference: str
) -> None:
    assert main(own("--quiet")) == 0
    if not arguments:
        Path("own.py").write_text(SOURCE.replace("GELU", "Tanh"))
    written = records()
    capsys.readouterr()
    assert main(own("--quiet", *arguments)) == 2
    message = capsys.readouterr().err
    assert "out holds results of 4 of these photographs with other settings" in message
    assert difference in message
    assert "add --replace to replace them, or name another folder with --out" in message
    assert records() == written
    assert main(own("--quiet", *arguments, "--replace")) == 0
    assert all(records()[name] != written[name] for name in NAMES)
    assert main([*own("--quiet", *arguments), "--out", "other"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 of 4 done -> other"


def test_results_of_another_photograph_are_refused_or_replaced(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = own("--quiet"), own("--quiet")
    first[1], second[1] = "photos/a.png", "photos/dogs/a.png"
    assert main(first) == 0
    written = records()
    capsys.readouterr()
    assert main(second) == 2
    message = capsys.readouterr().err
    assert (
        f"{Path('out/a')} is the result of another photograph, {Path('photos/a.png')}:" in message
    )
    assert "add --replace to replace it, or name another folder with --out" in message
    assert records() == written
    assert main([*second, "--out", "other"]) == 0
    assert main([*second, "--replace"]) == 0
    assert json.loads(Path("out/a.json").read_text())["image"]["path"] == "photos/dogs/a.png"


def test_failures_are_counted_at_the_end(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/broken.png").write_bytes(b"no image")
    assert main(own("--quiet")) == 1
    out, err = capsys.readouterr()
    assert out == "4 of 5 done, 1 failed -> out\n"
    assert "fullgrad: error: photos/broken.png is not an image of a known format" in err
    assert "photographs 0/5" in err  # progress


def test_records_on_standard_output(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/broken.png").write_bytes(b"no image")
    assert main(own("--json")) == 1
    out, err = capsys.readouterr()
    found = [read_record(line.encode(), "line") for line in out.splitlines()]
    assert [r.image.path for r in found if isinstance(r, ImageRecord)] == [
        f"photos/{n}.png" for n in NAMES
    ]
    assert json.loads(out.splitlines()[0]) == json.loads(Path("out/a.json").read_text())
    assert err.splitlines()[-1] == "4 of 5 done, 1 failed -> out"
    assert "photos/dogs/a.png: class " in err
    Path("out/a.json").unlink()
    assert main(own("--json", "--quiet")) == 1
    out, _ = capsys.readouterr()
    assert len(out.splitlines()) == 4  # of those that were there before, too


def test_a_check_is_made_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(own("--check")) == 0
        *lines, last = capsys.readouterr().out.splitlines()
        assert all("cells" in line for line in lines)
        assert last == "4 of 4 done -> out"


def test_a_folder_that_cannot_be_listed(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = os.scandir

    def scandir(place: str) -> Any:
        if place.endswith("dogs"):
            raise PermissionError(13, "Permission denied", place)
        return listed(place)

    monkeypatch.setattr(os, "scandir", scandir)
    assert main(own()) == 2
    assert "photos/dogs cannot be listed: Permission denied" in capsys.readouterr().err


def test_write_together_is_all_or_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_together(tmp_path, {"a": b"1", "missing/b": b"2"})
    assert list(tmp_path.iterdir()) == []
    assert write_together(tmp_path, {"a": b"1", "b": b"2"}) == [tmp_path / "a", tmp_path / "b"]


@pytest.mark.parametrize(
    "content",
    [
        '{"boxes": [1, 2]}',
        "[1]",
        '{"kind": "fullgrad check"}',
        "my notes",
        "{1}\n{2}",
        '{"kind": "fullgrad check", ',
    ],
)
def test_a_file_of_something_else_is_replaced_only_if_asked(
    here: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    beside = Path("photos/dogs/a.json")
    beside.write_text(content)
    command = [*own()[:-1], "photos"]
    assert main(command) == 2
    assert "photos/dogs/a.json is no result of fullgrad" in capsys.readouterr().err
    assert beside.read_text() == content
    assert not Path("photos/a.json").exists()
    assert main([*command, "--replace"]) == 0
    assert isinstance(read_record(beside.read_bytes(), "a.json"), ImageRecord)

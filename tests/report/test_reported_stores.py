"""Targets of every kind on the page of a store, stores in subfolders, and the order of samples."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import stored_images
import stored_maps
from fullgrad import datasets
from fullgrad.cli.main import main
from fullgrad.datasets.analysis.choice import Choice
from fullgrad.errors import UsageError
from fullgrad.report import report


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a store ``maps`` of the images in ``data``."""
    monkeypatch.chdir(tmp_path)
    stored_images.write(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (1, "dog"),
        (2, "class 2"),
        ([0, 1], "classes cat, dog"),
        ({"a": 1, "b": 0}, r"a class of its own for each sample \(2 given\)"),
        ({"": "Margin 0123", "over": 3}, "a function of the output, Margin"),
        ({"partial": ["f", [], {}]}, "a function of the output"),
        ("predicted", "the predicted class"),
    ],
)
def test_every_target_is_told(stores: Path, target: Any, text: str) -> None:
    plan = stored_maps.replace(datasets.open("maps").plan, target=target)
    stored_maps.write(Path("other"), plan)
    html = report([Path("other")]).html
    assert re.search(f">explained</dt><dd[^>]*>{text}<", html) or re.search(
        f"explained.{{0,40}}>{text}<", html
    )


@pytest.mark.parametrize("inside", ["store", "deep/store"])
def test_a_store_in_a_subfolder_is_named(
    stores: Path, capsys: pytest.CaptureFixture[str], inside: str
) -> None:
    Path("mixed/deep").mkdir(parents=True)
    shutil.move("maps", f"mixed/{inside}")
    assert main(["report", "mixed", "--out", "page.html"]) == 2
    err = capsys.readouterr().err
    assert f"mixed/{inside} is a store of maps" in err and "is not finished" not in err
    assert f"fullgrad report mixed/{inside}" in err


def test_what_is_beside_a_store_is_shown(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "maps", tmp_path / "mixed")
    stored_images.write(tmp_path)
    shutil.move(tmp_path / "maps", tmp_path / "mixed/store")
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "mixed"), "--out", str(page)]) == 1
    assert "2 explained photographs" in capsys.readouterr().out
    assert "mixed/store is a store of maps, which is shown where it is named" in page.read_text()


def test_a_minus_turns_the_order_around(stores: Path) -> None:
    assert main(["report", "maps", "--sort=-probability", "--out", "page.html"]) == 0
    assert "ordered by probability, largest first" in Path("page.html").read_text()


def test_a_name_that_several_classes_bear_is_no_filter(stores: Path) -> None:
    index = datasets.open("maps").index
    names = ["crane", "dog", "Crane"]
    with pytest.raises(UsageError, match=r"several classes have the name 'crane': .* 0, 2"):
        Choice.parse(["target = crane"]).rows(index, names)
    wanted = index[index["target"] == 1]
    assert len(Choice.parse(["target = dog"]).rows(index, names)) == len(wanted)

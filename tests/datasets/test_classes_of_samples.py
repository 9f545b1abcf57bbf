"""Folders' names, labels and names of classes mean the classes that the model knows by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fullgrad import datasets
from fullgrad.datasets.analysis.pictures import Pictures
from fullgrad.datasets.sources import open_samples
from fullgrad.errors import UsageError
from fullgrad.evaluation.sources import DataError
from mapped import Data, Net


def photos(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), "uint8")).save(folder / name / "a.png")
    return folder


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize(
    ("folders", "names", "labels"),
    [
        (("cat", "dog", "horse"), ["dog", "cat", "horse"], [1, 0, 2]),
        (("Cat", "dog"), ["dog", "cat", "horse"], [1, 0]),
        (("0", "2"), ["a", "b", "c"], [0, 2]),
        (("3", "7"), ["7", "3"], [1, 0]),
        (("cat", "dog", "horse"), None, [0, 1, 2]),
        (("n01440764", "n01443537"), ["tench", "goldfish"], [0, 1]),
    ],
    ids=["order", "case", "numbers", "names that are numbers", "no names", "imagenet"],
)
def test_a_folders_name_is_the_models_class(
    tmp_path: Path, folders: tuple[str, ...], names: Any, labels: list[int]
) -> None:
    found = open_samples(photos(tmp_path, *folders), labels="folder", class_names=names)
    assert [found.read(i)[1] for i in range(len(found))] == labels


@pytest.mark.parametrize(
    ("folders", "names", "text"),
    [
        (("bird", "cat"), ["dog", "cat"], r"no class is named 'bird'.*: rename the folder to a"),
        (
            ("crane", "dog"),
            ["crane", "dog", "crane"],
            r"several classes are named 'crane': .* 0, 2",
        ),
        (("n01440764",), ["tench", "goldfish"], "no class is named 'n01440764'"),
    ],
    ids=["unknown", "several", "part of imagenet"],
)
def test_a_folder_of_no_class_is_refused(
    tmp_path: Path, folders: tuple[str, ...], names: list[str], text: str
) -> None:
    with pytest.raises(DataError, match=f"a folder's name is its class, but {text}"):
        open_samples(photos(tmp_path, *folders), labels="folder", class_names=names)


def test_a_store_keeps_the_models_classes_and_finds_its_pictures(tmp_path: Path) -> None:
    data = photos(tmp_path / "data", "cat", "dog", "horse")
    names = ["dog", "cat", "horse"]
    how: dict[str, Any] = {"method": "complete_fullgrad", "transform": pixels, "labels": "folder"}
    datasets.map(data, Net(), tmp_path / "out", class_names=names, **how)
    store = datasets.open(tmp_path / "out")
    assert store.index["label"].tolist() == [1, 0, 2]
    assert "how these were prepared is not stored" in Pictures.of(store).why, "the data are found"


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c", "d"]])
def test_another_number_of_names_than_of_classes_is_refused(
    tmp_path: Path, names: list[str]
) -> None:
    with pytest.raises(UsageError, match=f"has 3 classes, and {len(names)} names are given"):
        datasets.map(Data(), Net(), tmp_path / "out", class_names=names)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("label", ["cat", 1.5, 2.0, True, np.float32(1), torch.tensor(1.0)])
def test_a_label_that_is_no_integer_is_refused(label: Any) -> None:
    x = torch.zeros(3, 8, 8)
    found = open_samples([(x, label), {"image": x, "label": label}, (x, None), (x, float("nan"))])
    for number in (0, 1):
        with pytest.raises(DataError, match="give its number, an integer, or None for no class"):
            found.read(number)
    assert found.read(2)[1] is None and found.read(3)[1] is None


@pytest.mark.parametrize(
    ("rows", "number"),
    [("Hello, world,1\nbye,2\n", 1), ("bye,2\nHello, world,1\n", 2)],
    ids=["first", "second"],
)
def test_a_row_with_more_fields_than_the_header_is_refused(
    tmp_path: Path, rows: str, number: int
) -> None:
    (tmp_path / "a.csv").write_text(f"text,label\n{rows}")
    with pytest.raises(
        DataError, match=f"row {number} of .* has 3 fields, and the header has 2: quote texts"
    ):
        open_samples(tmp_path / "a.csv")

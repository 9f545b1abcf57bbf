"""Samples of every kind of source: their ids, classes and pixels, and what is refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

import datasets as library
import fullgrad
from fullgrad.datasets.sources import open_samples
from fullgrad.errors import ImageError
from fullgrad.evaluation.sources import DataError, open_source
from mapped import Net


def image(number: int, side: int = 8) -> Image.Image:
    return Image.fromarray(np.full((side, side, 3), number, "uint8"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(("dog/b.png", "cat/x/a.png", "cat/c.png")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image(number).save(path)
    return tmp_path / "photos"


def values(samples: Any) -> list[int]:
    return [int(np.asarray(samples.read(i)[0])[0, 0, 0]) for i in range(len(samples))]


def test_a_folder_and_those_in_it(photos: Path) -> None:
    found = open_samples(photos)
    assert found.ids == ["cat/c.png", "cat/x/a.png", "dog/b.png"]
    assert values(found) == [2, 1, 0] and found.read(0)[1] is None
    named = open_samples(str(photos), labels="folder")
    assert [named.read(i)[1] for i in range(3)] == [0, 0, 1]
    assert named.digest != found.digest
    assert found.first(2).ids == ["cat/c.png", "cat/x/a.png"]
    image(9, 10).save(photos / "dog/b.png")
    assert open_samples(photos).digest != found.digest, "another length"
    image(9).save(photos / "loose.png")
    with pytest.raises(
        DataError, match=r"loose.png lies in no folder of .*: leave labels='folder'"
    ):
        open_samples(photos, labels="folder")
    with pytest.raises(DataError, match="samples that are open have their ids and labels: leave"):
        open_samples(open_samples(photos), labels="folder")
    (photos / "dog/b.png").write_bytes(b"")
    with pytest.raises(ImageError, match="is empty"):
        open_samples(photos).read(2)


def test_any_file_name_can_be_stored(photos: Path, tmp_path: Path) -> None:
    image(5).save(photos / "\udcff\n.png")
    other = photos.rename(tmp_path / "\udcfe")
    fullgrad.datasets.map(other, Net(), tmp_path / "store", transform=_small)
    index = fullgrad.datasets.open(tmp_path / "store").index
    names = ["cat/c.png", "cat/x/a.png", "dog/b.png", "\\xff\n.png"]
    assert [*index["id"]] == [i.name for i in open_source(str(other)).items] == names


def test_hidden_files_and_own_pictures_are_no_samples(photos: Path) -> None:
    before = open_samples(photos).ids
    for name in (".a.png", ".hidden/a.png", "cat/.hidden/a.png", "cat/c.overlay.png"):
        (photos / name).parent.mkdir(exist_ok=True)
        image(1).save(photos / name)
    assert open_samples(photos).ids == before
    assert [i.name for i in open_source(str(photos)).items] == before


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_of_files(photos: Path, kind: str) -> None:
    table = pandas.DataFrame({"file": ["dog/b.png", "cat/c.png"], "class_index": [7, None]})
    path = photos / f"list.{kind}"
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    found = open_samples(path)
    assert found.ids == ["dog/b.png", "cat/c.png"] and values(found) == [0, 2]
    assert [found.read(i)[1] for i in range(2)] == [7, None]
    table = table.assign(id=["one", "two"], class_index=["x", "1"])
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    with pytest.raises(DataError, match=r"row 1 of .*: class_index 'x' is not a class's number"):
        open_samples(path)
    table = table.drop(columns="class_index")
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    assert open_samples(path).ids == ["one", "two"]


def test_archives(tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 2)):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            for number in range(count):
                content = io.BytesIO()
                image(10 * count + number).save(content, "png")
                for suffix, own in (("png", content.getvalue()), ("cls", str(number).encode())):
                    info = tarfile.TarInfo(f"x/{number:03d}.{suffix}")
                    info.size = len(own)
                    archive.addfile(info, io.BytesIO(own))
    found = open_samples(f"webdataset:{tmp_path}/*.tar")
    assert found.ids == ["a.tar/x/000", "a.tar/x/001", "a.tar/x/002", "b.tar/x/000", "b.tar/x/001"]
    assert found.sizes == (3, 2) and values(found) == [30, 31, 32, 20, 21]
    assert [found.read(i)[1] for i in range(5)] == [0, 1, 2, 0, 1]
    assert open_samples(tmp_path / "b.tar").ids == ["x/000", "x/001"]
    out = tmp_path / "out"
    how: dict[str, Any] = {"transform": _small, "batch_size": 2}
    fullgrad.datasets.map(f"webdataset:{tmp_path}/*.tar", Net(), out, **how)
    store = fullgrad.datasets.open(out)
    assert list(store.index.index) == [0, 1, 2, 3, 4] and store.units == 2
    assert np.isfinite(store.maps.values).all()
    with pytest.raises(DataError, match="limit= does not cut archives"):
        found.first(2)
    with pytest.raises(fullgrad.FullGradError, match="unit= does not apply to archives"):
        fullgrad.datasets.map(tmp_path / "b.tar", Net(), out, unit=2, **how)
    (tmp_path / "c.tar").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"the archive .*c.tar cannot be read"):
        open_samples(tmp_path / "c.tar")
    with tarfile.open(tmp_path / "c.tar", "w"):
        pass
    with pytest.raises(DataError, match=r"the archive .*c.tar holds no images"):
        open_samples(tmp_path / "c.tar")


def test_rows_of_archives_of_unequal_length(tmp_path: Path) -> None:
    """The first archive is the shorter one, so its unit leaves a row empty."""
    test_archives(tmp_path)
    (tmp_path / "b.tar").rename(tmp_path / "0.tar")
    (tmp_path / "c.tar").unlink()
    how: dict[str, Any] = {"transform": _small, "batch_size": 2}
    fullgrad.datasets.map(f"webdataset:{tmp_path}/*.tar", Net(), tmp_path / "again", **how)
    store = fullgrad.datasets.open(tmp_path / "again")
    assert list(store.index.index) == [0, 1, 3, 4, 5] and store.plan.rows == 6
    first = fullgrad.datasets.open(tmp_path / "out")
    assert np.array_equal(store.maps.sel(row=[3, 4, 5]), first.maps.sel(row=[0, 1, 2]))


def _small(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image)).permute(2, 0, 1).float() / 255


def test_a_folder_of_the_datasets_library(tmp_path: Path) -> None:
    features = library.Features(
        {"image": library.Image(), "label": library.ClassLabel(num_classes=3)}
    )
    rows = {"image": [image(5), image(6)], "label": [2, 0]}
    found = library.Dataset.from_dict(rows, features=features)
    library.DatasetDict({"train": found}).save_to_disk(str(tmp_path))
    with pytest.raises(DataError, match=r"holds several splits \(train\): name one of the folders"):
        open_samples(tmp_path)
    samples = open_samples(tmp_path / "train")
    assert samples.ids == ["0", "1"] and values(samples) == [5, 6]
    assert [samples.read(i)[1] for i in range(2)] == [2, 0]
    (tmp_path / "train" / "state.json").write_text("{}")
    with pytest.raises(DataError, match="train cannot be read"):
        open_samples(tmp_path / "train")


def test_items_of_a_map_style_data_set() -> None:
    x = torch.zeros(3, 4, 4)
    items = [x, (x, 1), (x, torch.tensor(2)), {"pixel_values": x, "labels": np.int64(1)}]
    found = open_samples([*items, (x, -1), (x, torch.zeros(3)), {"speech": "no"}])
    assert [found.read(i)[1] for i in range(6)] == [None, 1, 2, 1, None, None]
    with pytest.raises(
        DataError, match=r"an item has none of image, .* \(it has: speech\); for a model"
    ):
        found.read(6)


def test_items_of_token_ids_keep_what_belongs_to_them(tmp_path: Path) -> None:
    columns = {"input_ids": [[1, 2], [3]], "attention_mask": [[1, 1], [1]], "label": [1, 0]}
    texts = {"idx": [7, 8], "sentence": ["a b", "c"], "tokens": [["a", "b"], ["c"]]}
    library.Dataset.from_dict({**columns, **texts}).save_to_disk(str(tmp_path))
    value, label = open_samples(tmp_path).read(0)
    assert {n: v.tolist() for n, v in value.items()} == {
        "input_ids": [1, 2],
        "attention_mask": [1, 1],
    }
    assert label == 1 and isinstance(value["input_ids"], torch.Tensor)
    assert open_samples([{"sentence": "c"}]).read(0) == ("c", None)


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "list.csv").write_text("name\nx\n")
    (tmp_path / "empty.csv").write_text("")
    for spec, text in (
        (tmp_path, r"the folder .* holds no image files \(avif, bmp, "),
        (tmp_path / "notes.txt", "is not a data set: give an image folder"),
        (tmp_path / "nosuch", "does not exist: give an image folder"),
        (tmp_path / "list.csv", r"has no column 'file' or 'text' \(it has: name\)"),
        (tmp_path / "empty.csv", "cannot be read"),
        (f"torchvision:nosuch:{tmp_path}", "NAME one of torchvision.datasets' classes"),
        (f"webdataset:{tmp_path}/*.tar", "cannot be read"),
    ):
        with pytest.raises(DataError, match=text):
            open_samples(spec)
    with pytest.raises(DataError, match="labels must be 'folder' or None"):
        open_samples(tmp_path, labels="names")
    with pytest.raises(DataError, match="labels='folder' belongs to an image folder, not to"):
        open_samples(tmp_path / "list.csv", labels="folder")
    with pytest.raises(DataError, match="a table has a column 'id'"):
        open_samples(tmp_path / "list.csv", ids=["a"])

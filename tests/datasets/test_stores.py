"""What is written to a store comes back from it, and a damaged unit is found and done again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray

import fullgrad
from fullgrad.datasets import encoding
from fullgrad.datasets.store import Store, part_name, shard_name
from fullgrad.evaluation.store import StoreError
from stored_maps import ORIGIN, PLAN, plan, values, write


@pytest.mark.parametrize("dtype", encoding.DTYPES)
def test_maps_and_rows_come_back(tmp_path: Path, dtype: encoding.Dtype) -> None:
    own = plan(dtype=dtype)
    write(tmp_path, own)
    store = fullgrad.datasets.open(tmp_path)
    assert store.plan == own and store.plan.digest == own.digest
    assert store.complete and store.done == (0, 1, 2)
    assert repr(store) == (
        f"Opened({tmp_path}: complete_fullgrad maps of 25 samples, 6 x 4; 3 of 3 units)"
    )
    assert store.index.loc[24, "id"] == "photos/024.png"
    assert store.maps.dims == ("row", "y", "x") and store.maps.shape == (25, 6, 4)
    for number in (0, 1, 12, 24):
        wanted, scale = values(number, (6, 4)), store.index.loc[number, "scale"]
        for found in (store.maps[number].values, store.map(number)):
            assert found.dtype == np.float32
            assert np.abs(found - wanted).max() <= encoding.step(scale, dtype)
    assert np.isnan(store.map(3)).all() and np.isnan(store.maps.sel(row=3)).all()
    assert store.index.loc[3, "error"] == "photos/003.png is empty (0 bytes)"
    some = store.maps[[20, 4, 11], 1:4, 2].values
    assert np.array_equal(some, store.maps.values[[20, 4, 11], 1:4, 2])
    raw = xarray.open_zarr(tmp_path / "maps.zarr", consolidated=False)["map"]
    assert raw.dims == ("row", "y", "x") and raw.dtype == dtype


def test_a_store_in_the_middle_shows_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, units=range(2, 3))
    store = fullgrad.datasets.open(tmp_path)
    assert not store.complete and (store.units, store.done) == (3, (2,))
    assert list(store.index.index) == [20, 21, 22, 23, 24] == list(store.maps["row"].values)
    assert np.abs(store.maps.sel(row=22).values - values(22, (6, 4))).max() < 1e-2
    with pytest.raises(fullgrad.FullGradError, match="there is no row 3 in"):
        store.map(3)


def test_a_place_without_maps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no maps \(it has no plan.json\)"):
        fullgrad.datasets.open(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"other files and no maps \(notes.txt\); give an empty"):
        write(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(StoreError, match=r"plan.json is damaged: KeyError"):
        fullgrad.datasets.open(tmp_path)
    content = PLAN.packed()
    (tmp_path / "plan.json").write_bytes(content.replace(b'"unit": 10', b'"unit": 11'))
    with pytest.raises(StoreError, match="its digest is not that of its fields"):
        fullgrad.datasets.open(tmp_path)
    (tmp_path / "plan.json").write_bytes(content.replace(b'"format": 1', b'"format": 0'))
    with pytest.raises(StoreError, match=r"in format 0, this is 1; give another folder"):
        fullgrad.datasets.open(tmp_path)


def test_other_settings_are_refused_with_the_difference(tmp_path: Path) -> None:
    write(tmp_path, units=range(1))
    other = plan(batch_size=7, model={**PLAN.model, "digest": "3" * 16})
    with pytest.raises(StoreError, match="holds maps of other settings") as caught:
        Store(tmp_path, other).prepare()
    assert 'model.digest: "3333333333333333" here, "1111111111111111" there' in str(caught.value)
    assert "batch_size: 7 here, 5 there" in str(caught.value)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_damage_is_found_by_length_and_by_digest(tmp_path: Path) -> None:
    store = write(tmp_path)
    shards = [tmp_path / shard_name(PLAN, u) for u in range(3)]
    flip(shards[0], 100)
    shards[1].write_bytes(shards[1].read_bytes()[:-5])
    opened = fullgrad.datasets.open(tmp_path)
    with pytest.raises(StoreError, match=r"a map in .* cannot be read .* --check does the unit"):
        opened.maps[:9].load()
    said: list[str] = []
    assert [*store.drop_damaged([0, 1, 2], said.append)] == [0, 2]
    (line,) = said
    assert line.startswith("damaged, to be done again: unit 1 (maps.zarr/map/c/1/0/0 has ")
    assert store.done() == [0, 2]
    assert [*store.drop_damaged([0, 2], said.append, check=True)] == [2]
    assert said[1].endswith("has another digest than its index file says)")
    flip(tmp_path / part_name(2), 40)
    with pytest.raises(StoreError, match=r"index/000002.parquet is damaged: .* --check does"):
        fullgrad.datasets.open(tmp_path).index
    assert [*store.drop_damaged([2], said.append, check=True)] == []
    assert "index/000002.parquet is damaged" in said[2]
    write(tmp_path)
    assert [*store.drop_damaged(store.done(), said.append, check=True)] == [0, 1, 2]
    assert len(said) == 3


def test_a_shard_without_its_index_file_is_written_over(tmp_path: Path) -> None:
    store = write(tmp_path, units=range(1))
    garbage = tmp_path / shard_name(PLAN, 1)
    garbage.parent.mkdir(parents=True)
    garbage.write_bytes(b"half of a sh")
    assert store.done() == [0]
    write(tmp_path, units=range(1, 2))
    assert [*store.drop_damaged([0, 1], print, check=True)] == [0, 1]


def test_a_unit_is_stored_once(tmp_path: Path) -> None:
    store = write(tmp_path, units=range(1))
    before = (tmp_path / part_name(0)).stat().st_mtime_ns
    maps = {"map": np.zeros((10, 6, 4), "float16")}
    assert not store.commit(0, maps, [], "bytes", ORIGIN).first
    assert (tmp_path / part_name(0)).stat().st_mtime_ns == before

"""A store as a data set of the ``datasets`` library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datasets as library
import fullgrad
from stored_maps import plan, write


@pytest.mark.parametrize("shape", [(6, 4), (5,), (2, 3, 4)], ids=["image", "series", "volume"])
def test_rows_and_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    library.disable_progress_bars()
    dims: Any = {1: ("time",), 2: ("y", "x"), 3: ("z", "y", "x")}[len(shape)]
    write(tmp_path / "maps", plan(positions=shape, dims=dims))
    store = fullgrad.datasets.open(tmp_path / "maps")
    found = fullgrad.datasets.to_huggingface(store)
    assert found.num_rows == 25 and set(found.column_names) == {*store.index, "row", "map"}
    assert found["id"][:] == store.index["id"].tolist()
    assert found["target"][:5] == [0, 1, 0, None, 1]
    assert np.isnan(np.asarray(found[3]["map"])).all() and found[3]["error"].endswith("(0 bytes)")
    maps = np.asarray(found.with_format("numpy")["map"][:], "float32")
    assert np.array_equal(maps, store.maps.values, equal_nan=True)
    found.to_parquet(str(tmp_path / "maps.parquet"))
    again = fullgrad.datasets.to_huggingface(tmp_path / "maps")
    assert again.num_rows == 25

"""A store as a data set of the ``datasets`` library, to be shared or trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fullgrad._files import AnyPath
from fullgrad._optional import require
from fullgrad.datasets.opened import Opened, open

if TYPE_CHECKING:
    import datasets

_TOGETHER = 256  # maps that are read at a time


def to_huggingface(store: Opened | AnyPath) -> datasets.Dataset:
    """Return the maps of a store, with their rows of the index, as a Hugging Face data set.

    A row has the index's columns and ``map``, float32; where there is no map its numbers are NaN.
    Maps of further inputs are columns ``map.NAME``.
    The rows are written to that library's cache once, some at a time, so memory stays small; save
    them with ``.save_to_disk`` or ``.to_parquet``.

    Args:
        store: opened, or its address.

    Raises:
        StoreError: there are no maps, or one is damaged.
        MissingDependencyError: the ``datasets`` library is not installed.
    """
    library: Any = require("datasets", "huggingface")
    own = store if isinstance(store, Opened) else open(store)
    given = {"address": own.address, "digest": own.plan.digest, "units": str(own.done)}
    found: datasets.Dataset = library.Dataset.from_generator(
        _rows, features=_features(library, own), gen_kwargs=given
    )
    return found


def _features(library: Any, store: Opened) -> Any:
    """The columns' types."""
    from fullgrad.datasets.index import schema

    columns = library.Features.from_arrow_schema(schema(store.plan))
    number = library.Value("float32")
    for name, (shape, _) in store.plan.arrays.items():
        if len(shape) == 1:
            columns[name] = library.Sequence(number, length=shape[0])
        else:
            columns[name] = getattr(library, f"Array{len(shape)}D")(shape=shape, dtype="float32")
    return columns


def _rows(address: str, digest: str, units: str) -> Iterator[dict[str, Any]]:
    """Rows with their maps; digest and units tell the library's cache what they depend on."""
    store = open(address)
    table = store.index[store.index["digest"] == digest]
    table = table.astype(object).where(table.notna(), None).reset_index()
    for start in range(0, len(table), _TOGETHER):
        some = slice(start, start + _TOGETHER)
        maps = [store.maps_of(name or None)[some].values for name in store.inputs]
        for row, values in zip(
            table[some].to_dict("records"), zip(*maps, strict=True), strict=True
        ):
            for name, value in row.items():
                if isinstance(value, np.ndarray):
                    row[name] = value.tolist()
            yield {**row, **dict(zip(store.plan.arrays, values, strict=True))}

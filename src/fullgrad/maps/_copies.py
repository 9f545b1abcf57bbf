"""Whether the numbers of a term lie at the same places in all noisy copies of the samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from fullgrad.axes.coordinates import Indices, Table
from fullgrad.axes.placement import Cells, Placement


def first_copy(placement: Placement, samples: int) -> Placement | None:
    """The placement of the first of several copies, which follow each other.

    Args:
        placement: of a term of all copies.
        samples: how many there are in each copy.

    Returns:
        None if a sample's numbers lie elsewhere in another copy.
    """
    if not placement.by_sample:
        return placement

    def first(table: Any) -> Any:
        copies = table.reshape(-1, samples, *table.shape[1:])
        return copies[0] if bool((copies == copies[:1]).all()) else None

    assert placement.places is not None
    places = first(placement.places)
    cells: list[Cells] = []
    for c in placement.cells:
        weights = c.weights if c.weights is None or c.weights.ndim < 3 else first(c.weights)
        if weights is None and c.weights is not None:
            return None
        cells.append(replace(c, weights=weights))
    return None if places is None else replace(placement, places=places, cells=tuple(cells))


def alike(one: Placement, other: Placement) -> bool:
    """Whether numbers lie at the same places by both."""

    def same(a: Table | Indices | None, b: Table | Indices | None) -> bool:
        return a is b if a is None or b is None else np.array_equal(a, b)

    return (
        [c.key for c in one.cells] == [c.key for c in other.cells]
        and same(one.places, other.places)
        and same(one.shares, other.shares)
    )

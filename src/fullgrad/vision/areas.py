"""A complete map in cells: how much raises the explained number, lowers it, or has no place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from fullgrad.maps.regions import pooled
from fullgrad.vision.layers import Array

if TYPE_CHECKING:
    from fullgrad.vision.schema import AreasInfo

CELL = 16  # pixels a side


@dataclass(frozen=True, slots=True)
class Areas:
    """The sums of a complete map's cells; they and ``elsewhere`` are the explained number.

    Args:
        positive: of the cells that raise the explained number.
        negative: of those that lower it.
        elsewhere: what has no place in the image.
        cell: pixels along a cell's side.
    """

    positive: float
    negative: float
    elsewhere: float
    cell: int

    @classmethod
    def of(cls, values: Array, explained: float, cell: int) -> Areas:
        """The areas of one map.

        Args:
            values: the complete map, shape (height, width).
            explained: the number that it is a part of.
            cell: pixels along a cell's side.
        """
        cells = in_cells(values, cell).astype(np.float64)
        positive, negative = cells.clip(min=0).sum(), cells.clip(max=0).sum()
        return cls(float(positive), float(negative), explained - float(cells.sum()), cell)

    def text(self, what: str, explained: float, whole: bool = True, baseline: bool = False) -> str:
        """Say it in a sentence.

        Args:
            what: is explained: ``"logit"``, ``"margin"``.
            explained: its value.
            whole: whether all terms are on the map that have a place.
            baseline: whether terms are split at a baseline.
        """
        belongs = ["the baseline"] * baseline + ["terms that were left out"] * (not whole)
        rest = "has no place" + f" or belongs to {' or to '.join(belongs)}" * bool(belongs)
        return (
            f"{self.positive:.3g} of the {what} {explained:.3g} is attributed to areas that raise "
            f"it, {self.negative:.3g} to areas that lower it, {self.elsewhere:.3g} {rest} "
            f"(cells of {self.cell} pixels)"
        )

    def info(self) -> AreasInfo:
        """Return it for records."""
        from fullgrad.vision.schema import AreasInfo

        return AreasInfo(
            positive=self.positive, negative=self.negative, elsewhere=self.elsewhere, cell=self.cell
        )


def in_cells(values: Array, cell: int) -> Array:
    """The sums of a map's cells, as many as fit the image best.

    Args:
        values: shape (height, width).
        cell: pixels along a cell's side, about.

    Returns:
        Shape (rows, columns); pixels are divided where a border runs through them.
    """
    size = [max(1, round(n / cell)) for n in values.shape]
    cells: Array = pooled(torch.from_numpy(values)[None, None], size)[0, 0].numpy()
    return cells


def drawn_in_cells(values: Array, cell: int) -> Array:
    """A map in which every pixel has its cell's sum, to be looked at.

    Args:
        values: shape (height, width).
        cell: pixels along a cell's side.
    """
    cells = in_cells(values, cell)
    rows, columns = (
        (np.arange(n) * of) // n for n, of in zip(values.shape, cells.shape, strict=True)
    )
    drawn: Array = cells[rows][:, columns]
    return drawn

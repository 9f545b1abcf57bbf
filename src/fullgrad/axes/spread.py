"""Which places of the input get how much of a cell's number, with nothing lost.

For the complete map (docs/design/complete-map.md): along each axis of the input a matrix of shape
(places, cells) whose columns sum to 1. All places are multiples of 2^-30, so that differences of
them are exact, and the matrix of a mirrored grid is the mirrored matrix, bit for bit.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, TypeAlias, get_args

import numpy as np

from fullgrad.axes.algebra import Axes
from fullgrad.axes.coordinates import CENTER, HIGH, LOW, NOWHERE, Coordinate, Indices, Table, over
from fullgrad.axes.layouts import Grid
from fullgrad.axes.placement import Cells, Spread

MassPlacement: TypeAlias = Literal["receptive_field", "cells"]
MASS_PLACEMENTS: tuple[str, ...] = get_args(MassPlacement)

_FINEST = 2.0**30  # parts of a place
_MOST = 4  # times the axis' places: more cells than that are put on the places themselves
_EVEN = 1e-3  # of a step


def check_placement(placement: str) -> None:
    """Refuse a placement that is unknown.

    Raises:
        ValueError: listing those there are.
    """
    if placement not in MASS_PLACEMENTS:
        raise ValueError(
            f"placement must be {' or '.join(map(repr, MASS_PLACEMENTS))}, not {placement!r}"
        )


def cells_along(c: Coordinate, placement: MassPlacement) -> tuple[Cells, Indices]:
    """The cells along one axis of the input, distinguished by what they read and around where.

    Args:
        c: the coordinate.
        placement: see :func:`fullgrad.complete_map`.

    Returns:
        The cells, with how they are divided among places, and each number's cell, shape (sizes of
        the atoms). Where places differ by sample, each sample counts its own cells.
    """
    by_sample = next((i for i, a in enumerate(c.atoms) if a.batch and a.size > 1), None)
    if by_sample is not None:  # of this input alone, and large
        return _by_sample(c.table, by_sample, c.size, placement)
    return _shared(c.table.tobytes(), c.table.shape, c.size, placement)


@lru_cache(maxsize=512)
def _shared(
    data: bytes, shape: tuple[int, ...], size: int, placement: MassPlacement
) -> tuple[Cells, Indices]:
    columns, numbers = _columns(np.frombuffer(data).reshape(shape), size, placement)
    if columns.shape == (size, size) and bool((columns == np.eye(size)).all()):
        return Cells(size), numbers
    return Cells(columns.shape[1], spread=Spread(*_taps(columns))), numbers


def _by_sample(
    table: Table, axis: int, size: int, placement: MassPlacement
) -> tuple[Cells, Indices]:
    found = [_columns(t, size, placement) for t in np.moveaxis(table, 1 + axis, 0)]
    count = max(columns.shape[1] for columns, _ in found)
    taps = [_taps(columns) for columns, _ in found]
    most = max(index.shape[1] for index, _ in taps)
    index, weights = np.zeros((len(taps), size, most), np.int64), np.zeros((len(taps), size, most))
    for i, (own, shares) in enumerate(taps):
        index[i, :, : own.shape[1]], weights[i, :, : own.shape[1]] = own, shares
    return Cells(count, spread=Spread(index, weights)), np.stack([n for _, n in found], axis)


def _taps(columns: Table) -> tuple[Indices, Table]:
    """The cells that each place gets something of, and how much: shape (places, taps)."""
    nothing = columns <= 0
    most = max(1, int((~nothing).sum(1).max()))
    index = np.argsort(nothing, axis=1, kind="stable")[:, :most]
    return index, np.take_along_axis(columns, index, 1)


def _columns(table: Table, size: int, placement: MassPlacement) -> tuple[Table, Indices]:
    """The matrix from cells to places, and each number's cell."""
    flat = table.reshape(3, -1)
    there = ~np.isnan(flat[LOW])
    numbers = np.full(there.shape, NOWHERE, dtype=np.int64)
    if not there.any():
        return np.zeros((size, 1)), numbers.reshape(table.shape[1:])
    rows = flat[[CENTER, LOW, HIGH]][:, there]
    rows[0] = _exact(rows[0])
    if there.all() and bool((np.diff(rows[0]) > 0).all()):
        distinct, numbers = rows, np.arange(rows.shape[1])
    else:
        distinct, index = np.unique(rows, axis=1, return_inverse=True)
        if distinct.shape[1] > _MOST * size:
            nearest = np.clip(np.floor(rows[0] + 0.5), rows[1], rows[2])
            distinct, index = np.unique(np.tile(nearest, (3, 1)), axis=1, return_inverse=True)
        numbers[there] = index.reshape(-1)
    center, (low, high) = _drawn_at(distinct), distinct[1:]
    divide = _areas if placement == "cells" else _hats
    columns = divide(center, low, high, size)
    backward = np.ascontiguousarray(columns[::-1])
    total = (columns.sum(0) + backward.sum(0)) / 2  # the same from either end
    return columns / total, numbers.reshape(table.shape[1:])


def _exact(places: Table) -> Table:
    return np.asarray(np.rint(places * _FINEST) / _FINEST)


def _drawn_at(distinct: Table) -> Table:
    """Where cells are drawn: at their centers, within what they read.

    A causal grid's windows hang over the input's start and never reach past a last place that
    moves with the step; each cell is drawn at that last place (and mirrored likewise). Its center,
    half a window earlier, would crowd the first cells together at the start.
    """
    center, low, high = distinct
    over_start, over_end = bool((center < low).any()), bool((center > high).any())
    steps = np.diff(center)
    if over_start != over_end and bool((steps > 0).all()):
        end = high if over_start else low
        if bool((np.diff(end) == steps).all()):
            return np.asarray(end)
    return np.asarray(np.clip(center, low, high))


def _hats(center: Table, low: Table, high: Table, size: int) -> Table:
    """Linear interpolation between neighboring centers, at the places that a cell reads.

    Beyond the outermost centers their cells get what further cells would get there, at places that
    these would read. Cells that are finer than the input's places are shared by the two around.
    """
    distinct = np.unique(center)
    at, places = np.searchsorted(distinct, center), np.arange(size)[:, None]
    if len(distinct) == 1:
        columns = np.ones((size, len(center)))
    else:
        steps = np.maximum(np.diff(distinct), 1.0)
        gaps = np.concatenate([steps[:1], steps, steps[-1:]])
        off = places - center
        columns = 1 - np.where(off < 0, -off / gaps[at], off / gaps[at + 1])
        before = (at == 0) & (off < 0) & (places <= high - gaps[0])
        behind = (at == len(distinct) - 1) & (off > 0) & (places >= low + gaps[-1])
        columns[before | behind] = 1.0
    columns[(places < low) | (places > high)] = 0.0
    return np.asarray(np.maximum(columns, 0.0))


def _areas(center: Table, low: Table, high: Table, size: int) -> Table:
    """How much of each place a cell's area covers: half-pixel cells, cut to what they read.

    Even cells whose centers are less than a step from the ends of what they read share that out
    among them; others reach halfway to their neighbors.
    """
    distinct = np.unique(center)
    at, count = np.searchsorted(distinct, center), len(distinct)
    steps, first, last = np.diff(distinct), low.min(), high.max()
    if count == 1:
        edges = np.array([first - 0.5, last + 0.5])
    elif _even(steps, distinct[0] - first, last - distinct[-1]):
        extent = last - first + 1
        edges = _exact(np.arange(count + 1) * (extent / count))
        later = np.arange(count + 1) * 2 > count
        edges[later] = extent - edges[::-1][later]
        edges += first - 0.5
    else:
        between = distinct[:-1] + steps / 2
        first, last = distinct[0] - steps[0] / 2, distinct[-1] + steps[-1] / 2
        edges = np.concatenate([[first], between, [last]])
    start = np.maximum(edges[at], low - 0.5)
    stop = np.minimum(edges[at + 1], high + 0.5)
    beside = stop <= start  # what it reads lies wholly beside its area
    nearest = np.clip(center, low, high)
    start, stop = np.where(beside, nearest - 0.5, start), np.where(beside, nearest + 0.5, stop)
    places = np.arange(size)[:, None]
    covered = np.minimum(places + 0.5, stop) - np.maximum(places - 0.5, start)
    return np.asarray(np.maximum(covered, 0.0))


def _even(steps: Table, before: float, behind: float) -> bool:
    step = float(steps.max())
    return bool(np.ptp(steps) <= _EVEN * step) and before < step and behind < step


def box_read(axes: Axes, grid: Grid, batch: int) -> Table:
    """The smallest box of a grid that holds all that an activation's numbers read.

    Returns:
        First and last place along each axis of the grid, for each sample: shape (2, axes, B), NaN
        for samples of which nothing is read.
    """
    box = np.empty((2, len(grid.sizes), batch))
    for k, (size, c) in enumerate(
        zip(grid.sizes, axes.coordinates[grid.start : grid.stop], strict=True)
    ):
        if c is None:
            box[:, k] = [[0.0], [size - 1.0]]
            continue
        samples = tuple(a for a in c.atoms if a.batch)
        table = over(c, samples).reshape(3, samples[0].size if samples else 1, -1)
        box[0, k], box[1, k] = np.fmin.reduce(table[LOW], 1), np.fmax.reduce(table[HIGH], 1)
    return box

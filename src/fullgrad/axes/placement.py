"""Where a term's numbers lie in the input, and how they become a map on its grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fullgrad.axes._interpolation import linear, stretch
from fullgrad.axes.algebra import Axes
from fullgrad.axes.coordinates import (
    CENTER,
    HIGH,
    LOW,
    NOWHERE,
    Atom,
    Coordinate,
    Indices,
    Table,
    chosen,
    over,
)

# What strides leave over at the ends of an input, as a share of it, is not cut off a single cell.
_REMAINDER = 16
# How many coordinates' cells are kept, and how many numbers these may hold: 64 MB in all.
_KEPT, _SMALL = 64, 1 << 17
_KNOWN: dict[tuple[object, ...], tuple[Cells, Indices]] = {}


@dataclass(frozen=True, eq=False, slots=True)
class Spread:
    """How the numbers of cells are divided among the places of an input's axis, none of it lost.

    Args:
        index: the cells that each place gets something of, shape (places, taps); a table for each
            sample where they differ, shape (B, places, taps).
        weights: how much of each, of the same shape; what a cell hands out sums to 1.
    """

    index: Indices
    weights: Table

    @property
    def key(self) -> bytes:
        """Equal for cells that are divided alike."""
        return self.index.tobytes() + self.weights.tobytes()


@dataclass(frozen=True, eq=False, slots=True)
class Cells:
    """The cells of a term's grid along one axis of the input, in order.

    Args:
        count: how many there are.
        weights: shape (places of the input, cells), or (B, places, cells) where the places differ
            by sample: how the input's places are interpolated from the cells, zero where nothing
            is read; None where the cells are even and cover the axis: they are stretched over it,
            corners aligned, as in the paper.
        spread: how mass is kept where the cells' numbers are divided among places
            (:mod:`fullgrad.axes.spread`); None where each place is a cell, or one cell is all.
    """

    count: int
    weights: Table | None = None
    spread: Spread | None = None

    @property
    def key(self) -> tuple[int, bytes]:
        """Equal for cells that lie at the same places."""
        if self.spread is not None:
            return self.count, self.spread.key
        return self.count, b"" if self.weights is None else self.weights.tobytes()


@dataclass(frozen=True, eq=False, slots=True)
class Placement:
    """How to read a term: its axes taken apart, and which of them are positions.

    Args:
        sizes: of the axes taken apart, for all samples.
        batch: which of them counts the samples; None if there is one sample only.
        positions: which of them are positions, in ascending order.
        cells: of the grid that the positions make, one for each axis of the input's.
        places: of each position, row-major, its cell, or ``NOWHERE``; a row for each sample where
            they differ; None if they are the grid already.
        shares: of each position, how much of its number belongs to this grid, should it lie on
            several inputs' grids; None for all of it.
        steps: which positions count the steps of a recurrent layer, each a term of its own.
    """

    sizes: tuple[int, ...]
    batch: int | None
    positions: tuple[int, ...]
    cells: tuple[Cells, ...]
    places: Indices | None
    shares: Table | None = None
    steps: tuple[int, ...] = ()

    @property
    def by_sample(self) -> bool:
        """Whether the places differ by sample."""
        return self.places is not None and self.places.ndim > 1

    @property
    def one_cell(self) -> bool:
        """Whether all numbers lie in one cell, which no axis tells apart."""
        return all(c.count == 1 for c in self.cells)

    @property
    def extents(self) -> tuple[int, ...]:
        """The sizes of the grid."""
        return tuple(c.count for c in self.cells)


# From a coordinate to the cells along it, and each number's cell, shape (sizes of the atoms).
CellsAlong: TypeAlias = Callable[[Coordinate], tuple[Cells, Indices]]


def placement_of(
    axes: Axes, batch: int, *, alone: bool = True, along: CellsAlong | None = None
) -> Placement | None:
    """How the terms of an activation are to be read.

    Args:
        axes: of the activation, with the coordinates of one input's grid.
        batch: number of samples.
        alone: whether there is no other grid.
        along: which cells a coordinate makes; then numbers that were read together have a place
            too, and None is returned only where nothing is known of any axis.

    Returns:
        None if none of its numbers has a place (a dense layer's, a class token's).

    Raises:
        ValueError: the samples are not one axis.
    """
    known = [c for c in axes.coordinates if c is not None]
    if not all(c.anywhere for c in known) or (along is not None and not known):
        return None
    if along is None and all(c.pooled == "mean" for c in known):
        if not (alone and _one_cell(axes)):
            return None
    atoms = [a for g in axes.groups for a in g if a.size > 1 or a.batch]
    batches = [i for i, a in enumerate(atoms) if a.batch]
    if batch == 1:
        atoms, batches = [a for a in atoms if not a.batch], []
    if len(batches) != (batch > 1) or (batches and atoms[batches[0]].size != batch):
        raise ValueError("the samples are not one axis")
    of_places = {a for c in known for a in c.atoms if not a.batch}
    positions = tuple(i for i, a in enumerate(atoms) if a in of_places)
    found = [None if c is None else (along or _along)(c) for c in axes.coordinates]
    cells = tuple(Cells(1) if a is None else a[0] for a in found)
    sample = next((a for g in axes.groups for a in g if a.batch), None)
    places = _places(axes, [atoms[i] for i in positions], found, sample)
    if places is not None and not (places != NOWHERE).any():
        return None
    sizes, counted = tuple(a.size for a in atoms), batches[0] if batches else None
    steps = tuple(i for i in positions if atoms[i].step)
    return Placement(sizes, counted, positions, cells, places, steps=steps)


def _one_cell(axes: Axes) -> bool:
    """Whether an activation still has an axis for each of the grid's, of one place (B, C, 1, 1).

    Convolutions after a global pool have: as in the paper's code, their terms are drawn as one
    cell over what they read.
    """
    grid = len(axes.coordinates)
    return len(axes.groups) == grid + 2 and all(n == 1 for n in axes.shape[-grid:])


def placements_on(
    axes: Axes, grids: Sequence[slice], batch: int, along: CellsAlong | None = None
) -> list[Placement | None]:
    """How the terms of an activation are to be read on the grids of several inputs.

    A number that lies on several grids is shared equally among them.

    Args:
        axes: of the activation.
        grids: which of its coordinates belong to each grid.
        batch: number of samples.
        along: see :func:`placement_of`. A grid on which all numbers lie in one cell then does not
            count beside others: pooled numbers do not move what they are added to.

    Raises:
        ValueError: the samples are not one axis.
    """
    own = [axes.coordinates[g] for g in grids]
    parts = [axes if c == axes.coordinates else replace(axes, coordinates=c) for c in own]
    found = [placement_of(part, batch, alone=len(grids) == 1, along=along) for part in parts]
    if along is not None and any(p is not None and not p.one_cell for p in found):
        found = [None if p is not None and p.one_cell else p for p in found]
    if sum(p is not None for p in found) < 2:
        return found
    on = [_on(part) if p is not None else None for part, p in zip(parts, found, strict=True)]
    return [
        None if p is None or own is None else replace(p, shares=_shares(axes, own, on))
        for p, own in zip(found, on, strict=True)
    ]


# The atoms that decide which numbers lie on a grid, and whether they do.
_On: TypeAlias = tuple[tuple[Atom, ...], NDArray[np.bool_]]


def _on(axes: Axes) -> _On:
    known = [c for c in axes.coordinates if c is not None]
    atoms = tuple(dict.fromkeys(a for c in known for a in c.atoms))
    there = np.ones([a.size for a in atoms], dtype=bool)
    for c in known:
        there &= ~np.isnan(over(c, atoms)[LOW])
    return atoms, there


def _shares(axes: Axes, own: _On, others: Sequence[_On | None]) -> Table | None:
    positions = [a for g in axes.groups for a in g if a in own[0] and not a.batch and a.size > 1]
    total = np.zeros([a.size for a in positions])
    for other in others:
        if other is None:
            continue
        atoms, there = other
        there = np.asarray(there.any(tuple(i for i, a in enumerate(atoms) if a not in positions)))
        left = [a for a in atoms if a in positions]
        order = sorted(range(len(left)), key=lambda i: positions.index(left[i]))
        shape = [a.size if a in left else 1 for a in positions]
        total += there.transpose(order).reshape(shape)
    return None if (total <= 1).all() else np.asarray(1 / np.maximum(total, 1)).reshape(-1)


def _along(c: Coordinate) -> tuple[Cells, Indices]:
    """The cells along one axis of the input, and each number's cell, shape (sizes of the atoms).

    Activations of one size lie alike in each block of a network and in each call: what is found
    for one coordinate is kept for others of the same numbers.
    """
    if c.table.size > _SMALL:
        return _cells(c)
    key = (c.size, c.line, tuple((a.size, a.batch) for a in c.atoms), c.table.tobytes())
    found = _KNOWN.get(key)
    if found is None:
        found = cells, numbers = _cells(c)
        weights = 0 if cells.weights is None else cells.weights.size
        if c.table.size + numbers.size + weights <= _SMALL:
            if len(_KNOWN) >= _KEPT:
                _KNOWN.clear()
            _KNOWN[key] = found
    return found


def _cells(c: Coordinate) -> tuple[Cells, Indices]:
    if c.line is not None:
        count = c.atoms[0].size
        centers = c.table[CENTER]
        numbers = np.arange(count)
        return Cells(count, None if _stretched(centers, c) else _weights(centers, c)), numbers
    sample = next((a for a in c.atoms if a.batch and a.size > 1), None)
    alone = [c] if sample is None else [chosen(c, sample, i) for i in range(sample.size)]
    centers = np.round(c.table[CENTER], 6)
    there = ~np.isnan(centers)
    distinct, index = np.unique(centers[there], return_inverse=True)
    numbers = np.full(centers.shape, NOWHERE, dtype=np.int64)
    own = [np.unique(a.table[CENTER][~np.isnan(a.table[CENTER])].round(6)) for a in alone]
    if max(map(len, own)) > c.size:  # as fine as it is, the input's own places
        numbers[there] = np.clip(np.floor(centers[there] + 0.5), 0, c.size - 1).astype(np.int64)
        return Cells(c.size), numbers
    numbers[there] = index.reshape(-1)
    if sample is None:
        even = _stretched(distinct, c)
        return Cells(len(distinct), None if even else _weights(distinct, c)), numbers
    weights = np.zeros((sample.size, c.size, len(distinct)))
    for part, one, places in zip(weights, alone, own, strict=True):
        if len(places):
            even = _stretched(places, one)
            cells = np.searchsorted(distinct, places)
            part[:, cells] = stretch(len(places), c.size) if even else _weights(places, one)
    return Cells(len(distinct), weights), numbers


def _stretched(centers: Table, c: Coordinate) -> bool:
    """Whether cells are even, and cover the axis but for less than one at the ends."""
    if c.line is not None and len(centers) > 1:
        step = c.line[1]
        return bool(c.table[LOW, 0] < step and c.size - 1 - c.table[HIGH, -1] < step)
    steps = np.diff(centers)
    if len(steps):  # no window's remainder is left over at the ends, but what was cut or picked
        even = float(np.ptp(steps)) <= 1e-3 * float(steps.max())
        return even and bool(_read(c).all())
    low, high, step = np.nanmin(c.table[LOW]), np.nanmax(c.table[HIGH]), c.size / _REMAINDER
    return bool(low < step and c.size - 1 - high < step)


def _read(c: Coordinate) -> NDArray[np.bool_]:
    """Which places of the input's axis are read, shape (size,)."""
    low, high = c.table[LOW].ravel(), c.table[HIGH].ravel()
    there = ~np.isnan(low)
    begin = np.bincount(low[there].astype(np.int64), minlength=c.size + 1)
    end = np.bincount(high[there].astype(np.int64) + 1, minlength=c.size + 1)
    return np.cumsum(begin - end)[:-1] > 0


def _weights(centers: Table, c: Coordinate) -> Table:
    """Linear interpolation between centers, at the input's places that are read."""
    weights = linear(centers, c.size)
    weights[~_read(c)] = 0.0
    return weights


def _places(
    axes: Axes,
    atoms: Sequence[Atom],
    along: Sequence[tuple[Cells, Indices] | None],
    sample: Atom | None,
) -> Indices | None:
    """Each position's cell in the whole grid; None if the positions are the grid in order."""
    known = [c for c in axes.coordinates if c is not None]
    if all(c.line is not None for c in known) and [c.atoms[0] for c in known] == list(atoms):
        return None
    sizes = [a.size for a in atoms]
    differ = sample is not None and any(
        c is not None and sample in c.atoms for c in axes.coordinates
    )
    used = [sample, *atoms] if differ and sample is not None else list(atoms)
    shape = [a.size for a in used]
    total, nowhere = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
    stride = math.prod(a[0].count for a in along if a is not None)
    for c, found in zip(axes.coordinates, along, strict=True):
        if c is None or found is None:
            continue
        cells, numbers = found
        stride //= cells.count
        order = sorted(
            range(len(c.atoms)), key=lambda i: used.index(c.atoms[i]) if c.atoms[i] in used else -1
        )
        kept = [c.atoms[i] for i in order]
        numbers = numbers.transpose(order).reshape([a.size if a in kept else 1 for a in used])
        total = total + numbers * stride
        nowhere = nowhere | (numbers == NOWHERE)
    places = np.where(nowhere, NOWHERE, total).reshape((shape[0], -1) if differ else (-1,))
    count = math.prod(a[0].count for a in along if a is not None)
    in_order = not differ and len(places) == count and bool((places == np.arange(count)).all())
    return None if in_order and sizes else places


def arranged(value: Tensor, placement: Placement) -> tuple[Tensor, tuple[int, ...]]:
    """A term, or some samples of it, with its axes taken apart and samples first.

    Returns:
        Shape (samples, ...), without what has no place in any sample, and which of its axes are
        positions (the last one alone, should something have no place).
    """
    sizes, positions = list(placement.sizes), placement.positions
    if placement.batch is None:
        value = value.reshape(1, *sizes)
        positions = tuple(p + 1 for p in positions)
    elif placement.batch == 0:
        value = value.reshape(-1, *sizes[1:])
    else:
        value = value.reshape(sizes).movedim(placement.batch, 0)
        positions = tuple(p + (p < placement.batch) for p in positions)
    there = _there(placement)
    if there is None:
        return value, positions
    if len(positions) == 1 and there[-1] - there[0] + 1 == len(there):
        return value.narrow(positions[0], int(there[0]), len(there)), positions
    others = [i for i in range(value.dim()) if i not in positions]
    last = value.permute(*others, *positions).flatten(len(others))
    index = torch.from_numpy(there).to(value.device)
    return last.index_select(-1, index), (len(others),)


def _there(placement: Placement) -> Indices | None:
    """Which positions have a place in any sample; None for all."""
    if placement.places is None:
        return None
    present = placement.places != NOWHERE
    if present.ndim > 1:
        present = present.any(0)
    return None if present.all() else np.flatnonzero(present)


def on_grid(maps: Tensor, placement: Placement) -> Tensor:
    """Numbers of positions, one for each, put where they lie.

    Args:
        maps: shape (samples, positions...) as :func:`arranged` leaves them.
        placement: of the term.

    Returns:
        Shape (samples, 1, *extents); positions that share a place are summed.
    """
    samples, there = maps.shape[0], _there(placement)
    if placement.shares is not None:
        shares = placement.shares if there is None else placement.shares[there]
        weights = torch.from_numpy(shares).to(maps.device, maps.dtype)
        maps = (maps.reshape(samples, -1) * weights).reshape(maps.shape)
    if placement.places is not None:
        places = placement.places if there is None else placement.places[..., there]
        size = math.prod(placement.extents)
        flat = maps.reshape(samples, -1)
        if places.ndim == 1:
            index = torch.from_numpy(places).to(maps.device)
            maps = maps.new_zeros(samples, size).index_add_(1, index, flat)
        else:
            index = torch.from_numpy(np.where(places == NOWHERE, size, places)).to(maps.device)
            maps = maps.new_zeros(samples, size + 1).scatter_add_(1, index, flat)[:, :size]
    return maps.reshape(samples, 1, *placement.extents)

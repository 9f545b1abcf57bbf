"""Where a term's numbers lie in the input, and how they become a map on its grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fullgrad.axes.algebra import NOWHERE, Atom, Axes, Indices


@dataclass(frozen=True, eq=False, slots=True)
class Placement:
    """How to read a term: its axes taken apart, and which of them are positions.

    Args:
        sizes: of the axes taken apart, for all samples.
        batch: which of them counts the samples; None if there is one sample only.
        positions: which of them are positions, in ascending order.
        extents: of the grid that the positions make, one for each axis of the input's.
        places: of each position, row-major, its place on the grid, or ``NOWHERE``; None if they
            are the grid already.
        steps: which positions count the steps of a recurrent layer, each a term of its own.
    """

    sizes: tuple[int, ...]
    batch: int | None
    positions: tuple[int, ...]
    extents: tuple[int, ...]
    places: Indices | None
    steps: tuple[int, ...] = ()


def placement_of(axes: Axes, batch: int) -> Placement | None:
    """How the terms of an activation are to be read.

    Args:
        axes: of the activation.
        batch: number of samples.

    Returns:
        None if none of its numbers lies at a position (a dense layer's, a class token's).
    """
    atoms = [a for g in axes.groups for a in g if a.size > 1 or a.batch]
    batches = [i for i, a in enumerate(atoms) if a.batch]
    if batch == 1:
        atoms, batches = [a for a in atoms if not a.batch], []
    if len(batches) != (batch > 1) or (batches and atoms[batches[0]].size != batch):
        raise ValueError("the samples are not one axis")
    known = [c for c in axes.coordinates if c is not None]
    if not known:
        return None
    of_places = {a for c in known for a in c.atoms}
    positions = tuple(i for i, a in enumerate(atoms) if a in of_places)
    extents = tuple(1 if c is None else c.extent for c in axes.coordinates)
    places = _places(axes, [atoms[i] for i in positions], extents)
    if places is not None and not (places != NOWHERE).any():
        return None
    if not positions and math.prod(extents) > 1 and places is None:
        raise ValueError("positions without an axis")
    sizes = tuple(a.size for a in atoms)
    steps = tuple(i for i in positions if atoms[i].step)
    return Placement(sizes, batches[0] if batches else None, positions, extents, places, steps)


def _places(axes: Axes, atoms: Sequence[Atom], extents: Sequence[int]) -> Indices | None:
    in_order = [a for c in axes.coordinates if c is not None for a in c.atoms if a.size > 1]
    if in_order == list(atoms) and all(c is None or c.places is None for c in axes.coordinates):
        return None
    sizes = [a.size for a in atoms]
    total, nowhere = np.zeros(sizes, dtype=np.int64), np.zeros(sizes, dtype=bool)
    stride = math.prod(extents)
    for extent, c in zip(extents, axes.coordinates, strict=True):
        stride //= extent
        if c is None:
            continue
        there = [a for a in c.atoms if a.size > 1]
        values = c.values().reshape([a.size for a in there])
        order = sorted(range(len(there)), key=lambda i: atoms.index(there[i]))
        shape = [a.size if a in there else 1 for a in atoms]
        values = values.transpose(order).reshape(shape)
        total = total + values * stride
        nowhere = nowhere | (values == NOWHERE)
    places = np.where(nowhere, NOWHERE, total).reshape(-1)
    whole = len(places) == math.prod(extents)
    return None if whole and (places == np.arange(len(places))).all() else places


def arranged(value: Tensor, placement: Placement) -> tuple[Tensor, tuple[int, ...]]:
    """A term, or some samples of it, with its axes taken apart and samples first.

    Returns:
        Shape (samples, ...), without what lies nowhere, and which of its axes are positions (the
        last one alone, should something lie nowhere).
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
    if placement.places is None or not (placement.places == NOWHERE).any():
        return value, positions
    there = np.flatnonzero(placement.places != NOWHERE)
    if len(positions) == 1 and there[-1] - there[0] + 1 == len(there):
        return value.narrow(positions[0], int(there[0]), len(there)), positions
    others = [i for i in range(value.dim()) if i not in positions]
    last = value.permute(*others, *positions).flatten(len(others))
    index = torch.from_numpy(there).to(value.device)
    return last.index_select(-1, index), (len(others),)


def on_grid(maps: Tensor, placement: Placement) -> Tensor:
    """Numbers of positions, one for each, put where they lie.

    Args:
        maps: shape (samples, positions...) as :func:`arranged` leaves them.
        placement: of the term.

    Returns:
        Shape (samples, 1, *extents); positions that share a place are summed.
    """
    samples = maps.shape[0]
    if placement.places is not None:
        there = placement.places[placement.places != NOWHERE]
        index = torch.from_numpy(there).to(maps.device)
        grid = maps.new_zeros(samples, math.prod(placement.extents))
        maps = grid.index_add_(1, index, maps.reshape(samples, -1))
    return maps.reshape(samples, 1, *placement.extents)

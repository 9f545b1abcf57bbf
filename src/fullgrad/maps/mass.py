"""From numbers on cells to numbers on places, their sum kept. Pure functions on tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from fullgrad.axes.coordinates import NOWHERE
from fullgrad.axes.placement import Cells, Placement, Spread, arranged


class Put(NamedTuple):
    """A term on one grid.

    Args:
        cells: what lies on the grid, shape (samples, 1, *extents), float64.
        fused: what lies on other grids as well, shape (samples,).
        nowhere: what has no position on this grid, shape (samples,); None if nothing has none.
    """

    cells: Tensor
    fused: Tensor | None
    nowhere: Tensor | None


def put(value: Tensor, placement: Placement) -> Put:
    """Sum (some samples of) a term over all that is no position, and put it on a grid.

    Args:
        value: gradient times bias, in the shape of the operation's output.
        placement: of the term.
    """
    view, positions = arranged(value, replace(placement, places=None))
    channels = [d for d in range(1, view.dim()) if d not in positions]
    summed = view.sum(channels) if channels else view
    numbers = summed.to(torch.float64).reshape(len(view), -1)
    fused = None
    if placement.shares is not None:
        shares = torch.from_numpy(placement.shares).to(numbers.device)
        fused = (numbers * torch.where(shares < 1, shares, 0.0)).sum(1)
        numbers = numbers * (shares >= 1)
    nowhere = None
    if placement.places is not None:
        size = math.prod(placement.extents)
        places = torch.from_numpy(placement.places).to(numbers.device)
        if bool((placement.places == NOWHERE).any()):
            places = torch.where(places == NOWHERE, size, places)
        grid = numbers.new_zeros(len(numbers), size + 1)
        if places.dim() == 1:
            grid.index_add_(1, places, numbers)
        else:
            grid.scatter_add_(1, places, numbers)
        if bool((placement.places == NOWHERE).any()):
            nowhere = grid[:, size]
        numbers = grid[:, :size]
    return Put(numbers.reshape(len(view), 1, *placement.extents), fused, nowhere)


def spread(maps: Tensor, size: Sequence[int], cells: Sequence[Cells]) -> Tensor:
    """Divide the numbers of cells among the places of the input.

    Args:
        maps: shape (B, 1, *cells), float64.
        size: of the input.
        cells: of the grid, as :func:`fullgrad.axes.spread.cells_along` makes them.

    Returns:
        Shape (B, 1, *size), of the same sum for each sample.
    """
    for d, (n, c) in enumerate(zip(size, cells, strict=True), start=2):
        if c.spread is not None:
            maps = _divided(maps, c.spread, d)
        elif c.count != n:  # one cell, of which it is only known that it reads the whole axis
            maps = (maps / n).expand(*maps.shape[:d], n, *maps.shape[d + 1 :])
    return maps


def _divided(maps: Tensor, how: Spread, axis: int) -> Tensor:
    index = torch.from_numpy(how.index).to(maps.device)
    weights = torch.from_numpy(how.weights).to(maps.device, maps.dtype)
    if index.dim() == 2:
        index, weights = index[None], weights[None]
    samples, places, taps = index.shape
    shape = [samples if d == 0 else places if d == axis else 1 for d in range(maps.dim())]
    sizes = [places if d == axis else n for d, n in enumerate(maps.shape)]
    parts = []
    for k in range(taps):
        if samples == 1:
            part = maps.index_select(axis, index[0, :, k])
        else:
            part = maps.gather(axis, index[..., k].reshape(shape).expand(sizes))
        parts.append(part * weights[..., k].reshape(shape))
    return parts[0] if taps == 1 else _from_both_ends(parts)


def _from_both_ends(parts: Sequence[Tensor]) -> Tensor:
    """A sum that is the same when its parts come in the reverse order, bit for bit."""
    forward = parts[0] + parts[1]
    if len(parts) == 2:
        return forward
    backward = parts[-1] + parts[-2]
    for first, last in zip(parts[2:], parts[-3::-1], strict=True):
        forward, backward = forward + first, backward + last
    return (forward + backward) / 2

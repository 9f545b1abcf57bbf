"""Exact sums of a map over cells and regions: places are cut where a border runs through them.

Pure functions on maps of shape (B, k, *positions); a place ``j`` covers [j, j + 1) of its axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fullgrad.errors import InputError

# Corners of a box, x before y before z: (x0, y0, x1, y1) in an image, (start, stop) in a series.
Box: TypeAlias = Sequence[float]
Boxes: TypeAlias = Sequence[Box] | Mapping[str, Box]
Sums: TypeAlias = dict[Any, Tensor]


def pooled(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Sums over even cells, of any number along each axis.

    Args:
        maps: shape (B, k, *positions).
        size: cells along each axis; more than there are places divides these.

    Returns:
        Shape (B, k, *size), of the maps' dtype and sum.
    """
    found = maps.to(torch.float64)
    for d, cells in enumerate(size, start=2):
        shares = _overlap(maps.shape[d], cells).to(maps.device)
        found = torch.tensordot(found, shares, ([d], [1])).movedim(-1, d)
    return found.to(maps.dtype)


def cells_of(size: Any, rank: int) -> tuple[int, ...]:
    """Read a size: one number for every axis, or one for each.

    Raises:
        InputError: anything else.
    """
    listed = [size] * rank if type(size) is int else size
    fits = isinstance(listed, Sequence) and len(listed) == rank
    if not fits or any(type(n) is not int or n < 1 for n in listed):
        raise InputError(f"size must be a positive integer, or {rank} of them, not {size!r}")
    return tuple(listed)


def _overlap(places: int, cells: int) -> Tensor:
    """How much of each place lies in each cell, shape (cells, places): whole numbers, divided."""
    cell, place = torch.arange(cells)[:, None], torch.arange(places)
    start = torch.maximum(cell * places, place * cells)
    stop = torch.minimum((cell + 1) * places, (place + 1) * cells)
    return (stop - start).clamp(min=0).to(torch.float64) / cells


def label_sums(maps: Tensor, labels: Any) -> Sums:
    """The sum over all places of each label, from label to shape (B, k), float64.

    Args:
        maps: shape (B, k, *positions).
        labels: integers, shape (*positions) or (B, *positions); negative ones are no region.

    Raises:
        InputError: other numbers, or another shape.
    """
    found = torch.as_tensor(labels)
    if found.is_floating_point() or found.is_complex():
        raise InputError(f"labels must be integers, not {found.dtype}")
    positions = tuple(maps.shape[2:])
    if tuple(found.shape) not in (positions, (len(maps), *positions)):
        raise InputError(
            f"labels of shape {tuple(found.shape)} do not fit a map of shape {tuple(maps.shape)}: "
            f"{positions} or {(len(maps), *positions)} is needed"
        )
    distinct, index = torch.unique(found.long().to(maps.device), return_inverse=True)
    flat = maps.to(torch.float64).flatten(2)
    index = index.reshape(-1, 1, flat.shape[2]).expand_as(flat)
    sums = flat.new_zeros(*flat.shape[:2], len(distinct)).scatter_add_(2, index, flat)
    return {int(v): sums[..., i] for i, v in enumerate(distinct.tolist()) if v >= 0}


def box_sums(maps: Tensor, boxes: Boxes, others: Sequence[str] = ()) -> Sums:
    """The sum over each box, from its name or number to shape (B, k), float64.

    Args:
        maps: shape (B, k, *positions).
        boxes: see :meth:`fullgrad.maps.complete.CompleteMap.by_region`.
        others: names of the other inputs, which are rows of the table.

    Raises:
        InputError: boxes that cannot be read, lie beside the map, or overlap.
    """
    named = dict(boxes) if isinstance(boxes, Mapping) else dict(enumerate(boxes))
    sizes = tuple(maps.shape[2:])
    for name in named:
        if name in ("rest", "elsewhere"):
            raise InputError(f"a region cannot be called {name!r}, as a row of every table is")
        if name in others:
            raise InputError(
                f"a region cannot be called {name!r}, as another input is, which has a row of its "
                "own: give it another name"
            )
    read = {name: _corners(name, box, sizes) for name, box in named.items()}
    for (name, first), (other, second) in combinations(read.items(), 2):
        if all(max(a, c) < min(b, d) for (a, b), (c, d) in zip(first, second, strict=True)):
            raise InputError(
                f"the regions {name!r} and {other!r} overlap, so that the table would count places "
                "twice; ask for one of them at a time"
            )
    found = {}
    for name, corners in read.items():
        inside = maps.to(torch.float64)
        for n, (start, stop) in zip(reversed(sizes), reversed(corners), strict=True):
            place = torch.arange(n, dtype=torch.float64, device=maps.device)
            covered = torch.clamp((place + 1).clamp(max=stop) - place.clamp(min=start), 0.0, 1.0)
            inside = inside @ covered
        found[name] = inside
    return found


def _corners(name: Any, box: Any, sizes: Sequence[int]) -> list[tuple[float, float]]:
    """A box as start and stop along each axis of the map, cut to it.

    Raises:
        InputError: it cannot be read, or holds nothing of the map.
    """
    rank = len(sizes)
    letters = ("start", "stop") if rank == 1 else [f"{c}{e}" for e in (0, 1) for c in "xyz"[:rank]]
    try:
        numbers = [float(n) for n in box]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 2 * rank or not all(map(math.isfinite, numbers)):
        raise InputError(f"region {name!r} must be ({', '.join(letters)}), not {box!r}")
    along = list(zip(numbers[:rank], numbers[rank:], strict=True))[::-1]  # the map's last axis is x
    cut = [(max(a, 0.0), min(b, float(n))) for (a, b), n in zip(along, sizes, strict=True)]
    if any(a >= b for a, b in cut):
        raise InputError(f"region {name!r} holds nothing of a map of {tuple(sizes)}: {box!r}")
    return cut


def as_numpy(t: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Numbers for a table."""
    return np.asarray(t.detach().cpu(), dtype=np.float64)

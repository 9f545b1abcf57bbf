"""Sliding windows: which places of an axis each place after a convolution, pool or resizing reads.

Each function gives the :class:`~fullgrad.axes.coordinates.Taps` of one axis. A window of 3 with
stride 2 and padding 1 over 6 places, for example, reads ``[[-1, 0, 1], [1, 2, 3], [3, 4, 5]]``.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fullgrad.axes.coordinates import NOWHERE, Indices, Table, Taps


def _taps(index: Indices, size: int, middle: object) -> Taps:
    clipped = np.where((index >= 0) & (index < size), index, NOWHERE)
    return Taps(clipped, np.asarray(middle, dtype=np.float64))


@lru_cache(maxsize=4096)
def sliding(
    size: int, after: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Taps:
    """A convolution or pool; ``after`` says how far it slides, ``ceil_mode`` included."""
    start = np.arange(after) * stride - padding
    index = start[:, None] + dilation * np.arange(kernel)
    return _taps(index, size, start + dilation * (kernel - 1) / 2)


@lru_cache(maxsize=4096)
def anywhere(size: int, after: int) -> Taps:
    """A window of which nothing is known but how many places it makes."""
    index = np.tile(np.arange(size), (after, 1))
    return _taps(index, size, (np.arange(after) + 0.5) * (size / after) - 0.5)


@lru_cache(maxsize=4096)
def transposed(
    size: int, after: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Taps:
    """A transposed convolution: place ``i`` is spread over ``i * stride - padding`` and on."""
    reached = np.arange(after)[:, None] + padding - dilation * np.arange(kernel)
    index = np.where(reached % stride == 0, reached // stride, NOWHERE)
    middle = (np.arange(after) + padding - dilation * (kernel - 1) / 2) / stride
    return _taps(index, size, middle)


@lru_cache(maxsize=4096)
def adaptive(size: int, after: int) -> Taps:
    """A pool to a given size, whose bins may overlap."""
    start = np.arange(after) * size // after
    stop = -(-(np.arange(1, after + 1) * size) // after)
    index = start[:, None] + np.arange(int((stop - start).max()))
    index = np.where(index < stop[:, None], index, NOWHERE)
    return _taps(index, size, (np.arange(after) + 0.5) * (size / after) - 0.5)


@lru_cache(maxsize=4096)
def resized(
    size: int,
    after: int,
    reach: int,
    *,
    corners: bool,
    scale: float | None = None,
    exact: bool = False,
    antialias: bool = False,
) -> Taps:
    """Interpolation between ``2 * reach`` neighbors; with ``reach`` 0 the nearest one.

    Args:
        size: places before.
        after: places after.
        reach: 1 for linear, 2 for cubic.
        corners: whether the corners are aligned.
        scale: factor that PyTorch was given; None for ``after / size``.
        exact: the nearest by centers, not by edges.
        antialias: whether the window widens when the axis shrinks.
    """
    places = np.arange(after)
    step = 1 / scale if scale else size / after
    if corners:
        middle = places * ((size - 1) / max(after - 1, 1))
    else:
        middle = (places + 0.5) * step - 0.5
    if reach == 0:
        nearest = np.floor((places + 0.5 * exact) * step).astype(np.int64)
        return _taps(np.minimum(nearest, size - 1)[:, None], size, middle)
    wide = reach * max(step, 1.0) if antialias else reach
    source = middle if reach > 1 or antialias else np.maximum(middle, 0)
    low = np.floor(source - wide).astype(np.int64) + 1
    index = low[:, None] + np.arange(int(np.ceil(2 * wide)) + (1 if antialias else 0))
    weightless = np.abs(index - source[:, None]) >= wide
    index = np.clip(index, 0, size - 1)
    return _taps(np.where(weightless, NOWHERE, index), size, middle)


def inverse(patches: Taps, after: int) -> Taps:
    """For each place, where it stands in patches laid out as (kernel, patches)."""
    flat = patches.index.T.reshape(-1)
    order = np.argsort(flat, kind="stable")
    order = order[flat[order] != NOWHERE]
    counts = np.bincount(flat[order], minlength=after)
    index = np.full((after, max(int(counts.max(initial=0)), 1)), NOWHERE, dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    column = np.arange(len(order)) - np.repeat(starts, counts)
    index[flat[order], column] = order
    return Taps(index, np.arange(after, dtype=np.float64))


def reflected(size: int, before: int, behind: int, *, edge: bool) -> Taps:
    """Padding with what is there: mirrored at the ends, or the end itself repeated."""
    places = np.arange(-before, size + behind)
    if edge:
        index = np.clip(places, 0, size - 1)
    else:
        period = max(2 * (size - 1), 1)
        index = np.abs(places) % period
        index = np.where(index >= size, period - index, index)
    return _taps(index[:, None], size, index)


def sampled(grid: Table, size: int, reach: int, corners: bool, clipped: int) -> Indices:
    """Which places ``grid_sample`` reads along one axis.

    Args:
        grid: places between -1 and 1, shape (B, height, width).
        size: of the axis.
        reach: 1 for both neighbors, 0 for the nearest place.
        corners: whether -1 and 1 are the centers of the outer places, not their edges.
        clipped: whether places outside are moved to the border.

    Returns:
        Shape (B, height, width, 1 + reach), ``NOWHERE`` for what is outside.
    """
    place = (grid + 1) / 2 * (size - 1) if corners else ((grid + 1) * size - 1) / 2
    if clipped:
        place = np.clip(place, 0, size - 1)
    if reach == 0:
        index = np.rint(place).astype(np.int64)[..., None]
    else:
        index = np.floor(place).astype(np.int64)[..., None] + np.arange(2)
        index[..., 1] = np.where(index[..., 0] == place, NOWHERE, index[..., 1])
    return np.where((index >= 0) & (index < size), index, NOWHERE)

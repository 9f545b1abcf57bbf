"""Numbers read in boxes: torchvision's ``roi_align`` and ``roi_pool``.

The boxes' values say which image each belongs to and where it lies. Where every image of the batch
has as many boxes as the others, sample by sample or round by round, the axis of boxes is samples
and boxes; otherwise the places are lost.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fullgrad.axes.algebra import Axes, permuted, read_at, regrouped
from fullgrad.axes.coordinates import NOWHERE, Indices, Table
from fullgrad.operations.call import no_bias
from fullgrad.operations.homogeneous import degree_one
from fullgrad.operations.propagation import Answer, Propagation
from fullgrad.operations.registry import put

_MOST = 20_000_000  # places read by all cells of all boxes


def _aligned(p: Propagation) -> Answer:
    """Each cell of a box reads the neighbors of some points in it."""
    axes, rois, scale = p.first(), _numbers(p.get("rois")), p.get("spatial_scale")
    if axes is None or not len(rois):
        return None
    offset = 0.5 if p.get("aligned") else 0.0
    found = []
    for i in (0, 1):  # rows, then columns
        after, size = p.shape[2 + i], axes.shape[2 + i]
        start = rois[:, 2 - i] * scale - offset
        length = rois[:, 4 - i] * scale - offset - start
        if not p.get("aligned"):
            length = np.maximum(length, 1.0)
        ratio = p.get("sampling_ratio")
        points = np.full(len(rois), ratio) if ratio > 0 else np.ceil(length / after)
        found.append(_points(start, length / after, points, after, size))
    return _in_boxes(axes, rois[:, 0], found[0], found[1])


def _points(start: Table, cell: Table, points: Table, after: int, size: int) -> Indices:
    """The places along one axis between which the points of each cell lie.

    Args:
        start: of each box.
        cell: their cells' sizes.
        points: how many there are in a cell of each box.
        after: how many cells a box has.
        size: of the axis.

    Returns:
        Shape (boxes, after, places), ``NOWHERE`` where there is none.
    """
    number = np.arange(max(int(points.max()), 1))
    within = (number + 0.5) / np.maximum(points, 1)[:, None]
    place = (
        start[:, None, None] + (np.arange(after)[:, None] + within[:, None]) * cell[:, None, None]
    )
    there = (number < points[:, None, None]) & (place >= -1) & (place <= size)
    place = np.clip(place, 0, size - 1)
    low = np.floor(place).astype(np.int64)
    index = np.stack([low, np.where(low == place, NOWHERE, low + 1)], -1)
    return np.where(there[..., None], index, NOWHERE).reshape(len(start), after, -1)


def _pooled(p: Propagation) -> Answer:
    """Each cell of a box reads the whole places that it touches."""
    axes, rois, scale = p.first(), _numbers(p.get("rois")), p.get("spatial_scale")
    if axes is None or not len(rois):
        return None
    found = []
    for i in (0, 1):
        after, size = p.shape[2 + i], axes.shape[2 + i]
        start, stop = (_rounded(rois[:, k - i] * scale) for k in (2, 4))
        cell = np.maximum(stop - start + 1, 1) / after
        edges = np.arange(after + 1) * cell[:, None]
        first = np.clip(np.floor(edges[:, :-1]) + start[:, None], 0, size)
        last = np.clip(np.ceil(edges[:, 1:]) + start[:, None], 0, size)
        index = first[..., None] + np.arange(max(int((last - first).max()), 1))
        found.append(np.where(index < last[..., None], index, NOWHERE).astype(np.int64))
    return _in_boxes(axes, rois[:, 0], found[0], found[1])


def _rounded(value: Table) -> Table:
    """Halves away from zero, as in C."""
    return np.asarray(np.sign(value) * np.floor(np.abs(value) + 0.5))


def _numbers(rois: Tensor) -> Table:
    return np.asarray(rois.detach().double().cpu().numpy())


def _in_boxes(axes: Axes, images: Table, rows: Indices, columns: Indices) -> Axes | None:
    """The axes of what was read in boxes, shape (boxes, channels, height, width).

    Args:
        axes: of the images.
        images: the image of each box.
        rows: that each cell of a box reads, shape (boxes, height, places).
        columns: the same, shape (boxes, width, places).
    """
    (boxes, height, down), (width, right) = rows.shape, columns.shape[1:]
    batch, shape = axes.shape[0], (boxes, axes.shape[1], height, width)
    each = boxes // batch
    one_by_one = np.repeat(np.arange(batch), each)
    in_rounds = np.tile(np.arange(batch), each)
    by_sample = np.array_equal(images, one_by_one)
    too_many = boxes * height * width * down * right > _MOST
    if too_many or not (by_sample or np.array_equal(images, in_rounds)):
        return None
    grid = (boxes, height, width, down, right)
    first = np.broadcast_to(rows[:, :, None, :, None], grid)
    second = np.broadcast_to(columns[:, None, :, None, :], grid)
    missing = (first == NOWHERE) | (second == NOWHERE)
    order = (batch, each) if by_sample else (each, batch)
    index = []
    for places in (first, second):
        apart = np.where(missing, NOWHERE, places).reshape(*order, height, width, -1)
        index.append(apart if by_sample else apart.swapaxes(0, 1))
    found = read_at(axes, (2, 3), (each, height, width), index)
    if found is None:
        return None
    front = (0, 2) if by_sample else (2, 0)
    return regrouped(permuted(found, [*front, 1, 3, 4]), shape)


put("torchvision::roi_align", no_bias, _aligned, family="linear")
put("torchvision::roi_pool", degree_one, _pooled, family="homogeneous")

"""Sliding windows: convolutions, pooling, resizing, patches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fullgrad.axes import windows as taps
from fullgrad.axes.algebra import (
    Axes,
    fresh,
    permuted,
    refined,
    regrouped,
    taken,
    windowed,
    with_groups,
)
from fullgrad.axes.coordinates import Atom, Taps
from fullgrad.operations.propagation.operation import RULES, Answer, Operation, rule


def _each(value: Any, dims: int) -> list[Any]:
    """An argument for each axis; one for all, or none, is repeated."""
    listed = list(value) if isinstance(value, (list, tuple)) else [value]
    return listed * dims if len(listed) == 1 else listed


def _channels_read(axes: Axes, dim: int, groups: int, after: int) -> Axes | None:
    """After channels were read together, in groups, to make others."""
    if not axes.depends(axes.groups[dim]) or groups == 1:
        return with_groups(axes, [*axes.groups[:dim], fresh(after), *axes.groups[dim + 1 :]])
    shape = axes.shape
    apart = regrouped(axes, [*shape[:dim], groups, shape[dim] // groups, *shape[dim + 1 :]])
    if apart is None:
        return None
    each = apart.groups[dim]
    left = with_groups(apart, [*apart.groups[:dim], each, *apart.groups[dim + 2 :]])
    group = (*each, *fresh(after // groups))
    return Axes((*left.groups[:dim], group, *left.groups[dim + 1 :]), left.coordinates)


@rule("convolution", "mkldnn_convolution", "cudnn_convolution")
def _convolution(operation: Operation) -> Answer:
    axes, shape, args = operation.first(), operation.shape, operation.args
    if axes is None:
        return None
    weight, dims = args[1].shape, len(shape) - 2
    stride, padding, dilation = (_each(args[i], dims) for i in (3, 4, 5))
    transposed = bool(args[6]) if len(args) > 6 else False
    groups = args[8] if len(args) > 8 else 1
    slide = taps.transposed if transposed else taps.sliding
    windows = {
        2 + i: slide(
            axes.shape[2 + i], shape[2 + i], weight[2 + i], stride[i], padding[i], dilation[i]
        )
        for i in range(dims)
    }
    slid = windowed(axes, windows)
    return slid and _channels_read(slid, 1, groups, shape[1])


def _over_last(
    operation: Operation, dims: int, window: Callable[[int, int, int], Taps]
) -> Answer:
    """Windows over the last axes: from (which, size before, size after) to what is read."""
    axes, shape = operation.first(), operation.shape
    if axes is None:
        return [None] * len(operation.outputs)
    start = len(shape) - dims
    slid = windowed(
        axes, {start + i: window(i, axes.shape[start + i], shape[start + i]) for i in range(dims)}
    )
    return [slid] * len(operation.outputs)


def _pool(dims: int) -> Callable[[Operation], Answer]:
    """Arguments as of ``max_pool2d_with_indices`` and ``avg_pool2d``."""

    def find(operation: Operation) -> Answer:
        kernel = _each(operation.args[1], dims)
        stride = _each(operation.arg(2) or kernel, dims)
        padding = _each(operation.arg(3) or 0, dims)
        named = operation.arg(4)
        dilation = _each(named if isinstance(named, (list, tuple)) else 1, dims)
        return _over_last(
            operation,
            dims,
            lambda i, n, m: taps.sliding(n, m, kernel[i], stride[i], padding[i], dilation[i]),
        )

    return find


def _adaptive(dims: int) -> Callable[[Operation], Answer]:
    return lambda operation: _over_last(operation, dims, lambda i, n, m: taps.adaptive(n, m))


def _padded(dims: int, edge: bool) -> Callable[[Operation], Answer]:
    def find(operation: Operation) -> Answer:
        widths = operation.args[1]

        def window(i: int, before: int, after: int) -> Taps:
            at = 2 * (dims - 1 - i)
            return taps.reflected(before, widths[at], widths[at + 1], edge=edge)

        return _over_last(operation, dims, window)

    return find


def _resized(dims: int, reach: int, *, exact: bool = False, antialias: bool = False) -> Any:
    """Arguments: input, size, (align_corners,) and a scale for each axis."""

    def find(operation: Operation) -> Answer:
        corners = bool(operation.arg(2)) if reach else False
        given = [a for a in operation.args[3 if reach else 2 :]][:dims]
        scales = given if len(given) == dims else [None] * dims
        return _over_last(
            operation,
            dims,
            lambda i, n, m: taps.resized(
                n, m, reach, corners=corners, scale=scales[i], exact=exact, antialias=antialias
            ),
        )

    return find


for _d in (1, 2, 3):
    RULES[f"max_pool{_d}d_with_indices"] = RULES[f"avg_pool{_d}d"] = _pool(_d)
    for _name in ("adaptive_max_pool{}d", "adaptive_avg_pool{}d", "_adaptive_avg_pool{}d"):
        RULES[_name.format(_d)] = _adaptive(_d)
    RULES[f"reflection_pad{_d}d"] = _padded(_d, edge=False)
    RULES[f"replication_pad{_d}d"] = _padded(_d, edge=True)
    RULES[f"upsample_nearest{_d}d"] = _resized(_d, 0)
    RULES[f"_upsample_nearest_exact{_d}d"] = _resized(_d, 0, exact=True)
RULES["upsample_linear1d"] = _resized(1, 1)
RULES["upsample_trilinear3d"] = _resized(3, 1)
RULES["upsample_bilinear2d"] = _resized(2, 1)
RULES["upsample_bicubic2d"] = _resized(2, 2)
RULES["_upsample_bilinear2d_aa"] = _resized(2, 1, antialias=True)
RULES["_upsample_bicubic2d_aa"] = _resized(2, 2, antialias=True)


@rule("pixel_shuffle")
def _shuffled(operation: Operation) -> Answer:
    """Channels (C, r, r) go into rows and columns: (C, H, r, W, r)."""
    axes, r = operation.first(), operation.args[1]
    if axes is None:
        return None
    *outer, channels, height, width = axes.shape
    n = len(outer)
    apart = regrouped(axes, [*outer, channels // r**2, r, r, height, width])
    if apart is None:
        return None
    order = [*range(n + 1), n + 3, n + 1, n + 4, n + 2]
    return regrouped(refined(permuted(apart, order), {n + 1: n + 2, n + 3: n + 4}), operation.shape)


@rule("pixel_unshuffle")
def _unshuffled(operation: Operation) -> Answer:
    axes, r = operation.first(), operation.args[1]
    if axes is None:
        return None
    *outer, channels, height, width = axes.shape
    n = len(outer)
    apart = regrouped(axes, [*outer, channels, height // r, r, width // r, r])
    order = [*range(n + 1), n + 2, n + 4, n + 1, n + 3]
    return apart and regrouped(permuted(apart, order), operation.shape)


@rule("as_strided")
def _strided(operation: Operation) -> Answer:
    """Pooling to one place only relabels strides that do not matter."""
    before, after = operation.args[0], operation.outputs[0]
    same = before.shape == after.shape and before.storage_offset() == after.storage_offset()
    strides = zip(before.shape, before.stride(), after.stride(), strict=False)
    return operation.first() if same and all(n < 2 or a == b for n, a, b in strides) else None


def _patch_taps(sizes: Sequence[int], arguments: Sequence[Any]) -> list[Taps]:
    """Of rows and columns: which places each patch holds, shape (patches, kernel)."""
    kernel, dilation, padding, stride = (_each(a, 2) for a in arguments)
    return [
        taps.sliding(
            n,
            (n + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1,
            kernel[i],
            stride[i],
            padding[i],
            dilation[i],
        )
        for i, n in enumerate(sizes)
    ]


@rule("im2col")
def _patches(operation: Operation) -> Answer:
    """Patches in the last axis; what is in a patch goes into channels (C, kernel, kernel)."""
    axes = operation.first()
    if axes is None or len(axes.groups) != 4:
        return None
    found = _patch_taps(axes.shape[2:], operation.args[1:5])
    for i, t in enumerate(found):
        moved = taken(axes, 2 + i, t.index.T.reshape(-1))
        if moved is None:
            return None
        axes = moved
    (rows, height), (columns, width) = (t.index.T.shape for t in found)
    apart = regrouped(axes, [*axes.shape[:2], rows, height, columns, width])
    return apart and regrouped(permuted(apart, [0, 1, 2, 4, 3, 5]), operation.shape)


@rule("col2im")
def _folded(operation: Operation) -> Answer:
    """Patches put back: each place reads its number in all patches that hold it."""
    axes, shape = operation.first(), operation.shape
    if axes is None or len(shape) != 4:
        return None
    found = _patch_taps(shape[2:], operation.args[2:6])
    (height, rows), (width, columns) = (t.index.shape for t in found)
    apart = regrouped(axes, [shape[0], shape[1], rows, columns, height, width])
    together = apart and regrouped(
        permuted(apart, [0, 1, 2, 4, 3, 5]), [*shape[:2], rows * height, columns * width]
    )
    return together and windowed(
        together, {2 + i: taps.inverse(t, shape[2 + i]) for i, t in enumerate(found)}
    )


@rule("diagonal", "diag_embed", "view_as_real", "view_as_complex", "_trilinear", "embedding",
      "grid_sampler_2d", "gather", "fractional_max_pool2d", "fractional_max_pool3d",
      "sort", "topk", "kthvalue", "mode", "cummax", "cummin", "cumsum", "masked_select", "take")
def _lost(operation: Operation) -> Answer:
    return None


@rule("unfold")
def _unfolded(operation: Operation) -> Answer:
    """Windows along one axis; what is in a window is a new last axis."""
    axes = operation.first()
    if axes is None:
        return None
    dim, size, step = operation.args[1:4]
    dim %= len(axes.groups)
    after = operation.shape[dim]
    if step >= size or size == 1:  # windows that do not overlap are only cut
        index = np.concatenate([np.arange(i * step, i * step + size) for i in range(after)])
        cut = taken(axes, dim, index)
        apart = cut and regrouped(
            cut, [*cut.shape[:dim], after, size, *cut.shape[dim + 1 :]]
        )
        if apart is None:
            return None
        groups = [*apart.groups[: dim + 1], *apart.groups[dim + 2 :], apart.groups[dim + 1]]
        return Axes(tuple(groups), apart.coordinates)
    slid = windowed(axes, {dim: taps.sliding(axes.shape[dim], after, size, step)})
    return slid and Axes((*slid.groups, (Atom(size),)), slid.coordinates)

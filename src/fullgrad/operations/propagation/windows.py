"""Sliding windows: convolutions, pooling, resampling, patches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fullgrad.axes.algebra import (
    Atom,
    Axes,
    Coordinate,
    Group,
    fresh,
    regrouped,
    taken,
    with_groups,
)
from fullgrad.operations.propagation.operation import RULES, Answer, Operation, placed, rule


def _slid(
    axes: Axes | None, shape: tuple[int, ...], spatial: int, rank: int, channels: Group | None
) -> Axes | None:
    """After sliding a window over the last axes.

    Args:
        axes: before, None if unknown.
        shape: after.
        spatial: how many axes the window slides over.
        rank: of the input's grid if there is one, else 0.
        channels: of the output; None keeps them.
    """
    dims = len(shape)
    if axes is None:
        if spatial != rank or dims != rank + 2:
            return None
        atoms = [Atom(n) for n in shape[2:]]
        groups = (
            (Atom(shape[0], batch=True),),
            channels or fresh(shape[1]),
            *((a,) for a in atoms),
        )
        return Axes(groups, tuple(Coordinate(a.size, (a,)) for a in atoms))
    groups_after: list[Group] = list(axes.groups[:-spatial])
    if channels is not None:
        groups_after[-1] = channels
    coordinates = list(axes.coordinates)
    for i in range(spatial):
        before, size = axes.groups[dims - spatial + i], shape[dims - spatial + i]
        along = axes.along(before)
        if not along and not placed(before, axes) and spatial == rank:
            along = [i]
        if not along:
            if axes.shape[dims - spatial + i] != size:
                return _slid_within(axes, shape)
            groups_after.append(before)
            continue
        atom = Atom(size)
        for k in along:
            coordinates[k] = Coordinate(size, (atom,))
        groups_after.append((atom,))
    return with_groups(Axes(tuple(groups_after), tuple(coordinates)), groups_after)


def _slid_within(axes: Axes, shape: tuple[int, ...]) -> Axes | None:
    """Pooling inside the windows of a partition: every so many places, on a coarser grid."""
    for d, (before, after) in enumerate(zip(axes.shape, shape, strict=True)):
        if before == after:
            continue
        group = axes.groups[d]
        along = [c for c in axes.coordinates if c is not None and group[0] in c.atoms]
        if len(group) != 1 or len(along) != 1 or before % after:
            return None
        coarser = taken(axes, d, np.arange(0, before, before // after), coarser=True)
        if coarser is None:
            return None
        axes = coarser
    return axes


@rule("convolution", "mkldnn_convolution", "cudnn_convolution")
def _convolution(operation: Operation) -> Answer:
    shape = operation.shape
    axes = operation.first()
    return _slid(axes, shape, len(shape) - 2, operation.rank, fresh(shape[1]))


def _pooling(dims: int) -> Callable[[Operation], Answer]:
    def rule(operation: Operation) -> Answer:
        axes = _slid(operation.first(), operation.shape, dims, operation.rank, None)
        return [axes] * len(operation.outputs)

    return rule


_WINDOWS = (
    "max_pool{}d_with_indices",
    "adaptive_max_pool{}d",
    "fractional_max_pool{}d",
    "avg_pool{}d",
    "adaptive_avg_pool{}d",
    "_adaptive_avg_pool{}d",
    "lp_pool{}d",
    "reflection_pad{}d",
    "replication_pad{}d",
    "upsample_nearest{}d",
    "_upsample_nearest_exact{}d",
)
for _dim in (1, 2, 3):
    for _name in _WINDOWS:
        RULES[_name.format(_dim)] = _pooling(_dim)
RULES["upsample_linear1d"] = _pooling(1)
RULES["upsample_trilinear3d"] = _pooling(3)
for _name in ("upsample_bilinear2d", "upsample_bicubic2d"):
    RULES[_name] = RULES[f"_{_name}_aa"] = _pooling(2)


@rule("pixel_shuffle", "pixel_unshuffle")
def _shuffled(operation: Operation) -> Answer:
    return _slid(operation.first(), operation.shape, 2, operation.rank, fresh(operation.shape[1]))


@rule("as_strided")
def _strided(operation: Operation) -> Answer:
    """Pooling to one place only relabels strides that do not matter."""
    before, after = operation.args[0], operation.outputs[0]
    same = before.shape == after.shape and before.storage_offset() == after.storage_offset()
    strides = zip(before.shape, before.stride(), after.stride(), strict=False)
    return operation.first() if same and all(n < 2 or a == b for n, a, b in strides) else None


@rule("im2col")
def _patches(operation: Operation) -> Answer:
    """Patches in the last axis, one place each; what is in a patch is channels."""
    axes, shape, before = operation.first(), operation.shape, operation.args[0].shape
    if len(before) != 4 or operation.rank != 2:
        return None
    kernel, dilation, padding, stride = operation.args[1:5]
    sizes = [
        (before[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    ]
    slid = _slid(axes, (*shape[:2], *sizes), 2, 2, fresh(shape[1]))
    return slid and regrouped(slid, shape)


@rule("col2im")
def _folded(operation: Operation) -> Answer:
    """Patches put back: a grid of the size that is asked for."""
    axes, shape = operation.first(), operation.shape
    if axes is None or len(shape) != 4 or operation.rank != 2:
        return None
    atoms = (Atom(shape[2]), Atom(shape[3]))
    groups = (axes.groups[0], fresh(shape[1]), *((a,) for a in atoms))
    return Axes(groups, tuple(Coordinate(a.size, (a,)) for a in atoms))


@rule(
    "unfold",
    "gather",
    "diagonal",
    "diag_embed",
    "rot90",
    "view_as_real",
    "view_as_complex",
    "_trilinear",
    "embedding",
    "grid_sampler_2d",
)
def _lost(operation: Operation) -> Answer:
    return None

"""Operations that move numbers: reshapes, permutations, slices, rolls, pads, joins."""

from __future__ import annotations

import numpy as np

from fullgrad.axes.algebra import Axes, fresh, permuted, regrouped, selected, taken, with_groups
from fullgrad.axes.coordinates import NOWHERE
from fullgrad.axes.broadcasting import combined, joined, stacked
from fullgrad.operations.propagation.operation import Answer, Operation, dims_of, rule


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", "ravel")
def _reshape(operation: Operation) -> Answer:
    axes = operation.first()
    if axes is None or operation.outputs[0].dtype != operation.args[0].dtype:
        return None
    return regrouped(axes, operation.shape)


@rule("permute")
def _permute(operation: Operation) -> Answer:
    axes = operation.first()
    return axes and permuted(axes, dims_of(operation.args[1], len(axes.groups)))


@rule("transpose", "t", "numpy_T", "mT")
def _transpose(operation: Operation) -> Answer:
    axes = operation.first()
    if axes is None:
        return None
    order = list(range(len(axes.groups)))
    if len(operation.args) > 2:
        i, j = dims_of(list(operation.args[1:3]), len(order))
    else:
        i, j = (0, -1) if len(order) > 1 else (0, 0)
    order[i], order[j] = order[j], order[i]
    return permuted(axes, order)


@rule("squeeze", "unsqueeze")
def _size_one(operation: Operation) -> Answer:
    axes = operation.first()
    return axes and regrouped(axes, operation.shape)


@rule("expand")
def _expand(operation: Operation) -> Answer:
    axes = operation.first()
    if axes is None:
        return None
    new = len(operation.shape) - len(axes.groups)
    old = (*[()] * new, *axes.groups)
    groups = [
        g if int(np.prod([a.size for a in g])) == n else fresh(n)
        for g, n in zip(old, operation.shape, strict=True)
    ]
    return with_groups(axes, groups)


@rule("repeat")
def _repeat(operation: Operation) -> Answer:
    axes, repeats = operation.first(), operation.args[1]
    if axes is None:
        return None
    old = (*[()] * (len(repeats) - len(axes.groups)), *axes.groups)
    return with_groups(axes, [(*fresh(r), *g) for r, g in zip(repeats, old, strict=True)])


@rule("slice")
def _slice(operation: Operation) -> Answer:
    axes = operation.first()
    if axes is None:
        return None
    _, dim, start, end, step = operation.args[:5]
    (dim,) = dims_of(dim or 0, len(axes.groups))
    index = np.arange(axes.shape[dim])[slice(start, end, step)]
    return taken(axes, dim, index)


@rule("select")
def _select(operation: Operation) -> Answer:
    axes = operation.first()
    if axes is None:
        return None
    (dim,) = dims_of(operation.args[1], len(axes.groups))
    return selected(axes, dim, operation.args[2] % axes.shape[dim])


@rule("unbind")
def _unbind(operation: Operation) -> Answer:
    axes = operation.first()
    if axes is None:
        return [None] * len(operation.outputs)
    (dim,) = dims_of(operation.arg(1) or 0, len(axes.groups))
    return [selected(axes, dim, i) for i in range(len(operation.outputs))]


@rule(
    "split",
    "split_with_sizes",
    "chunk",
    "tensor_split",
    "unsafe_split",
    "unsafe_split_with_sizes",
    "unsafe_chunk",
)
def _split(operation: Operation) -> Answer:
    axes = operation.first()
    if axes is None:
        return [None] * len(operation.outputs)
    (dim,) = dims_of(operation.arg(2) or 0, len(axes.groups))
    pieces: list[Axes | None] = []
    start = 0
    for out in operation.outputs:
        stop = start + out.shape[dim]
        pieces.append(taken(axes, dim, np.arange(start, stop)))
        start = stop
    return pieces


@rule("roll")
def _roll(operation: Operation) -> Answer:
    axes = operation.first()
    dims = operation.arg(2)
    if axes is None or not dims:
        return None
    shifts = operation.args[1]
    for shift, dim in zip(shifts, dims_of(dims, len(axes.groups)), strict=True):
        rolled = taken(axes, dim, np.roll(np.arange(axes.shape[dim]), shift))
        if rolled is None:
            return None
        axes = rolled
    return axes


@rule("flip")
def _flip(operation: Operation) -> Answer:
    axes = operation.first()
    if axes is None:
        return None
    for dim in dims_of(operation.args[1], len(axes.groups)):
        flipped = taken(axes, dim, np.arange(axes.shape[dim])[::-1])
        if flipped is None:
            return None
        axes = flipped
    return axes


@rule("constant_pad_nd")
def _pad(operation: Operation) -> Answer:
    axes, widths = operation.first(), operation.args[1]
    for i in range(len(widths) // 2):
        if axes is None:
            return None
        dim = len(axes.groups) - 1 - i
        index = np.arange(axes.shape[dim])
        before, after = widths[2 * i], widths[2 * i + 1]
        index = index[max(0, -before) : len(index) - max(0, -after)]
        index = np.pad(index, (max(0, before), max(0, after)), constant_values=NOWHERE)
        axes = taken(axes, dim, index)
    return axes


@rule("index_select")
def _index_select(operation: Operation) -> Answer:
    axes, index = operation.first(), operation.args[2]
    if axes is None:
        return None
    (dim,) = dims_of(operation.args[1], len(axes.groups))
    return taken(axes, dim, index.cpu().numpy().reshape(-1))


@rule("index")
def _index(operation: Operation) -> Answer:
    axes, indices = operation.first(), operation.args[1]
    used = [(d, i) for d, i in enumerate(indices) if i is not None]
    if axes is None or len(used) != 1:
        return None
    dim, index = used[0]
    if index.dim() != 1 or index.is_floating_point() or index.dtype.itemsize == 1:
        return None
    places = index.cpu().numpy()
    return taken(axes, dim, np.where(places < 0, places + axes.shape[dim], places))


@rule("cat")
def _cat(operation: Operation) -> Answer:
    tensors = [t for t in operation.args[0] if tuple(t.shape) != (0,)]
    (dim,) = dims_of(operation.arg(1) or 0, len(operation.shape))
    parts = [operation.axes_of(t) for t in tensors]
    return joined(parts, [t.shape[dim] for t in tensors], dim)


@rule("stack")
def _stack(operation: Operation) -> Answer:
    (dim,) = dims_of(operation.arg(1) or 0, len(operation.shape))
    return stacked([operation.axes_of(t) for t in operation.args[0]], dim)


@rule("rot90")
def _rotated(operation: Operation) -> Answer:
    """Quarter turns: rows become columns, and one of the two is turned round."""
    axes, turns = operation.first(), operation.args[1] % 4
    if axes is None:
        return None
    a, b = dims_of(operation.args[2], len(axes.groups))
    for dim in {0: (), 1: (b,), 2: (a, b), 3: (a,)}[turns]:
        flipped = taken(axes, dim, np.arange(axes.shape[dim])[::-1])
        if flipped is None:
            return None
        axes = flipped
    order = list(range(len(axes.groups)))
    if turns % 2:
        order[a], order[b] = b, a
    return permuted(axes, order)


@rule("glu")
def _gated(operation: Operation) -> Answer:
    """One half of an axis times the sigmoid of the other."""
    axes = operation.first()
    if axes is None:
        return None
    (dim,) = dims_of(operation.arg(1) if operation.arg(1) is not None else -1, len(axes.groups))
    half = axes.shape[dim] // 2
    parts = [taken(axes, dim, np.arange(s, s + half)) for s in (0, half)]
    known = [p for p in parts if p is not None]
    return combined(known, operation.shape, operation.bindings) if len(known) == 2 else None

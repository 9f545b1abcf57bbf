"""Operations that move numbers: views, reshapes, permutations, slices, rolls, copies of parts.

They are linear without a constant, so they have no bias; the axes say where each number went.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fullgrad._decisions import decided, numbers_of
from fullgrad.axes.algebra import (
    Axes,
    fresh,
    permuted,
    read_at,
    regrouped,
    selected,
    taken,
    with_groups,
)
from fullgrad.axes.coordinates import Indices
from fullgrad.operations._origins import carried
from fullgrad.operations.call import no_bias
from fullgrad.operations.propagation import Answer, Propagation, keeps_axes
from fullgrad.operations.registry import put

_moves = partial(put, bias=no_bias, family="linear", origin=carried)
_views = partial(_moves, view=True)


# -- the same numbers in the same places ------------------------------------------------------

_views("alias", axes=keeps_axes)
_moves(["clone", "_to_copy", "lift_fresh"], axes=keeps_axes)


# -- axes taken apart, put together, exchanged ------------------------------------------------


def _reshape(p: Propagation) -> Answer:
    axes = p.first()
    if axes is None or p.call.outputs[0].dtype != p.input.dtype:
        return None
    return regrouped(axes, p.shape)


_views(["view", "_unsafe_view", "_reshape_alias", "squeeze", "unsqueeze"], axes=_reshape)


def _permute(p: Propagation) -> Answer:
    axes = p.first()
    return axes and permuted(axes, p.dims("dims", len(axes.groups)))


_views("permute", axes=_permute)


def _exchanged(axes: Axes, i: int, j: int) -> Axes:
    order = list(range(len(axes.groups)))
    order[i], order[j] = order[j], order[i]
    return permuted(axes, order)


def _transpose(p: Propagation) -> Answer:
    axes = p.first()
    if axes is None or len(axes.groups) < 2:
        return axes
    return _exchanged(axes, p.get("dim0", 0), p.get("dim1", -1))


_views(["transpose", "t"], axes=_transpose)


def _strided(p: Propagation) -> Answer:
    """Pooling to one place only relabels strides that do not matter; an STFT cuts frames."""
    before, after = p.input, p.call.outputs[0]
    axes, last = p.first(), before.dim() - 1
    if axes is not None and after.dim() == before.dim() + 1 and before.is_contiguous():
        fits = after.shape[:last] == before.shape[:last] and after.stride(-1) == 1
        fits = fits and after.stride()[:last] == before.stride()[:last]
        if fits and after.storage_offset() == before.storage_offset():
            return _windows(axes, last, after.shape[-2], after.shape[-1], after.stride(-2))
        return None
    same = before.shape == after.shape and before.storage_offset() == after.storage_offset()
    strides = zip(before.shape, before.stride(), after.stride(), strict=False)
    return axes if same and all(n < 2 or a == b for n, a, b in strides) else None


_views("as_strided", axes=_strided)


# -- repeated numbers -------------------------------------------------------------------------


def _expand(p: Propagation) -> Answer:
    axes = p.first()
    if axes is None:
        return None
    new = len(p.shape) - len(axes.groups)
    old = (*[()] * new, *axes.groups)
    groups = [
        g if math.prod(a.size for a in g) == n else fresh(n)
        for g, n in zip(old, p.shape, strict=True)
    ]
    return with_groups(axes, groups)


_views("expand", axes=_expand)


def _repeat(p: Propagation) -> Answer:
    axes, repeats = p.first(), p.get("repeats")
    if axes is None:
        return None
    old = (*[()] * (len(repeats) - len(axes.groups)), *axes.groups)
    return with_groups(axes, [(*fresh(r), *g) for r, g in zip(repeats, old, strict=True)])


_moves("repeat", axes=_repeat)


# -- parts ------------------------------------------------------------------------------------


def _slice(p: Propagation) -> Answer:
    axes = p.first()
    if axes is None:
        return None
    dim, step = (p.get("dim") or 0) % len(axes.groups), p.get("step") or 1
    index = np.arange(axes.shape[dim])[slice(p.get("start"), p.get("end"), step)]
    return taken(axes, dim, index)


_views("slice", axes=_slice)


def _select(p: Propagation) -> Answer:
    axes = p.first()
    if axes is None:
        return None
    dim = p.get("dim") % len(axes.groups)
    return selected(axes, dim, p.get("index") % axes.shape[dim])


_views("select", axes=_select)


def _unbind(p: Propagation) -> Answer:
    axes = p.first()
    if axes is None:
        return None
    dim = (p.get("dim") or 0) % len(axes.groups)
    return [selected(axes, dim, i) for i in range(len(p.call.outputs))]


_views("unbind", axes=_unbind)


def _split(p: Propagation) -> Answer:
    axes = p.first()
    if axes is None:
        return None
    dim = (p.get("dim") or 0) % len(axes.groups)
    stops = np.cumsum([out.shape[dim] for out in p.call.outputs])
    pieces = zip((0, *stops[:-1]), stops, strict=True)
    return [taken(axes, dim, np.arange(start, stop)) for start, stop in pieces]


_views(["split", "split_with_sizes"], axes=_split)
_moves(["unsafe_split", "unsafe_split_with_sizes"], axes=_split)


# -- other places along an axis ---------------------------------------------------------------


def _roll(p: Propagation) -> Answer:
    axes = p.first()
    if axes is None or not p.get("dims"):
        return None
    for shift, dim in zip(p.get("shifts"), p.dims("dims", len(axes.groups)), strict=True):
        if axes is not None:
            axes = taken(axes, dim, np.roll(np.arange(axes.shape[dim]), shift))
    return axes


_moves("roll", axes=_roll)


def _flipped(axes: Axes | None, dims: tuple[int, ...]) -> Axes | None:
    for dim in dims:
        if axes is not None:
            axes = taken(axes, dim, np.arange(axes.shape[dim])[::-1])
    return axes


def _flip(p: Propagation) -> Answer:
    axes = p.first()
    return axes and _flipped(axes, p.dims("dims", len(axes.groups)))


_moves("flip", axes=_flip)


def _rotate(p: Propagation) -> Answer:
    """Quarter turns: a turn is a flip of the second axis and an exchange of the two."""
    axes = p.first()
    if axes is None:
        return None
    first, second = p.dims("dims", len(axes.groups))
    turns = p.get("k") % 4
    turned = _flipped(axes, {0: (), 1: (second,), 2: (first, second), 3: (first,)}[turns])
    return turned and (_exchanged(turned, first, second) if turns % 2 else turned)


_moves("rot90", axes=_rotate)


def _index_select(p: Propagation) -> Answer:
    axes = p.first()
    if axes is None:
        return None
    index = numbers_of(p.get("index")).cpu().numpy().reshape(-1)
    return taken(axes, p.get("dim") % len(axes.groups), index)


_moves("index_select", axes=_index_select)


def _index(p: Propagation) -> Answer:
    axes = p.first()
    used = [(d, i) for d, i in enumerate(p.get("indices")) if i is not None]
    if axes is None or any(i.is_floating_point() or i.dtype.itemsize == 1 for _, i in used):
        return None
    if len(used) > 1 and used[0][0] == 0:
        return _chosen_by_sample(axes, used[0][1], dict(used[1:]))
    if len(used) != 1 or used[0][1].dim() != 1:
        return None
    dim, index = used[0]
    return taken(axes, dim, _counted(index, axes.shape[dim]))


def _counted(index: Tensor, size: int) -> Indices:
    """Places of an axis, those counted from its end as well, from the start."""
    places = numbers_of(index).cpu().numpy()
    return np.where(places < 0, places + size, places)


def _chosen_by_sample(axes: Axes, samples: Tensor, index: dict[int, Tensor]) -> Axes | None:
    """After ``x[torch.arange(B), index]``: of each sample some places of other axes.

    Args:
        axes: before.
        samples: which sample each number is read from: its own, or the places are lost.
        index: for each axis that is read, the places; with ``samples`` of shape (B, *sizes after)
            when broadcast.
    """
    first, *places = torch.broadcast_tensors(samples, *index.values())
    own = torch.arange(axes.shape[0], device=first.device)
    if len(first) != len(own) or not decided((first.movedim(0, -1) == own).all()):
        return None
    others = [d for d in range(1, len(axes.groups)) if d not in index]
    counted = [_counted(i, axes.shape[d])[..., None] for d, i in zip(index, places, strict=True)]
    ahead = permuted(axes, [0, *index, *others])
    return read_at(ahead, range(1, 1 + len(index)), first.shape[1:], counted)


_moves("index", axes=_index)


def _gather(p: Propagation) -> Answer:
    """Some places of one axis for each sample, the same along all other axes."""
    axes, index = p.first(), p.get("index")
    if axes is None or not axes.groups:
        return None
    dim = p.get("dim") % len(axes.groups)
    shape = axes.shape
    if any(n != size for d, (n, size) in enumerate(zip(p.shape, shape, strict=True)) if d != dim):
        return None
    if dim == 0:
        return None
    rows = index.movedim(dim, 1).reshape(len(index), p.shape[dim], -1)
    if not decided((rows == rows[..., :1]).all()):
        return None
    places = numbers_of(rows[..., 0]).cpu().numpy()
    return read_at(axes, (dim,), places.shape[1:], [places[..., None]])


_moves("gather", axes=_gather)


def _unfold(p: Propagation) -> Answer:
    """Windows along one axis; what is in a window goes into a new last axis."""
    axes = p.first()
    if axes is None:
        return None
    dim = p.get("dimension") % len(axes.groups)
    return _windows(axes, dim, p.shape[dim], p.get("size"), p.get("step"))


def _windows(axes: Axes, dim: int, after: int, size: int, step: int) -> Axes | None:
    """Windows along an axis, which may overlap: their numbers go into a new last axis."""
    index = np.arange(after)[:, None] * step + np.arange(size)
    cut = taken(axes, dim, index.reshape(-1))
    apart = cut and regrouped(cut, [*cut.shape[:dim], after, size, *cut.shape[dim + 1 :]])
    if apart is None:
        return None
    order = [d for d in range(len(apart.groups)) if d != dim + 1]
    return permuted(apart, [*order, dim + 1])


_views("unfold", axes=_unfold)


# -- numbers whose places are not followed ----------------------------------------------------

# Sequences of several lengths put one behind the other: samples and steps mix in one axis.
_moves(["_pack_padded_sequence"])
_views("diagonal")
_moves(["take", "masked_select", "diag_embed", "view_as_real", "view_as_complex"])

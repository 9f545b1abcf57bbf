"""Writing into a part of a tensor: which part a view is, and what the whole holds afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from fullgrad.axes import coordinates as places
from fullgrad.axes.algebra import Axes, fresh, has_batch, merged
from fullgrad.axes.broadcasting import aligned_with
from fullgrad.axes.coordinates import Atom, Coordinate, Group, Table, count


def after_writing(
    before: Axes | None, base: Tensor, view: Tensor, written: Axes | None
) -> Axes | None:
    """The axes of a tensor of which a view was overwritten.

    Args:
        before: axes of the tensor; None for a constant.
        base: the tensor.
        view: the view of it.
        written: axes of what was written, in the view's shape; None for a constant.

    Returns:
        None if it is not known where the numbers are now.
    """
    offset = int(view.storage_offset()) - int(base.storage_offset())
    found = region_of(base.shape, base.stride(), view.shape, view.stride(), offset)
    if found is None:
        return before if view.shape == base.shape else None
    region, lacking = found
    if written is not None:
        groups = list(written.groups)
        for d in lacking:
            groups.insert(d, ())
        written = replace(written, groups=tuple(groups))
    return overwritten(before, base.shape, region, written)


def overwritten(
    base: Axes | None, shape: Sequence[int], region: Sequence[slice], written: Axes | None
) -> Axes | None:
    """The axes of an activation after a part of it was overwritten.

    Args:
        base: the activation before; None for a constant.
        shape: of it.
        region: the part, a slice for each of its axes.
        written: what was put there, an axis for each of the base's; None for a constant.

    Returns:
        None if samples were written apart.
    """
    known = written if base is None else base
    if known is None:
        return None
    partial = [d for d, s in enumerate(region) if len(range(shape[d])[s]) != shape[d]]
    if any(has_batch(known.groups[d]) for d in partial):
        return None
    groups = [fresh(n) if d in partial else known.groups[d] for d, n in enumerate(shape)]
    if base is not None:
        for d in partial:
            base = merged(base, d) or base
            groups[d] = base.groups[d]
    if written is not None:
        written = aligned_with([() if d in partial else g for d, g in enumerate(groups)], written)
    cut: dict[Atom, tuple[slice, Group]] = {
        groups[d][0]: (region[d], () if written is None else written.groups[d])
        for d in partial
        if groups[d]
    }
    pairs = [
        (
            None if base is None else base.coordinates[k],
            None if written is None else written.coordinates[k],
        )
        for k in range(len(known.coordinates))
    ]
    return Axes(tuple(groups), tuple(_put_in(old, new, groups, cut) for old, new in pairs))


def _put_in(
    before: Coordinate | None,
    new: Coordinate | None,
    groups: Sequence[Group],
    cut: dict[Atom, tuple[slice, Group]],
) -> Coordinate | None:
    """Places along one axis of an input after others were written over a part of them.

    Args:
        before: of the whole; None if it has none.
        new: of what is written; None if it has none.
        groups: of the whole.
        cut: for each atom that is written in part, which part, and the atoms of what is written.
    """
    found = [c for c in (before, new) if c is not None]
    if not found:
        return None
    used = [a for g in groups for a in g if a in cut or any(a in c.atoms for c in found)]
    table = np.full((3, *(a.size for a in used)), np.nan)
    if before is not None:
        table[:] = places.over(before, tuple(used))
    part: Table | float = np.nan
    if new is not None:
        order = tuple(b for a in used for b in (cut[a][1] if a in cut else (a,)))
        sizes = [count(cut[a][1]) if a in cut else a.size for a in used]
        part = places.over(new, order).reshape(3, *sizes)
    where = (slice(None), *(cut[a][0] if a in cut else slice(None) for a in used))
    table[where] = part
    return places.simplified(found[0].now(tuple(used), table))


def region_of(
    shape: Sequence[int],
    strides: Sequence[int],
    view_shape: Sequence[int],
    view_strides: Sequence[int],
    offset: int,
) -> tuple[list[slice], list[int]] | None:
    """The part of a tensor that a view made by slicing and selecting covers.

    Args:
        shape: of the tensor.
        strides: of the tensor, in numbers.
        view_shape: of the view.
        view_strides: of the view.
        offset: where the view starts in the tensor, in numbers.

    Returns:
        A slice for each axis of the tensor, and which of its axes the view lacks (those that a
        place was selected of); None if the view is of another kind.
    """
    starts = [0] * len(shape)
    for d in sorted(range(len(shape)), key=lambda d: -strides[d]):
        if shape[d] > 1 and strides[d] > 0:
            starts[d], offset = divmod(offset, strides[d])
            if starts[d] >= shape[d]:
                return None
    if offset:
        return None
    region: list[slice] = []
    lacking: list[int] = []
    place = 0
    for d, size in enumerate(shape):
        left_in_base, left_in_view = len(shape) - d, len(view_shape) - place
        fits = left_in_view > 0 and _fits(
            size, strides[d], starts[d], view_shape[place], view_strides[place]
        )
        if fits and (left_in_view == left_in_base or view_shape[place] > 1 or size == 1):
            step = max(view_strides[place] // strides[d], 1) if size > 1 else 1
            region.append(slice(starts[d], starts[d] + (view_shape[place] - 1) * step + 1, step))
            place += 1
        elif left_in_view < left_in_base:
            region.append(slice(starts[d], starts[d] + 1))
            lacking.append(d)
        else:
            return None
    return (region, lacking) if place == len(view_shape) else None


def _fits(size: int, stride: int, start: int, view_size: int, view_stride: int) -> bool:
    if view_size == 1:
        return True
    step, rest = divmod(view_stride, stride) if stride else (0, 1)
    return rest == 0 and step > 0 and start + (view_size - 1) * step < size

"""Detached values that are only added or subtracted: whether the output depends on them.

The maximum that a softmax written by hand subtracts is outside the graph, and the output does not
depend on it: what back-propagation would hand to it cancels. While the forward is recorded, such a
value counts as one of the graph, so its sum has no bias. The backward pass proves it: for each
number of the value, and each sample, all that would arrive there must sum to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fullgrad._compat import base_of, outside_modes, storage_id
from fullgrad._decisions import decided
from fullgrad.axes.algebra import Axes
from fullgrad.engine import samples
from fullgrad.engine._detached import Detached
from fullgrad.engine.backward import at_view, widen
from fullgrad.engine.tape import Shift, overwritten_view
from fullgrad.engine.verification import TOLERANCES
from fullgrad.operations.call import Call
from fullgrad.operations.registry import Operation

# Sums that count as zero, relative to the root of the sum of squares of what is summed: some
# roundings, by the type in which the value is added.
_ZERO = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 5e-2}
# Where all that arrives is rounding (a softmax that chooses one number): times the values that are
# added, relative to the sample's terms. Other types are too coarse to tell rounding from a mistake.
_NOTHING = {d: TOLERANCES[d] for d in (torch.float64, torch.float32)}
_FAR = 2**40


class Shifted(NamedTuple):
    """A detached value that an operation adds to one of the graph."""

    where: str
    value: Tensor
    factor: float


def shifted_by(entry: Operation, call: Call, detached: Detached) -> Shifted | None:
    """The detached value that an operation adds to one of the graph; None if it does not.

    Args:
        entry: what is known of the operation.
        call: as executed.
        detached: the values outside the graph.
    """
    y = call.outputs[0]
    if entry.addends is None or y.dtype not in _ZERO:
        return None
    (a, ours), (b, theirs) = entry.addends(call)
    if call.depends(a) == call.depends(b):
        return None
    value, factor = (b, theirs) if call.depends(a) else (a, ours)
    where = detached.where(value)
    if where is None or value.dtype not in _ZERO:
        return None
    if call.in_place and storage_id(value) == storage_id(y):
        return None  # it is overwritten
    base = base_of(y) if call.in_place else None
    if base is not None and base.is_complex():
        return None
    return Shifted(where, value, float(factor))


def shift_of(shifted: Shifted, call: Call, node: Any, axes: Axes | None) -> Shift:
    """What the backward pass needs to know of such an operation.

    Args:
        shifted: the value.
        call: the operation.
        node: of its output.
        axes: of its output.
    """
    y, value = call.outputs[0].detach(), shifted.value.expand(call.outputs[0].shape)
    view = overwritten_view(call, call.outputs[0])
    number = next((a.size for g in axes.groups for a in g if a.batch), 1) if axes else 1
    where = samples.along(axes, number)
    return Shift(
        where=shifted.where,
        node=node,
        slot=call.outputs[0].output_nr if view is None else 0,
        shape=y.shape,
        view=view,
        axes=axes,
        storage=storage_id(value),
        kind=value.dtype,
        offset=int(value.storage_offset()),
        strides=value.stride(),
        factor=shifted.factor,
        dtype=y.dtype,
        largest=_largest(y, where) + _largest(value, where).to(y.device),
    )


def _apart(value: Tensor, where: samples.Along | None) -> Tensor:
    """A value with the samples on an axis of their own."""
    if where is None:
        return value
    apart: Tensor = value.unflatten(where.dim, (where.before, -1, where.after))
    return apart


def _largest(value: Tensor, where: samples.Along | None) -> Tensor:
    """The largest finite magnitude in each sample, shape (B,), or in all."""
    apart = _apart(value, where)
    keep = None if where is None else where.dim + 1
    for d in range(apart.dim()):
        if apart.stride(d) == 0 and d != keep and apart.shape[d]:
            apart = apart.narrow(d, 0, 1)
    rows = apart.flatten()[None] if keep is None else apart.movedim(keep, 0).flatten(1)
    finite = rows.abs().nan_to_num(nan=0, posinf=0, neginf=0)
    largest: Tensor = finite.amax(1) if finite.shape[1] else rows.new_zeros(len(rows))
    return largest.double()


class _Part(NamedTuple):
    """What arrives through one operation."""

    shift: Shift
    numbers: Tensor  # which number of which sample's; those of a sample are _FAR from the next's
    totals: Tensor
    squares: Tensor


class Arrivals:
    """What back-propagation would hand to the detached values.

    Args:
        shifts: the operations that add or subtract them.
        batch: number of explained scalars.
    """

    def __init__(self, shifts: Sequence[Shift], batch: int) -> None:
        self._shifts = shifts
        self._batch = batch
        self._parts: dict[Any, list[_Part]] = {}
        self._unknown: dict[str, None] = {}

    def watching(self) -> list[tuple[Any, Callable[..., None]]]:
        """The nodes to watch, for :func:`fullgrad.engine.backward.run`."""

        def hook_for(shift: Shift) -> Callable[..., None]:
            def hook(below: Sequence[Tensor | None], above: Sequence[Tensor | None]) -> None:
                gradient = above[shift.slot]
                if gradient is not None:
                    self._take(shift, widen(at_view(gradient.detach(), shift)))

            return hook

        return [(shift.node, hook_for(shift)) for shift in self._shifts]

    def _take(self, shift: Shift, gradient: Tensor) -> None:
        """Sum what arrives at each number of the value, the samples apart."""
        where = samples.along(shift.axes, self._batch)
        if where is None and self._batch > 1:
            self._unknown[shift.where] = None
            return
        arrived = _apart(gradient, where)
        strides, keep = list(shift.strides), None
        if where is not None:
            keep, own = where.dim + 1, strides[where.dim]
            sizes = (self._batch * where.after, where.after, 1)
            strides[where.dim : where.dim + 1] = [own * n for n in sizes]
        shared = [d for d, s in enumerate(strides) if s == 0 and d != keep]
        if shared:
            double = torch.float64
            totals = arrived.sum(shared, keepdim=True, dtype=double)
            size = torch.linalg.vector_norm(arrived, 2, shared, keepdim=True, dtype=double)
        else:
            totals = arrived.double()
            size = totals.abs()
        with outside_modes():  # they depend on shapes alone
            numbers = torch.full((1,) * totals.dim(), shift.offset, device=totals.device)
            for d, (count, stride) in enumerate(zip(totals.shape, strides, strict=True)):
                step = stride + _FAR if d == keep else stride
                along = [count if k == d else 1 for k in range(totals.dim())]
                numbers = numbers + step * torch.arange(count, device=totals.device).view(along)
            numbers = numbers.flatten()
        arriving, size = (shift.factor * t.flatten() for t in (totals, size))
        part = _Part(shift, numbers, arriving, size.square())
        self._parts.setdefault((shift.storage, shift.kind), []).append(part)

    def kept(self, scale: Tensor) -> list[str]:
        """Where the values left the graph on which the output depends after all.

        Args:
            scale: sum of the absolute values of each sample's terms, shape (B,).
        """
        found = dict(self._unknown)
        for parts in self._parts.values():
            with outside_modes():
                numbers, place = torch.cat([p.numbers for p in parts]).unique(return_inverse=True)
                sample = numbers // _FAR if self._batch > 1 else torch.zeros_like(numbers)
            none = torch.zeros(len(numbers), dtype=torch.float64, device=numbers.device)
            totals = none.index_add(0, place, torch.cat([p.totals for p in parts]))
            squares = none.index_add(0, place, torch.cat([p.squares for p in parts]))
            empty = torch.zeros(self._batch, dtype=torch.float64, device=numbers.device)
            total = empty.index_add(0, sample, totals.abs())
            size = empty.index_add(0, sample, squares.sqrt())
            zero = total <= max(_ZERO[p.shift.dtype] for p in parts) * size
            least = min(_NOTHING.get(p.shift.dtype, 0.0) for p in parts)
            largest = torch.stack([_for_each(p.shift.largest, empty) for p in parts]).amax(0)
            nothing = total * largest <= least * scale.to(total.device)
            if not decided((zero | nothing & (largest > 0)).all(), proof=True):
                found.update(dict.fromkeys(p.shift.where for p in parts))
        return list(found)


def _for_each(largest: Tensor, like: Tensor) -> Tensor:
    """One number for each explained scalar."""
    return largest if largest.shape == like.shape else largest.amax().expand_as(like)

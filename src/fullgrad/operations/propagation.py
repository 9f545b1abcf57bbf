"""Axis propagation: from the axes of an operation's arguments to those of its outputs.

An axes rule is a function from a :class:`Propagation` to the axes of the first output, or to a
list with those of each output; None says that they are not known. An operation without a rule
loses the places of its numbers: nothing counts as element-wise unless it is listed as such. The
rules here serve most operations; others stand beside the bias rule of their operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from fullgrad.axes import algebra, windows
from fullgrad.axes.algebra import Axes, fresh, has_batch, regrouped, with_groups
from fullgrad.axes.broadcasting import Bindings, combined
from fullgrad.axes.coordinates import Taps
from fullgrad.axes.reading import Reading
from fullgrad.operations.call import Call


@dataclass(frozen=True, slots=True)
class Propagation:
    """One executed operation, as its axes rule sees it.

    Args:
        call: the operation, its arguments and outputs.
        axes_of: the axes of an argument, None if unknown or if it does not depend on the input.
        bindings: filled with what operations tell about atoms and places.
        rank: number of axes of the input's grid; 0 if several inputs have one.
    """

    call: Call
    axes_of: Callable[[Any], Axes | None]
    bindings: Bindings
    rank: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first output."""
        return tuple(self.call.outputs[0].shape)

    @property
    def input(self) -> Any:
        """The first argument."""
        return self.call.args[0]

    def get(self, name: str, default: Any = None) -> Any:
        """The argument of that name in the operation's schema, or ``default`` if it has none."""
        return self.call.get(name, default)

    def first(self) -> Axes | None:
        """The axes of the first argument."""
        return self.axes_of(self.call.args[0])

    def dims(self, name: str, count: int) -> tuple[int, ...]:
        """An argument that names axes, as non-negative numbers; none named means all.

        Args:
            name: of the argument.
            count: number of axes.
        """
        value = self.get(name)
        if value is None or value == []:
            return tuple(range(count))
        return tuple(d % max(count, 1) for d in ([value] if isinstance(value, int) else value))

    def lost(self, values: Iterable[Any]) -> bool:
        """Whether a value depends on the input, and nobody knows how its numbers lie in it."""
        return any(self.axes_of(v) is None and self.call.depends(v) for v in values)


# Of the first output, or of each output.
Answer: TypeAlias = "Axes | list[Axes | None] | None"
AxesRule: TypeAlias = Callable[[Propagation], Answer]


def axes_after(rule: AxesRule | None, p: Propagation) -> Sequence[Axes | None]:
    """The axes of an operation's outputs.

    Args:
        rule: of the operation, None if it has none.
        p: its arguments and outputs.

    Returns:
        One for each output; None where they are not known.
    """
    answer = None if rule is None else rule(p)
    if isinstance(answer, list):
        return answer
    return [answer, *[None] * (len(p.call.outputs) - 1)]


# -- rules that serve many operations ---------------------------------------------------------


def unknown(p: Propagation) -> Answer:
    """Lose the places, as without a rule.

    For operations whose numbers come from places that the arguments' sizes do not tell, such as
    ``gather``.

    Args:
        p: the executed operation.
    """
    return None


def keeps_axes(p: Propagation) -> Answer:
    """Give the first output the axes of the first argument, whose shape it has.

    For operations whose output i belongs to number i of the argument even if it reads others: a
    normalization, ``softmax``, ``cumsum``. (A running sum lies where its last summand does, as a
    score of attention lies where its query does, and a recurrent step where its input does.)

    Args:
        p: the executed operation.
    """
    axes = p.first()
    if axes is None or axes.shape != p.shape:
        return None
    p.bindings.visit(axes)
    return axes


def elementwise(p: Propagation) -> Answer:
    """Give the output the axes of the arguments, broadcast.

    (B, C, H, W) times (C, 1, 1) is (B, C, H, W). The argument with places says where the result
    lies; without any, one whose places are lost makes those of the result unknown.

    Args:
        p: the executed operation.
    """
    return broadcast(p, (*p.call.args, *p.call.kwargs.values()))


def broadcast(p: Propagation, values: Sequence[Any]) -> Axes | None:
    """Broadcast the axes of some of the arguments, as :func:`elementwise` does with all.

    Args:
        p: the executed operation.
        values: those of its arguments that count.
    """
    shape = p.shape
    parts = [a for v in values if isinstance(v, Tensor) and (a := p.axes_of(v)) is not None]
    if len(parts) == 1 and parts[0].shape == shape:
        axes: Axes | None = parts[0]
    elif not parts or any(not _fits(part.shape, shape) for part in parts):
        return None
    else:
        axes = combined(parts, shape, p.bindings)
    if axes is None or (not axes.placed and len(values) > len(parts) and p.lost(values)):
        return None
    p.bindings.visit(axes)
    return axes


def _fits(part: Sequence[int], shape: Sequence[int]) -> bool:
    return len(part) <= len(shape) and all(
        n in (1, size) for n, size in zip(reversed(part), reversed(shape), strict=False)
    )


def reorders(p: Propagation) -> Answer:
    """Make the axis ``dim`` one of which nothing is known, in all outputs.

    For operations that put numbers in another order along one axis (``sort``) or choose some
    (``topk``), according to their values. If positions or samples lie along that axis, the places
    are unknown.

    Args:
        p: the executed operation.
    """
    axes = p.first()
    if axes is None or not axes.groups:
        return None
    dim = p.get("dim", -1) % len(axes.groups)
    group = axes.groups[dim]
    if axes.depends(group) or has_batch(group):
        return None
    groups = [fresh(p.shape[d]) if d == dim else g for d, g in enumerate(axes.groups)]
    return [with_groups(axes, groups)] * len(p.call.outputs)


def reduces(p: Propagation) -> Answer:
    """Take the axes away that the argument ``dim`` names, from all outputs; all without it.

    What depended on them becomes coarser: a mean over windows of (B, windows, C) has no spatial
    position, one over the places in each window lies where the window does.

    Args:
        p: the executed operation.
    """
    axes = p.first()
    if axes is None:
        return None
    if len(p.call.outputs) == 1 and p.shape == axes.shape:
        p.bindings.visit(axes)
        return axes
    count = len(axes.groups)
    gone, keeps = p.dims("dim", count), len(p.shape) == count
    groups = [() if d in gone else g for d, g in enumerate(axes.groups) if keeps or d not in gone]
    if len(groups) != len(p.shape):
        return None
    return [with_groups(axes, groups)] * len(p.call.outputs)


def windowed(
    spatial: int,
    kernel: int | None = None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    *,
    new_channels: bool = False,
) -> AxesRule:
    """Make the rule of a window that slides over the last axes, as in pooling or resampling.

    Args:
        spatial: how many axes the window slides over.
        kernel: how many numbers the window reads along each of them; None if that is not known:
            the places of the output are then spread evenly, and each may have read everything.
        stride: from one window to the next.
        padding: before the first number.
        dilation: between the numbers of a window.
        new_channels: the axis before them holds something new, as after a convolution.

    Returns:
        A rule for :func:`fullgrad.operations.register`.
    """

    def window(place: int, before: int, after: int) -> Taps:
        if kernel is None:
            return windows.anywhere(before, after)
        return windows.sliding(before, after, kernel, stride, padding, dilation)

    def rule(p: Propagation) -> Answer:
        channels = p.shape[-spatial - 1] if new_channels else None
        return [slid(p, spatial, window, channels)] * len(p.call.outputs)

    return rule


def each(value: Any, count: int) -> list[Any]:
    """An argument for each axis; one for all of them is repeated."""
    listed = list(value) if isinstance(value, (list, tuple)) else [value]
    return listed * count if len(listed) == 1 else listed


def slid(
    p: Propagation,
    spatial: int,
    window: Callable[[int, int, int], Taps],
    channels: int | None = None,
    groups: int = 1,
) -> Axes | None:
    """Slide a window over the last axes of the first argument.

    Args:
        p: the executed operation.
        spatial: how many axes the window slides over.
        window: from the number of the axis among them, its size before and its size after to what
            the window reads.
        channels: how many channels it makes; None keeps them.
        groups: in how many groups channels are read together.
    """
    axes, shape = p.first(), p.shape
    if axes is None or len(axes.groups) != len(shape):
        return None
    start = len(shape) - spatial
    taps = {start + i: window(i, axes.shape[start + i], shape[start + i]) for i in range(spatial)}
    still = [d for d, w in taps.items() if w.nothing_moves and axes.shape[d] == shape[d]]
    together = tuple(d for d in taps if shape[d] == 1 and d not in still)
    moved = tuple(d for d in taps if d not in still and d not in together)
    p.bindings.readings.append(Reading(axes, tuple(taps), moved, together))
    found = algebra.windowed(axes, taps)
    if found is None or channels is None:
        return found
    return channels_read(found, start - 1, groups, channels)


def channels_read(axes: Axes, dim: int, groups: int, after: int) -> Axes | None:
    """Read the channels of each group together, to make others.

    Args:
        axes: before.
        dim: the axis of the channels.
        groups: how many groups there are.
        after: how many channels there are afterwards, all groups together.
    """
    behind = axes.groups[dim + 1 :]
    if groups == 1 or not axes.depends(axes.groups[dim]):
        return with_groups(axes, [*axes.groups[:dim], fresh(after), *behind])
    shape = axes.shape
    apart = regrouped(axes, [*shape[:dim], groups, shape[dim] // groups, *shape[dim + 1 :]])
    if apart is None:
        return None
    left = with_groups(apart, [*apart.groups[: dim + 1], *apart.groups[dim + 2 :]])
    group = (*left.groups[dim], *fresh(after // groups))
    return Axes((*left.groups[:dim], group, *left.groups[dim + 1 :]), left.coordinates)

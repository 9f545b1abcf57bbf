"""Element-wise operations, and whatever keeps its shape."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from fullgrad.axes.algebra import Axes
from fullgrad.axes.broadcasting import combined
from fullgrad.operations.propagation.operation import Answer, Operation


def _known(values: Iterable[Any], operation: Operation) -> list[Axes]:
    found = []
    for v in values:
        if isinstance(v, Tensor):
            axes = operation.axes_of(v)
            if axes is not None:
                found.append(axes)
    return found


def elementwise(operation: Operation) -> Answer:
    """The axes of the operands, broadcast."""
    parts = _known(operation.args, operation)
    shape = operation.shape
    if len(parts) == 1 and parts[0].shape == shape:
        operation.bindings.visit(parts[0])
        return parts[0]
    if not parts or any(len(p.groups) > len(shape) for p in parts):
        return None
    fits = all(
        n in (1, size)
        for p in parts
        for n, size in zip(reversed(p.shape), reversed(shape), strict=False)
    )
    if not fits:
        return None
    axes = combined(parts, shape, operation.bindings)
    if axes is not None:
        operation.bindings.visit(axes)
    return axes

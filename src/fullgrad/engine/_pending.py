"""An operation that ran and is not on the tape yet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from fullgrad.axes.algebra import Axes
from fullgrad.engine._linearizer import Source
from fullgrad.engine._shifts import Shifted
from fullgrad.operations import Call
from fullgrad.operations.registry import Overload


class Pending(NamedTuple):
    """An operation that ran; autograd gives it its node after the dispatch mode returns."""

    operation: Overload
    call: Call
    args: tuple[Any, ...]
    module: str
    edges: tuple[tuple[Any, int, Tensor], ...] = ()
    axes_before: dict[int, Axes | None] | None = None
    rest: Tensor | None = None
    saved: bool = False
    sources: tuple[Source, ...] = ()
    shifted: Shifted | None = None


def with_first(call: Call, first: Tensor) -> Call:
    """The call with its overwritten argument, which depends, as it was."""
    depends = call.depends
    return replace(
        call, args=(first, *call.args[1:]), depends=lambda v: True if v is first else depends(v)
    )

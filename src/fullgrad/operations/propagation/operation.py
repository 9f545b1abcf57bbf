"""What a following rule sees, and the table of rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from fullgrad.axes.algebra import Axes
from fullgrad.axes.coordinates import Group
from fullgrad.axes.broadcasting import Bindings


@dataclass(frozen=True, slots=True)
class Operation:
    """One executed operation, as far as axes are concerned.

    Args:
        args: positional arguments in the order of the schema, defaults filled in.
        outputs: its outputs.
        axes_of: the axes of an argument, None if unknown or if it does not depend on the input.
        bindings: filled with what operations tell about atoms and places.
        rank: number of axes of the input's grid; 0 if several inputs have one.
    """

    args: tuple[Any, ...]
    outputs: tuple[Any, ...]
    axes_of: Callable[[Any], Axes | None]
    bindings: Bindings
    rank: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first output."""
        return tuple(self.outputs[0].shape)

    def arg(self, place: int) -> Any:
        """An argument, None if the operation has fewer."""
        return self.args[place] if place < len(self.args) else None

    def first(self) -> Axes | None:
        """The axes of the first argument."""
        return self.axes_of(self.args[0])


# Of the first output, or of each output.
Answer: TypeAlias = Axes | list[Axes | None] | None
RULES: dict[str, Callable[[Operation], Answer]] = {}


def rule(*names: str) -> Callable[[Callable[[Operation], Answer]], Callable[[Operation], Answer]]:
    """Make a function the rule of the operations of these names."""

    def put(function: Callable[[Operation], Answer]) -> Callable[[Operation], Answer]:
        for name in names:
            RULES[name] = function
        return function

    return put


def dims_of(value: Any, dims: int) -> tuple[int, ...]:
    """An argument that names axes, as non-negative numbers; none named means all."""
    if value is None or value == []:
        return tuple(range(dims))
    listed = [value] if isinstance(value, int) else value
    return tuple(d + dims if d < 0 else d for d in listed)


def placed(group: Group, axes: Axes) -> bool:
    """Whether any position depends on these atoms."""
    return any(c is not None and any(a in group for a in c.atoms) for c in axes.coordinates)

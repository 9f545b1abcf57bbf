"""Following axes from operation to operation: which axes each output has, by kind of operation.

Most operations keep axes where they are. Those that rearrange numbers, reduce, multiply matrices
or slide windows have rules; any other that changes its shape loses what was known, and a map then
asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from fullgrad.axes.algebra import Axes
from fullgrad.operations.propagation import products, rearranging, reductions, windows
from fullgrad.operations.propagation.elementwise import elementwise
from fullgrad.operations.propagation.operation import RULES, Operation

__all__ = ["Operation", "axes_after", "products", "rearranging", "reductions", "windows"]


def axes_after(name: str, operation: Operation) -> Sequence[Axes | None]:
    """The axes of an operation's outputs.

    Args:
        name: the operation's name without a trailing underscore.
        operation: its arguments and outputs.

    Returns:
        One for each output; None where they are not known.
    """
    answer = RULES.get(name, elementwise)(operation)
    if not isinstance(answer, list):
        return [answer, *[None] * (len(operation.outputs) - 1)]
    return answer

"""Following the channel axis of activations from operation to operation.

A convolution's output has its channels at axis 1; a permutation moves them; most operations leave
them where they are; a reshape loses them. Where they are is what a map must know of a term.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

# These rearrange axes in ways that are not followed.
_LOSES = frozenset(
    [
        "view",
        "_unsafe_view",
        "reshape",
        "_reshape_alias",
        "as_strided",
        "t",
        "unfold",
        "im2col",
        "col2im",
        "select",
        "index",
        "gather",
        "diagonal",
        "diag_embed",
        "squeeze",
        "unsqueeze",
        "stack",
        "unbind",
        "mm",
        "bmm",
        "addmm",
        "baddbmm",
        "rot90",
        "view_as_real",
        "view_as_complex",
        "flatten",
        "ravel",
        "movedim",
        "mT",
        "numpy_T",
    ]
)


def _normal(axis: int, dims: int) -> int:
    return axis + dims if axis < 0 else axis


def channel_axis_after(
    op: str, spatial: bool, args: tuple[Any, ...], output: Any, axis_of: Callable[[Any], int | None]
) -> int | None:
    """Where an operation's output has its channels.

    Args:
        op: the operation's name.
        spatial: it is a convolution, pooling or batch-norm, which says channels are at axis 1.
        args: its arguments.
        output: its (first) output.
        axis_of: where an argument has its channels, None if unknown.

    Returns:
        The axis, or None where it is not known.
    """
    if not isinstance(output, Tensor) or output.dim() < 3:
        return None
    if spatial:
        return 1
    if op in _LOSES:
        return None
    first = args[0]
    if op in {"permute", "transpose"}:
        axis, dims = axis_of(first), output.dim()
        if axis is None:
            return None
        if op == "permute":
            return [_normal(d, dims) for d in args[1]].index(axis)
        swap = {_normal(args[1], dims): _normal(args[2], dims)}
        swap.update({b: a for a, b in swap.items()})
        return swap.get(axis, axis)
    found: set[int] = set()
    parts = first if isinstance(first, (list, tuple)) else args[:3]
    for a in parts:
        if isinstance(a, Tensor) and a.dim() == output.dim():
            axis = axis_of(a)
            if axis is not None:
                found.add(axis)
    return found.pop() if len(found) == 1 else None

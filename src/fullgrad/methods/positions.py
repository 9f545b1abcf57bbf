"""Which axes of the input are channels and which are positions, for methods that make maps."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fullgrad.axes.layouts import InputLayout, input_layouts
from fullgrad.engine.inputs import check
from fullgrad.errors import InputError, LayoutError


def letters(inputs: Any, layout: InputLayout) -> str:
    """The layout of a method's input, one letter for each axis.

    Args:
        inputs: the input, one floating tensor.
        layout: as :func:`fullgrad.saliency` takes it; None reads (B, C, *positions).

    Raises:
        InputError: the input is not a tensor with 1 to 3 axes of positions.
        LayoutError: the layout does not fit the input, or names no positions.
    """
    if not isinstance(inputs, Tensor) or (layout is None and inputs.dim() not in (3, 4, 5)):
        what = f"shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs)
        raise InputError(
            "a saliency map needs one input tensor of shape (batch, channels, positions...) with "
            f"1 to 3 spatial axes, not {what}. State other axes, as in layout='BTC'"
        )
    check(inputs)
    if layout is None:
        return "BCXYZ"[: inputs.dim()]
    if not input_layouts([inputs.shape], ["the input"], layout).grids:
        raise LayoutError(f"the layout {layout!r} names no axis of positions")
    text = layout if isinstance(layout, str) else layout[0]
    return letters(inputs, None) if text is None else text.replace(" ", "")


def positions_of(letters: str) -> list[int]:
    """The axes that are positions, of an input with these letters."""
    return [d for d, c in enumerate(letters) if c not in "BC"]


def channels_first(x: Tensor, letters: str) -> Tensor:
    """Numbers of the input's shape as (B, C, *positions), with one channel where it has none.

    Args:
        x: of the input's shape.
        letters: of its axes.
    """
    samples = letters.index("B")
    x, letters = x.movedim(samples, 0), "B" + letters.replace("B", "")
    axis = letters.find("C")
    return x.unsqueeze(1) if axis < 0 else x.movedim(axis, 1)

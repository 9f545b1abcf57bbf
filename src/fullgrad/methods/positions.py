"""Which axes of the input are channels and which are positions, for methods that make maps."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fullgrad.axes.layouts import InputLayout, input_layouts
from fullgrad.axes.reading import doubt, told_by
from fullgrad.engine.inputs import check
from fullgrad.engine.lending import own, readings_of
from fullgrad.engine.request import Request
from fullgrad.engine.wrappers import unwrap
from fullgrad.errors import InputError, LayoutError
from fullgrad.maps.minibatches import cut


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


def require_known_axes(
    model: nn.Module, inputs: Tensor, extra: Any, layout: InputLayout, batch_size: int | None
) -> None:
    """Refuse an input whose axes are not stated, and that the model does not tell.

    Args:
        model: that the input is given to.
        inputs: the input; a minibatch of it goes through the model if its shape does not tell.
        extra: additional arguments of the model.
        layout: as :func:`fullgrad.saliency` takes it.
        batch_size: how many samples go through the model together; None for all.

    Raises:
        LayoutError: naming the layouts that there may be.
        InputError: an image without a batch axis.
        ModelError: the model cannot run on the input.
    """
    layouts = input_layouts([inputs.shape], ["inputs"], layout)
    if not all(layouts.known):
        request = Request(unwrap(model), inputs, None, own(extra))
        layouts = told_by(layouts, readings_of(cut(request, slice(batch_size))))
    if (unclear := doubt(layouts, [inputs.shape], ["inputs"], certain=True)) is not None:
        raise LayoutError(unclear)


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

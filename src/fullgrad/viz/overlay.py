"""A saliency map laid over its photograph.

Only matplotlib's object-oriented interface with the Agg canvas is used: no display, no global
state. Colours are perceptually uniform and safe for colour-blind readers.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from torch import Tensor

from fullgrad._files import printable
from fullgrad._optional import require
from fullgrad.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

Array: TypeAlias = np.ndarray[Any, Any]

COLOURS = "inferno"
LOW, HIGH = 1.0, 99.5
BAR_LABEL = "{} saliency\n(0 = least, 1 = most, per image)"
SIGNED_LABEL = "{}, signed numbers\n(blue lowers the output, red raises it)"
_OPACITY = 0.75
_WIDTH = 9.0  # inches, of the whole picture
_SIGNED_WIDTH = 9.7  # the numbers at a signed scale take more room
_PANEL = 3.7  # inches, the longer side of one panel
_LOWEST = 2.3  # inches, so that the colour bar's label fits beside it
_DPI = 110
_PER_LINE = 88  # characters of a title


def normalise(saliency: Tensor | Array, low: float = LOW, high: float = HIGH) -> Array:
    """Stretch a map to [0, 1], robustly against single extreme pixels.

    Args:
        saliency: a map; axes of length 1 before the last two are dropped.
        low: this percentile of the map becomes 0, and so does all below.
        high: this percentile becomes 1, and so does all above.

    Returns:
        float32 of shape (height, width); zeros for a constant map.

    Raises:
        InputError: more than one map, an empty one, or NaN or infinite values.
        ValueError: percentiles that are not 0 <= low < high <= 100.
    """
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles must be 0 <= low < high <= 100, not {low} and {high}")
    values = _plane(saliency)
    bottom, top = np.percentile(values, (low, high))
    if not top > bottom:  # almost all pixels alike: what differs is all there is to see
        bottom, top = float(values.min()), float(values.max())
    if not top > bottom:
        return np.zeros(values.shape, np.float32)
    heat: Array = np.clip((values - bottom) / (top - bottom), 0, 1).astype(np.float32)
    return heat


def _plane(saliency: Tensor | Array) -> Array:
    array = saliency.detach().cpu().double().numpy() if isinstance(saliency, Tensor) else saliency
    shape = array.shape
    if len(shape) < 2 or array.size == 0 or array.size != shape[-1] * shape[-2]:
        raise InputError(f"one map of shape (height, width) is needed, not {tuple(shape)}")
    plane: Array = np.asarray(array, np.float64).reshape(shape[-2:])
    if not bool(np.isfinite(plane).all()):
        raise InputError("the map holds NaN or infinite values")
    return plane


def colours(heat: Array) -> Array:
    """Colours of a map in [0, 1].

    Args:
        heat: shape (height, width), from :func:`normalise`.

    Returns:
        uint8 RGB of shape (height, width, 3).

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    rgba = require("matplotlib", "cli").colormaps[COLOURS](heat, bytes=True)
    result: Array = rgba[..., :3]
    return result


def blend(image: Image.Image, heat: Array) -> Array:
    """Heat over the photograph in grey; the hotter, the less of the photograph shows through.

    Args:
        image: of the map's size.
        heat: shape (height, width), from :func:`normalise`.

    Returns:
        uint8 RGB of shape (height, width, 3).

    Raises:
        InputError: image and map differ in size.
    """
    return _mixed(image, heat, colours(heat))


def _mixed(image: Image.Image, heat: Array, drawn: Array) -> Array:
    """Colours over the photograph, the more of them the more heat there is."""
    if (image.height, image.width) != heat.shape:
        raise InputError(
            f"the image is {image.width} x {image.height}, the map {heat.shape[1]} x "
            f"{heat.shape[0]}: they must be of one size"
        )
    grey = np.asarray(image.convert("L"), np.float32)[..., None]
    # Grey and dimmed, so that all colour and all brightness in the picture are heat.
    opacity = _OPACITY * (0.25 + 0.75 * heat[..., None])
    mixed = (1 - opacity) * grey + opacity * drawn.astype(np.float32)
    return np.rint(mixed).astype(np.uint8)


def picture(
    image: Image.Image,
    saliency: Tensor | Array,
    title: str,
    caption: str = "",
    method: str = "fullgrad",
    *,
    sign: bool = False,
) -> Figure:
    """Photograph and overlay side by side, with title and colour bar.

    A map without sign is stretched between its percentiles ``LOW`` and ``HIGH``. The scale of one
    with a sign is symmetric about zero and ends at the ``HIGH`` percentile of the numbers' sizes.

    Args:
        image: what the model saw, of the map's size.
        saliency: its map.
        title: on top; long ones are wrapped.
        caption: smaller, below it; the file's name, for example.
        method: that made the map, for the colour bar.
        sign: whether the numbers have a sign.

    Returns:
        A matplotlib figure, to be saved with :func:`png` or ``savefig``.

    Raises:
        InputError: see :func:`normalise` and :func:`blend`.
        MissingDependencyError: matplotlib is not installed.
    """
    require("matplotlib", "cli")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not above: signed scales are made of what is defined here.
    from fullgrad.viz.style import limit_of, signed_colours

    if sign:
        values = _plane(saliency)
        limit = limit_of(values)
        heat = np.clip(np.abs(values) / limit, 0, 1).astype(np.float32)
        overlaid = _mixed(image, heat, signed_colours(values, limit))
    else:
        heat, limit = normalise(saliency), None
        overlaid = blend(image, heat)
    title, caption = wrapped(title, _PER_LINE), wrapped(caption, round(_PER_LINE * 1.25))
    head = 0.15 + 0.24 * (title.count("\n") + 1) + 0.18 * (caption.count("\n") + 1) * bool(caption)
    shape = heat.shape
    height = max(_PANEL * min(1.0, shape[0] / shape[1]), _LOWEST)
    foot = 0.35
    total = head + height + foot
    wide = _SIGNED_WIDTH if sign else _WIDTH
    figure = Figure(figsize=(wide, total), dpi=_DPI)
    FigureCanvasAgg(figure)
    figure.text(0.02, 1 - 0.1 / total, title, va="top", size=12, parse_math=False)
    if caption:
        below = 1 - (0.12 + 0.24 * (title.count("\n") + 1)) / total
        figure.text(0.02, below, caption, va="top", size=9, color="0.35", parse_math=False)
    width = _PANEL / wide
    bottom, tall = foot / total, height / total
    for place, (content, label) in enumerate(
        ((np.asarray(image.convert("RGB")), "what the model sees"), (overlaid, "overlay"))
    ):
        axes = figure.add_axes((0.02 + place * (width + 0.02), bottom, width, tall))
        show(axes, content)
        axes.set_xlabel(label, size=9)
    bar = figure.add_axes((0.06 + 2 * width, bottom, 0.018, tall))
    _colour_bar(bar, method, limit)
    return figure


def show(axes: Axes, content: Array) -> None:
    """An image without ticks, frame or distortion."""
    axes.imshow(content, aspect="equal", interpolation="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def _colour_bar(axes: Axes, method: str, limit: float | None) -> None:
    """The scale: of a map without sign, or up to the limit of a signed one."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    from fullgrad.viz.style import DIVERGING, signed

    ends, name = ((0.0, 1.0), COLOURS) if limit is None else ((-limit, limit), DIVERGING)
    bar = axes.figure.colorbar(ScalarMappable(Normalize(*ends), name), cax=axes)
    if limit is None:
        bar.set_ticks([0, 0.5, 1])
    else:
        bar.set_ticks([-limit, 0, limit], labels=[signed(-limit), "0", signed(limit)])
    bar.ax.tick_params(labelsize=8)
    label = BAR_LABEL if limit is None else SIGNED_LABEL
    bar.set_label(label.format(method), size=8, parse_math=False)
    bar.outline.set_visible(False)


def png(figure: Figure) -> bytes:
    """A figure as PNG file content.

    Args:
        figure: from :func:`picture` or :func:`fullgrad.viz.sheet`.

    Returns:
        The bytes of the file.
    """
    with io.BytesIO() as file, warnings.catch_warnings():
        # Names may be in a script that matplotlib's font lacks: it draws boxes and warns.
        warnings.filterwarnings("ignore", message="Glyph")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure.savefig(file, format="png")
        return file.getvalue()


def wrapped(text: str, width: int) -> str:
    """Text in lines of at most ``width`` characters; words longer than a line are broken."""
    lines = [textwrap.wrap(printable(line), width) for line in text.split("\n")]
    return "\n".join(line for part in lines for line in part)

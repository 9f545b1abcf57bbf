"""A saliency map laid over its photograph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from fullgrad._deprecated import renamed
from fullgrad._optional import require
from fullgrad.errors import InputError
from fullgrad.viz.style import (
    COLORMAP,
    DIVERGING,
    HIGH,
    LOW,
    Array,
    checked_limit,
    colors,
    limit_of,
    normalize,
    plane,
    png,
    show,
    signed,
    signed_colors,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

__all__ = [
    "HIGH",
    "LOW",
    "Array",
    "blend",
    "colors",
    "normalize",
    "overlaid",
    "picture",
    "png",
    "show",
    "wrapped",
]
__getattr__ = renamed(
    __name__, {"COLOURS": "COLORMAP", "colours": "colors", "normalise": "normalize"}
)

BAR_LABEL = "{} saliency\n(0 = least, 1 = most, per image)"
SIGNED_LABEL = "{}, signed numbers\n(blue lowers the output, red raises it)"
SHARED_LABEL = "\nscale shared with other maps: equal colors, equal numbers"
_OPACITY = 0.75
_WIDTH = 9.0  # inches, of the whole picture
_SIGNED_WIDTH = 9.7  # the numbers at a signed scale take more room
_PANEL = 3.7  # inches, the longer side of one panel
_LOWEST = 2.3  # inches, so that the color bar's label fits beside it
_DPI = 110
_PER_LINE = 88  # characters of a title


def blend(image: Image.Image, heat: Array) -> Array:
    """Heat over the photograph in gray; the hotter, the less of the photograph shows through.

    Args:
        image: of the map's size.
        heat: shape (height, width), from :func:`normalize`.

    Returns:
        uint8 RGB of shape (height, width, 3).

    Raises:
        InputError: image and map differ in size.
    """
    return _mixed(image, heat, colors(heat))


def _mixed(image: Image.Image, heat: Array, drawn: Array) -> Array:
    """Colors over the photograph, the more of them the more heat there is."""
    if (image.height, image.width) != heat.shape:
        raise InputError(
            f"the image is {image.width} x {image.height}, the map {heat.shape[1]} x "
            f"{heat.shape[0]}: they must be of one size"
        )
    gray = np.asarray(image.convert("L"), np.float32)[..., None]
    # Gray and dimmed, so that all color and all brightness in the picture are heat.
    opacity = _OPACITY * (0.25 + 0.75 * heat[..., None])
    mixed = (1 - opacity) * gray + opacity * drawn.astype(np.float32)
    return np.rint(mixed).astype(np.uint8)


def overlaid(
    image: Image.Image, saliency: Tensor | Array, *, sign: bool = False, limit: float | None = None
) -> Array:
    """A map's colors over the photograph in gray.

    Args:
        image: of the map's size.
        saliency: its map.
        sign: whether the numbers have a sign, and so a scale that is symmetric about zero.
        limit: the number at the ends of a signed map's scale; None for the map's own.

    Returns:
        uint8 RGB of shape (height, width, 3).

    Raises:
        InputError: see :func:`normalize` and :func:`blend`.
        ValueError: a limit that is not positive, or of a map without sign.
    """
    checked_limit(limit, sign)
    if not sign:
        return blend(image, normalize(saliency))
    values = plane(saliency)
    limit = limit or limit_of(values)
    heat = np.clip(np.abs(values) / limit, 0, 1).astype(np.float32)
    return _mixed(image, heat, signed_colors(values, limit))


def picture(
    image: Image.Image,
    saliency: Tensor | Array,
    title: str,
    caption: str = "",
    method: str = "fullgrad",
    *,
    sign: bool = False,
    limit: float | None = None,
) -> Figure:
    """Photograph and overlay side by side, with title and color bar.

    A map without sign is stretched between its percentiles ``LOW`` and ``HIGH``. The scale of one
    with a sign is symmetric about zero and ends at the ``HIGH`` percentile of the numbers' sizes.

    Args:
        image: what the model saw, of the map's size.
        saliency: its map.
        title: on top; long ones are wrapped.
        caption: smaller, below it; the file's name, for example.
        method: that made the map, for the color bar.
        sign: whether the numbers have a sign.
        limit: end of the signed scale, so that several maps share it (those of several classes
            of one image: :func:`fullgrad.viz.style.shared_limit`); None for the map's own.

    Returns:
        A matplotlib figure, to be saved with :func:`png` or ``savefig``.

    Raises:
        InputError: see :func:`normalize` and :func:`blend`.
        ValueError: a limit that is not positive, or of a map without sign.
        MissingDependencyError: matplotlib is not installed.
    """
    checked_limit(limit, sign)
    require("matplotlib", "cli")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shared = limit is not None
    values = plane(saliency)
    if sign:
        limit = limit or limit_of(values)
    over = overlaid(image, values, sign=sign, limit=limit)
    title, caption = wrapped(title, _PER_LINE), wrapped(caption, round(_PER_LINE * 1.25))
    head = 0.15 + 0.24 * (title.count("\n") + 1) + 0.18 * (caption.count("\n") + 1) * bool(caption)
    shape = values.shape
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
        ((np.asarray(image.convert("RGB")), "what the model sees"), (over, "overlay"))
    ):
        axes = figure.add_axes((0.02 + place * (width + 0.02), bottom, width, tall))
        show(axes, content)
        axes.set_xlabel(label, size=9)
    bar = figure.add_axes((0.06 + 2 * width, bottom, 0.018, tall))
    _color_bar(bar, method, limit, shared)
    return figure


def _color_bar(axes: Axes, method: str, limit: float | None, shared: bool) -> None:
    """The scale: of a map without sign, or up to the limit of a signed one."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    ends, name = ((0.0, 1.0), COLORMAP) if limit is None else ((-limit, limit), DIVERGING)
    bar = axes.figure.colorbar(ScalarMappable(Normalize(*ends), name), cax=axes)
    if limit is None:
        bar.set_ticks([0, 0.5, 1])
    else:
        bar.set_ticks([-limit, 0, limit], labels=[signed(-limit), "0", signed(limit)])
    bar.ax.tick_params(labelsize=8)
    label = BAR_LABEL if limit is None else SIGNED_LABEL + SHARED_LABEL * shared
    bar.set_label(label.format(method), size=8, parse_math=False)
    bar.outline.set_visible(False)

"""The borders of a map's most salient pixels, drawn on the photograph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from fullgrad.errors import InputError
from fullgrad.viz.overlay import Array, show
from fullgrad.viz.style import FAINT, Writer, lines, page, plane, wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

_LEAST_SIDE = 440  # pixels of the picture's longer side, so that lines are thin beside the image
_WIDTH, _PANEL, _MARGIN = 5.2, 4.8, 0.2  # inches


def top_pixels(saliency: Tensor | Array, percent: float) -> Array:
    """Which pixels are among the most salient ones.

    Args:
        saliency: a map; axes of length 1 before the last two are dropped.
        percent: in (0, 100]: how many of the pixels, rounded down. Where the border lies among
            pixels of one value, all of these are left out, so that a constant map has none.

    Returns:
        bool, shape (height, width).

    Raises:
        InputError: see :func:`fullgrad.viz.normalize`.
        ValueError: a percentage out of range.
    """
    if not 0 < percent <= 100:
        raise ValueError(f"percent must lie in (0, 100], not {percent!r}")
    values = plane(saliency)
    wanted = int(values.size * percent / 100)
    if wanted >= values.size:
        every: Array = np.ones(values.shape, bool)
        return every
    last_left_out = values.size - wanted - 1
    chosen: Array = values > np.partition(values, last_left_out, axis=None)[last_left_out]
    return chosen


def contour(image: Image.Image, saliency: Tensor | Array, percent: float = 10) -> Array:
    """The photograph with a line round its most salient pixels.

    The line is white between black ones, to be seen on any photograph, and lies inside the pixels
    that it goes round. Small images are enlarged.

    Args:
        image: of the map's size.
        saliency: its map.
        percent: see :func:`top_pixels`.

    Returns:
        uint8 RGB of shape (n * height, n * width, 3), n a whole number of at least 1.

    Raises:
        InputError: image and map differ in size; or see :func:`top_pixels`.
        ValueError: a percentage out of range.
    """
    chosen = top_pixels(saliency, percent)
    if (image.height, image.width) != chosen.shape:
        raise InputError(
            f"the image is {image.width} x {image.height}, the map {chosen.shape[1]} x "
            f"{chosen.shape[0]}: they must be of one size"
        )
    times = max(1, -(-_LEAST_SIDE // max(chosen.shape)))
    pixels: Array = np.asarray(image.convert("RGB")).repeat(times, 0).repeat(times, 1).copy()
    inside = chosen.repeat(times, 0).repeat(times, 1)
    for gray in (0, 255, 255, 0):
        smaller = _shrunk(inside)
        pixels[inside & ~smaller] = gray
        inside = smaller
    return pixels


def _shrunk(mask: Array) -> Array:
    """Without the pixels beside others; those at the picture's edge count as beside one."""
    padded = np.pad(mask, 1)
    near = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    result: Array = mask & near[0] & near[1] & near[2] & near[3]
    return result


def contour_picture(
    image: Image.Image, saliency: Tensor | Array, percent: float = 10, title: str = ""
) -> Figure:
    """The photograph of :func:`contour` with words below it that say what the line is.

    Args:
        image: of the map's size.
        saliency: its map.
        percent: see :func:`top_pixels`.
        title: on top; long ones are wrapped.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: see :func:`contour`.
        ValueError: a percentage out of range.
        MissingDependencyError: matplotlib is not installed.
    """
    drawn = contour(image, saliency, percent)
    share = float(top_pixels(saliency, percent).mean())
    if not share:
        text = f"The map has no most salient {percent:g} % of its pixels: too many are alike."
    else:
        text = f"Inside the white line: the {100 * share:.3g} % of the pixels that count most."
        if share < 0.9 * percent / 100:
            text += f" {percent:g} % were asked for, but the next ones are all alike."
    title, text = wrap(title, _PANEL, 12), wrap(text, _PANEL, 8.5)
    tall = max(_PANEL * min(1.0, drawn.shape[0] / drawn.shape[1]), 0.3)
    head = 0.15 + 0.22 * lines(title)
    figure = page(_WIDTH, head + tall + 0.2 + 0.17 * lines(text))
    write = Writer(figure)
    write(_MARGIN, 0.1, title, va="top", size=12)
    show(write.axes(_MARGIN, head, _PANEL, tall), drawn)
    write(_MARGIN, head + tall + 0.08, text, va="top", size=8.5, color=FAINT)
    return figure

"""A map in its colors laid over the whole photograph, as densely as is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fullgrad.viz.overlay import Array, colors, normalize, show
from fullgrad.viz.style import (
    DIVERGING,
    FAINT,
    SEQUENTIAL,
    Writer,
    checked_limit,
    limit_of,
    lines,
    page,
    plane,
    scale_bar,
    signed,
    signed_colors,
    wrap,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _PANEL = 6.4, 6.0  # inches


def drawn(saliency: Array, sign: bool, limit: float | None = None) -> Array:
    """A map in the project's colors, uint8 RGB of shape (height, width, 3).

    Args:
        saliency: shape (height, width).
        sign: whether its numbers have a sign.
        limit: end of the signed scale; None for the map's own.
    """
    values = plane(saliency)
    if sign:
        return signed_colors(values, limit or limit_of(values))
    return colors(normalize(values))


def mixture(
    photograph: Array,
    saliency: Array,
    opacity: float,
    title: str,
    text: str,
    *,
    sign: bool = False,
    limit: float | None = None,
) -> Figure:
    """The map over the photograph in its own colors, with words and a scale.

    Args:
        photograph: uint8 RGB of shape (height, width, 3).
        saliency: shape (height, width).
        opacity: of the map, 0 to 1.
        title: on top.
        text: below the scale.
        sign: whether the map's numbers have a sign.
        limit: end of the signed scale, so that several maps share it (those of several classes
            of one image: :func:`fullgrad.viz.style.shared_limit`); None for the map's own.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: a limit that is not positive, or of a map without sign.
        MissingDependencyError: matplotlib is not installed.
    """
    checked_limit(limit, sign)
    title, text = wrap(title, _PANEL, 12), wrap(text, _PANEL, 8.5)
    high, wide = saliency.shape
    tall = _PANEL * high / wide
    head = 0.15 + 0.22 * lines(title)
    figure = page(_WIDTH, head + tall + 0.55 + 0.17 * lines(text) + 0.1, dpi=120)
    write = Writer(figure)
    write(0.2, 0.1, title, va="top", size=12)
    heat = drawn(saliency, sign, limit).astype(np.float64)
    mixed = (1 - opacity) * photograph.astype(np.float64) + opacity * heat
    show(write.axes(0.2, head, _PANEL, tall), np.rint(mixed).astype(np.uint8))
    bar = write.axes(0.6, head + tall + 0.12, _WIDTH - 1.2, 0.13)
    if sign:
        limit = limit or limit_of(plane(saliency))
        ticks = {-limit: signed(-limit), 0.0: "0", limit: signed(limit)}
        scale_bar(bar, (-limit, limit), ticks, DIVERGING)
    else:
        scale_bar(bar, (0, 1), {0: "0: least", 1: "1: most"}, SEQUENTIAL)
    write(0.2, head + tall + 0.5, text, va="top", size=8.5, color=FAINT)
    return figure

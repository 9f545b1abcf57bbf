"""A map alone, with a scale in its own numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from fullgrad.viz.overlay import HIGH, LOW, Array, colors, normalize, show
from fullgrad.viz.style import (
    DIVERGING,
    FAINT,
    SEQUENTIAL,
    SHARED,
    Writer,
    checked_limit,
    limit_of,
    lines,
    number,
    page,
    plane,
    scale_bar,
    signed,
    signed_colors,
    wrap,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _PANEL, _MARGIN = 5.2, 4.8, 0.2  # inches


def heatmap(
    saliency: Tensor | Array,
    title: str = "",
    *,
    method: str = "fullgrad",
    sign: bool = False,
    limit: float | None = None,
) -> Figure:
    """One map without its photograph.

    Args:
        saliency: a map; axes of length 1 before the last two are dropped.
        title: on top; long ones are wrapped.
        method: that made the map, for the words below the scale.
        sign: whether the numbers have a sign: a diverging scale, symmetric about zero. Otherwise
            the scale goes from the map's ``LOW`` % to its ``HIGH`` % percentile.
        limit: end of the signed scale, so that several maps share it (those of several classes
            of one image: :func:`fullgrad.viz.style.shared_limit`); None for the map's own.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: see :func:`fullgrad.viz.normalize`.
        ValueError: a limit that is not positive, or of a map without sign.
        MissingDependencyError: matplotlib is not installed.
    """
    checked_limit(limit, sign)
    values = plane(saliency)
    title = wrap(title, _PANEL, 12)
    if sign:
        shared, limit = limit is not None, limit or limit_of(values)
        drawn = signed_colors(values, limit)
        ends, name = (-limit, limit), DIVERGING
        ticks = {-limit: signed(-limit), 0.0: "0", limit: signed(limit)}
        text = f"{method}: signed numbers; blue lowers the output, red raises it. The scale " + (
            SHARED if shared else f"ends at the {HIGH:g} % percentile of their sizes."
        )
    else:
        drawn = colors(normalize(values))
        ends, name = (0.0, 1.0), SEQUENTIAL
        low, high = _ends(values)
        ticks = {0.0: number(low), 1.0: number(high)}
        if low < high:
            ticks[0.5] = number((low + high) / 2)
            text = (
                f"{method} saliency: how much a pixel counts, in the method's own units, from "
                f"the map's {LOW:g} % to its {HIGH:g} % percentile."
            )
        else:
            ticks = {0.0: number(low)}
            text = f"{method} saliency: the map is constant, so there is nothing to tell apart."
    text = wrap(text, _PANEL, 8.5)
    ratio = values.shape[0] / values.shape[1]
    tall = max(_PANEL * min(1.0, ratio), 0.3)
    head = 0.15 + 0.22 * lines(title)
    height = head + tall + 0.6 + 0.17 * lines(text) + 0.1
    figure = page(_WIDTH, height)
    write = Writer(figure)
    write(_MARGIN, 0.1, title, va="top", size=12)
    show(write.axes(_MARGIN, head, _PANEL, tall), drawn)
    bar = write.axes(0.6, head + tall + 0.15, _WIDTH - 1.2, 0.14)
    scale_bar(bar, ends, ticks, name)
    write(_MARGIN, head + tall + 0.58, text, va="top", size=8.5, color=FAINT)
    return figure


def _ends(values: Array) -> tuple[float, float]:
    """The values that :func:`normalize` makes 0 and 1."""
    low, high = np.percentile(values, (LOW, HIGH))
    if not high > low:
        low, high = values.min(), values.max()
    return float(low), float(high)

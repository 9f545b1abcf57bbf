"""A map for each stage, from the first to the last, with the stage's share of the output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fullgrad.errors import InputError
from fullgrad.vision.layers import Layer, layers_of, packed, unpacked
from fullgrad.viz.overlay import colors, normalize, show
from fullgrad.viz.style import (
    BLANK,
    DIVERGING,
    FAINT,
    LOWERS,
    RAISES,
    RULE,
    SEQUENTIAL,
    Writer,
    bare,
    limit_of,
    lines,
    page,
    plane,
    scale_bar,
    shortened,
    signed,
    signed_colors,
    wrap,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Layer", "layer_strip", "layers_of", "packed", "unpacked"]

MOST = 48  # stages with a panel of their own
NO_MAP = "no positions"
_COLUMNS, _PANEL, _GAP, _WORDS = 6, 1.4, 0.14, 0.62  # inches, but for the columns


def layer_strip(
    layers: Sequence[Layer], output: float, title: str = "", *, sign: bool = False, most: int = MOST
) -> Figure:
    """A panel for each stage: its map, its name, its sum and its share of the output.

    Args:
        layers: from the first to the last; see :func:`layers_of`.
        output: the explained scalar that the shares are of.
        title: on top; long ones are wrapped.
        sign: whether the maps have a sign (``psi="signed"``): one diverging scale for all of them,
            symmetric about zero. Otherwise each map is stretched by itself.
        most: panels; of more stages those with the largest sums are shown.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: no stages, numbers that are not finite, or values that are not maps.
        ValueError: ``most`` is below 1.
        MissingDependencyError: matplotlib is not installed.
    """
    if not layers:
        raise InputError("a strip of layers needs at least one stage")
    if most < 1:
        raise ValueError(f"at least one panel is needed, not {most}")
    if not all(math.isfinite(v) for v in (output, *(s.sum for s in layers))):
        raise InputError("the output and the stages' sums must be finite numbers")
    largest = sorted(range(len(layers)), key=lambda i: -abs(layers[i].sum))[:most]
    shown = [layers[i] for i in sorted(largest)]
    limit = max((limit_of(plane(s.map)) for s in shown if s.map is not None), default=1.0)
    columns = min(_COLUMNS, max(len(shown), 3))
    rows = -(-len(shown) // columns)
    width = 0.3 + columns * (_PANEL + _GAP)
    title = wrap(title, width - 0.3, 12)
    text = wrap(_rule(layers, shown, output, sign), width - 0.3, 8)
    head = 0.16 + 0.24 * lines(title)
    under = head + rows * (_PANEL + _WORDS)
    figure = page(width, under + 0.55 + 0.16 * lines(text))
    write = Writer(figure)
    write(0.15, 0.1, title, va="top", size=12)
    scale = max(abs(s.sum) for s in shown) or 1.0
    for place, layer in enumerate(shown):
        left = 0.15 + (place % columns) * (_PANEL + _GAP)
        above = head + (place // columns) * (_PANEL + _WORDS)
        _panel(write.axes(left, above, _PANEL, _PANEL), layer, limit if sign else None)
        _share(write.axes(left, above + _PANEL + 0.03, _PANEL, 0.07), layer.sum / scale)
        below = above + _PANEL + 0.12
        write(
            left,
            below,
            shortened(layer.name, _PANEL, 8, bold=True),
            va="top",
            size=8,
            weight="bold",
        )
        write(left, below + 0.15, _words(layer, output), va="top", size=8, color=FAINT)
    bar = write.axes(width / 2 - 1.2, under + 0.05, 2.4, 0.12)
    if sign:
        ticks = {-limit: signed(-limit), 0.0: "0", limit: signed(limit)}
        scale_bar(bar, (-limit, limit), ticks, DIVERGING)
    else:
        scale_bar(bar, (0, 1), {0: "0: least", 1: "1: most"}, SEQUENTIAL)
    write(0.15, under + 0.45, text, va="top", size=8, color=FAINT)
    return figure


def _rule(layers: Sequence[Layer], shown: Sequence[Layer], output: float, sign: bool) -> str:
    rule = (
        "Color: signed numbers on one scale for all stages; blue lowers the output, red raises it."
        if sign
        else f"Color, for each stage on its own: {RULE}. Brightness cannot be compared between "
        "stages; the bars can: below each map, the size of the stage's sum, red where it raises "
        "the output, blue where it lowers it."
    )
    text = f"Stages from early to late. {rule} Shares are of the output {signed(output)}."
    if any(s.map is None for s in shown):
        text += f" '{NO_MAP}': terms without a position in the image, as those of dense layers."
    if left := len(layers) - len(shown):
        rest = math.fsum(s.sum for s in layers) - math.fsum(s.sum for s in shown)
        text += f" {left} more stages with smaller sums, {signed(rest)} together, are not shown."
    return text


def _words(layer: Layer, output: float) -> str:
    if not output:
        return signed(layer.sum)
    share = f"{100 * layer.sum / output:+.3g}".replace("-", "−", 1)
    return f"{signed(layer.sum)}  ({share} %)"


def _panel(axes: Axes, layer: Layer, limit: float | None) -> None:
    if layer.map is None:
        bare(axes)
        axes.set_facecolor(BLANK)
        axes.text(0.5, 0.5, NO_MAP, ha="center", va="center", size=8, color="0.3")
        return
    values = plane(layer.map)
    show(axes, colors(normalize(values)) if limit is None else signed_colors(values, limit))


def _share(axes: Axes, share: float) -> None:
    """A bar from the middle, to the right where the output is raised, to the left where not."""
    axes.set(xlim=(-1, 1), ylim=(0, 1))
    bare(axes)
    axes.set_facecolor(BLANK)
    axes.barh(0.5, share, height=1, color=RAISES if share > 0 else LOWERS)
    axes.axvline(0, color="0.2", lw=0.8)

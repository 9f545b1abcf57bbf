"""Curves of tests of maps, one panel for each condition, and what panels share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fullgrad._optional import require
from fullgrad.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colors, which color-blind readers can distinguish; markers and dashes do so
# again where there are more methods than colors.
_COLORS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#8C8C00")
_MARKERS = "osD^vPX*<>"
_DASHES = ("-", "--", "-.", ":")
_TITLES = {
    "least": "least salient pixels removed first\n(lower is better)",
    "most": "most salient pixels removed first\n(higher is better)",
}
_LEFT, _TOP = 0.75, 0.62  # inches beside and above the panels


def style(place: int) -> dict[str, Any]:
    """Return color, marker and dashes of the n-th method."""
    return {
        "color": _COLORS[place % len(_COLORS)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "linestyle": _DASHES[(place // len(_COLORS)) % len(_DASHES)],
    }


def blank(width: float, height: float) -> Figure:
    """Return an empty figure, sizes in inches.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    require("matplotlib", "bench")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(figure)
    return figure


class Panels:
    """A figure of panels with common lines, a legend on the right and notes below.

    Args:
        count: of panels.
        names: of the methods, each of which has its own style.
        columns: panels in a row.
        size: of a panel with its margins, in inches.
        legend: width of the legend, in inches.
        notes: lines below the panels.

    Raises:
        InputError: there is nothing to draw.
        MissingDependencyError: matplotlib is not installed.
    """

    def __init__(
        self,
        count: int,
        names: Sequence[str],
        columns: int,
        size: tuple[float, float] = (4.6, 3.7),
        legend: float = 2.7,
        notes: Sequence[str] = (),
    ) -> None:
        if not count:
            raise InputError("there are no results to draw")
        rows = -(-count // columns)
        foot = 0.68 + 0.17 * len(notes)
        width = size[0] * columns + legend
        height = max(size[1] * rows + foot - 0.35, 0.27 * (len(names) + 2) + foot)
        self.figure = blank(width, height)
        self._names, self._columns = names, columns
        self._handles: dict[str, Any] = {}
        self._corner = (1 - (legend - 0.1) / width, 1 - 0.3 / height)
        self._grid = self.figure.add_gridspec(
            rows,
            columns,
            left=_LEFT / width,
            right=1 - legend / width,
            top=1 - _TOP / height,
            bottom=foot / height,
            wspace=0.28,
            hspace=0.48,
        )
        for i, text in enumerate(reversed(notes)):
            place = (_LEFT / width, (0.1 + 0.17 * i) / height)
            self.figure.text(*place, text, size=8, color="0.35", parse_math=False)

    def panel(self, place: int, title: str, x: str, y: str) -> Axes:
        """Return the axes of the n-th panel."""
        axes = self.figure.add_subplot(self._grid[divmod(place, self._columns)])
        axes.set_title(title, size=9)
        axes.set_xlabel(x, size=9)
        axes.set_ylabel(y, size=9)
        axes.tick_params(labelsize=8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.grid(alpha=0.25, lw=0.6)
        return axes

    def lines(self, axes: Axes, part: Any, x: str, y: str, scale: float = 1.0) -> None:
        """Draw each method's line, with a band where there are intervals.

        Args:
            axes: of a panel.
            part: table with the columns method, low, high, ``x`` and ``y``.
            x: column of the places.
            y: column of the heights.
            scale: the places are multiplied by it.
        """
        for i, name in enumerate(self._names):
            own = part[part["method"] == name].sort_values(x)
            if not len(own):
                continue
            at = scale * own[x].to_numpy()
            (line,) = axes.plot(at, own[y], label=name, markersize=4.5, lw=1.5, **style(i))
            low, high = own["low"].to_numpy(), own["high"].to_numpy()
            if np.isfinite(low).all():
                axes.fill_between(at, low, high, color=line.get_color(), alpha=0.13, lw=0)
            self.legend(name, line)

    def legend(self, name: str, handle: Any) -> None:
        """Name a line in the legend."""
        self._handles[name] = handle

    def done(self) -> Figure:
        """Return the figure with its legend."""
        self.figure.legend(
            self._handles.values(),
            self._handles,
            loc="upper left",
            bbox_to_anchor=self._corner,
            fontsize=8,
            frameon=False,
            borderaxespad=0,
        )
        return self.figure


def percent_ticks(axes: Axes, fractions: Sequence[float]) -> None:
    """Put a tick at each fraction, in percent."""
    ticks = sorted({round(100 * f, 6) for f in fractions if f})
    axes.set_xticks(ticks, [f"{t:.3g}" for t in ticks])
    axes.minorticks_off()


def perturbation_curves(summary: Any, note: str = "", methods: Sequence[str] = ()) -> Figure:
    """Draw the paper's figure: one panel for each order and fill, with intervals.

    More methods than colors have a row each instead of a line, the best on top.

    Args:
        summary: columns method, order, fill, fraction, relative_change, low, high.
        note: below the panels.
        methods: which, in order; all by default. Rows are compared with the first.

    Raises:
        InputError: nothing to draw.
        MissingDependencyError: matplotlib is not installed.
    """
    names = list(methods) or list(dict.fromkeys(summary["method"]))
    conditions = list(dict.fromkeys(zip(summary["order"], summary["fill"], strict=True)))
    if conditions and len(names) > len(_COLORS):
        return _perturbation_rows(summary, note, names, conditions)
    text = "Means over images; bands: 95 % bootstrap intervals." + (f" {note}" if note else "")
    panels = Panels(len(conditions), names, min(2, len(conditions)), notes=[text])
    for place, (order, fill) in enumerate(conditions):
        axes = panels.panel(
            place,
            f"{_TITLES[order]}, filled: {fill}",
            "pixels removed (%)",
            "|change of the output| / |output|",
        )
        part = summary[(summary["order"] == order) & (summary["fill"] == fill)]
        panels.lines(axes, part, "fraction", "relative_change", 100)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        percent_ticks(axes, part["fraction"])
    return panels.done()


def _perturbation_rows(
    summary: Any, note: str, names: Sequence[str], conditions: Sequence[tuple[str, str]]
) -> Figure:
    """A row for each method, a dot for each share of pixels: no method hides another."""
    from matplotlib import colormaps
    from matplotlib.ticker import LogLocator, NullLocator

    first, row, gap, head, foot = names[0], 0.27, 1.0, 1.05, 1.05
    fractions = sorted(set(summary["fraction"]))
    shades = colormaps["plasma_r"](np.linspace(0.2, 0.95, len(fractions)))
    tall = row * (len(names) + 0.6)
    height = head + foot + len(conditions) * (tall + gap) - gap
    figure = blank(7.8, height)
    bottom = height - head
    for order, fill in conditions:
        bottom -= tall
        axes = figure.add_axes((0.31, bottom / height, 0.665, tall / height))
        bottom -= gap
        part = summary[(summary["order"] == order) & (summary["fill"] == fill)]
        means = part.groupby("method")["relative_change"].mean().reindex(list(names)).dropna()
        ranked = list(means.sort_values(ascending=order == "least").index)
        for fraction, color in zip(fractions, shades, strict=True):
            own = part[part["fraction"] == fraction].set_index("method").reindex(ranked)
            places = np.arange(len(ranked))
            axes.hlines(places, own["low"], own["high"], color=color, lw=2)
            axes.plot(own["relative_change"], places, "o", color=color, ms=6.5, label=f"{fraction}")
            if first in ranked:
                axes.axvline(
                    own["relative_change"][first], color=color, lw=0.9, alpha=0.6, zorder=0
                )
        title = f"{_TITLES[order]}, filled: {fill}".replace("\n", " ")
        axes.set_title(title, size=12, x=1, ha="right")
        axes.set_xlabel("|change of the output| / |output|", size=11)
        if (part["low"] > 0).all():
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_yticks(range(len(ranked)), ranked)
        axes.set_ylim(len(ranked) - 0.4, -0.6)
        axes.tick_params(labelsize=11, left=False)
        for label, name in zip(axes.get_yticklabels(), ranked, strict=True):
            label.set_fontweight("bold" if name == first else "normal")
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    figure.legend(
        *axes.get_legend_handles_labels()[:1],
        [f"{100 * fraction:.3g} %" for fraction in fractions],
        loc="upper left",
        bbox_to_anchor=(0.02, 1 - 0.1 / height),
        ncols=len(fractions),
        title="pixels removed",
        title_fontsize=11,
        fontsize=11,
        frameon=False,
        alignment="left",
        handletextpad=0.1,
        borderaxespad=0,
    )
    lines = [
        f"Dots: means over images. Bars: 95 % bootstrap intervals. Thin lines: {first}.",
        *([note] if note else []),
    ]
    figure.text(0.02, 0.1 / height, "\n".join(lines), size=10, color="0.35", parse_math=False)
    return figure


def ranking_dots(ranking: Any, title: str, value: str = "score") -> Figure:
    """Draw each method's mean with its interval, the best on top.

    Args:
        ranking: columns method, low, high and the value's.
        title: above.
        value: column of the means.

    Raises:
        InputError: nothing to draw.
        MissingDependencyError: matplotlib is not installed.
    """
    note = "Means over cases; bars: 95 % bootstrap intervals."
    panels = Panels(len(ranking) and 1, (), 1, legend=0.3, notes=[note])
    axes = panels.panel(0, title, value, "")
    means = ranking[value].to_numpy()
    reach = np.abs(np.stack([means - ranking["low"], ranking["high"] - means]))
    places = np.arange(len(ranking))
    axes.errorbar(means, places, xerr=reach, fmt="o", color=_COLORS[0], capsize=3)
    axes.set_yticks(places, list(ranking["method"]), size=7)
    axes.invert_yaxis()
    panels.figure.subplots_adjust(left=0.38)
    return panels.figure

"""Curves of experiments: change of the output against the share of pixels removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fullgrad._optional import require
from fullgrad.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers; markers and dashes tell them apart
# again where there are more methods than colours.
_COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#8C8C00")
_MARKERS = "osD^vPX*<>"
_DASHES = ("-", "--", "-.", ":")
_TITLES = {
    "least": "least salient pixels removed first\n(lower is better)",
    "most": "most salient pixels removed first\n(higher is better)",
}


def style(place: int) -> dict[str, Any]:
    """Colour, marker and dashes of the n-th method; control methods are grey through colour 0."""
    return {
        "color": _COLOURS[place % len(_COLOURS)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "linestyle": _DASHES[(place // len(_COLOURS)) % len(_DASHES)],
    }


def perturbation_curves(summary: Any, note: str = "", methods: Sequence[str] = ()) -> Figure:
    """The paper's figure: one panel for each order and fill, intervals shaded.

    Args:
        summary: from :func:`fullgrad.evaluation.statistics.summary`.
        note: below the panels.
        methods: which, in order; all by default.

    Raises:
        InputError: nothing to draw.
        MissingDependencyError: matplotlib is not installed.
    """
    require("matplotlib", "bench")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not len(summary):
        raise InputError("there are no results to draw")
    names = list(methods) or list(dict.fromkeys(summary["method"]))
    panels = list(dict.fromkeys(zip(summary["order"], summary["fill"], strict=True)))
    legend = 0.27 * len(names) + 0.5
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    width = 4.6 * columns + 2.6
    height = max(3.7 * rows + 0.5, legend)
    figure = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(figure)
    left, right = 0.75 / width, 1 - 2.7 / width
    grid = figure.add_gridspec(
        rows,
        columns,
        left=left,
        right=right,
        top=1 - 0.62 / height,
        bottom=0.85 / height,
        wspace=0.28,
        hspace=0.45,
    )
    handles: dict[str, Any] = {}
    for place, (order, fill) in enumerate(panels):
        axes = figure.add_subplot(grid[place // columns, place % columns])
        part = summary[(summary["order"] == order) & (summary["fill"] == fill)]
        for i, name in enumerate(names):
            own = part[part["method"] == name].sort_values("fraction")
            if not len(own):
                continue
            x = 100 * own["fraction"].to_numpy()
            (line,) = axes.plot(
                x, own["relative_change"], label=name, markersize=4.5, lw=1.5, **style(i)
            )
            axes.fill_between(x, own["low"], own["high"], color=line.get_color(), alpha=0.13, lw=0)
            handles[name] = line
        axes.set_xscale("log")
        axes.set_xlabel("pixels removed (%)", size=9)
        axes.set_ylabel("|change of the output| / |output|", size=9)
        axes.set_title(f"{_TITLES[order]}, filled: {fill}", size=9)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=8)
        ticks = sorted({100 * f for f in part["fraction"]})
        axes.set_xticks(ticks, [f"{t:.3g}" for t in ticks])
        axes.minorticks_off()
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.grid(alpha=0.25, lw=0.6)
    corner = (right + 0.02, 1 - 0.3 / height)
    figure.legend(
        handles.values(),
        handles,
        loc="upper left",
        bbox_to_anchor=corner,
        fontsize=8,
        frameon=False,
        borderaxespad=0,
    )
    text = "Means over images; bands: 95 % bootstrap intervals." + (f" {note}" if note else "")
    figure.text(left, 0.12 / height, text, size=8, color="0.35", parse_math=False)
    return figure

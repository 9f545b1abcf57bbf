"""The picture of the theory: regions, sums, and what changes on a path.

matplotlib's object-oriented interface with the Agg canvas, as in ``overlay``. Colors are safe for
color-blind readers (Okabe and Ito's, and cividis), and color alone says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fullgrad._optional import require
from fullgrad.evaluation.theory.linear_regions import EXTENT, Array, zero_line
from fullgrad.evaluation.theory.properties import Measured, Represented, Theory, Walk

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE = (10.0, 14.2)  # inches
_DPI = 110
_BLUE, _ORANGE, _GREY, _BLACK = "#0072B2", "#D55E00", "#6b6b6b", "#111111"
_SMALL = 0.04  # area below which a region has no arrow
_HEADS = (
    "representation",
    "should sum to",
    "largest gap\nof that sum",
    "complete?",
    "largest change\nwithin a region",
    "weakly\ndependent?",
)
_COLUMNS = (0.06, 0.27, 0.43, 0.575, 0.715, 0.875)


def figure(theory: Theory) -> Figure:
    """Regions, completeness, weak dependence and the table, below each other.

    Args:
        theory: from :func:`fullgrad.evaluation.theory.properties.theory`.

    Returns:
        A matplotlib figure, to be saved with :func:`fullgrad.viz.png`.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    require("matplotlib", "cli")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    page = Figure(figsize=_SIZE, dpi=_DPI)
    FigureCanvasAgg(page)
    _head(page, 14.05, "a", "The network is one flat plane on each of its linear regions")
    _map(page, theory)
    _head(
        page,
        8.95,
        "b",
        "Complete: the input term and the biases' terms sum to f(x)",
        "A and B share a region, so the biases' terms are the same; only slope times x differs.",
    )
    _sums(page, theory)
    _head(
        page,
        5.62,
        "c",
        "Weakly dependent: what changes on the way from A through B to C?",
        "Dotted lines are borders between regions.",
    )
    _path(page, theory)
    _head(page, 1.5, "d", f"Both properties, measured at {theory.samples} points")
    _table(page, theory.measured)
    return page


def _box(
    left: float, bottom: float, width: float, height: float
) -> tuple[float, float, float, float]:
    """A rectangle in inches as shares of the page."""
    return left / _SIZE[0], bottom / _SIZE[1], width / _SIZE[0], height / _SIZE[1]


def _head(page: Figure, top: float, letter: str, text: str, more: str = "") -> None:
    y = top / _SIZE[1]
    page.text(0.02, y, letter, size=14, weight="bold", va="top")
    page.text(0.05, y, text, size=13, va="top")
    page.text(0.05, y - 0.27 / _SIZE[1], more, size=9.5, va="top", color="0.3")


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def _map(page: Figure, theory: Theory) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.colors import ListedColormap, Normalize

    axes: Any = page.add_axes(_box(0.75, 9.5, 6.2, 4.13))
    steepness = np.array([float(np.hypot(*r.slope)) for r in theory.regions])
    light = ListedColormap(require("matplotlib", "cli").colormaps["cividis"](_levels()))
    scale = Normalize(0, float(steepness.max()))
    axes.add_collection(
        PolyCollection(
            [r.vertices for r in theory.regions],
            facecolors=light(scale(steepness)),
            edgecolors="white",
            linewidths=1.2,
        )
    )
    _data(axes, theory)
    for number, region in enumerate(theory.regions):
        if region.area > _SMALL and number not in theory.homes:
            _arrow(axes, region.center, region.slope, 0.5)
    lines = [line for line in map(zero_line, theory.regions) if line is not None]
    axes.add_collection(LineCollection(lines, colors=_BLACK, linewidths=2.6, capstyle="round"))
    path = theory.walk.seen.points
    axes.plot(*path[[0, -1]].T, color=_ORANGE, lw=2.2, ls=(0, (4, 2)), zorder=4)
    marks = zip(theory.names, theory.marked.points, theory.marked.gradient, strict=True)
    for name, point, gradient in marks:
        _arrow(axes, point, gradient, 0.0)
        axes.plot(*point, "o", ms=17, mfc="white", mec=_ORANGE, mew=2, zorder=5)
        axes.text(*point, name, size=11, weight="bold", ha="center", va="center", zorder=6)
    axes.set(xlim=EXTENT[:2], ylim=EXTENT[2:], aspect="equal")
    axes.set_xlabel("$x_1$", size=11)
    axes.set_ylabel("$x_2$", size=11, rotation=0, labelpad=4)
    axes.tick_params(labelsize=9)
    bar = page.colorbar(ScalarMappable(scale, light), cax=page.add_axes(_box(7.25, 9.5, 0.16, 1.7)))
    bar.set_label("steepness |slope|\nof each region", size=9)
    bar.ax.tick_params(labelsize=9)
    bar.outline.set_visible(False)
    _key(page, theory)


def _arrow(axes: Any, at: Array, slope: Array, behind: float) -> None:
    """An arrow uphill of fixed length, a share of it behind the point."""
    steep = float(np.hypot(*slope))
    if steep:
        step = slope / steep * 0.32
        style = {"arrowstyle": "-|>", "lw": 1.4, "color": _BLACK, "mutation_scale": 9}
        style |= {"shrinkA": 0, "shrinkB": 0}
        axes.annotate("", at + (1 - behind) * step, at - behind * step, arrowprops=style)


def _levels() -> Array:
    """The lighter two thirds of a color map, on which black lines can be seen."""
    return np.linspace(0.33, 1, 256)


def _data(axes: Any, theory: Theory) -> None:
    for label, marker in ((0, "o"), (1, "^")):
        points = theory.trained.points[theory.trained.labels == label]
        axes.plot(*points.T, marker, ms=3.5, mfc="white", mec=_GREY, mew=0.7, alpha=0.9)


def _key(page: Figure, theory: Theory) -> None:
    from matplotlib.lines import Line2D

    data: dict[str, Any] = {"ls": "", "mfc": "white", "mec": _GREY}
    handles = [
        Line2D([], [], color="0.75", lw=1.2, label=f"borders of {len(theory.regions)} regions"),
        Line2D(
            [],
            [],
            color=_BLACK,
            ls="",
            marker=r"$\rightarrow$",
            ms=13,
            label="uphill: the slope's direction",
        ),
        Line2D([], [], color=_BLACK, lw=2.6, label="decision: f(x) = 0"),
        Line2D([], [], marker="o", ms=5, label="data, class f < 0", **data),
        Line2D([], [], marker="^", ms=5, label="data, class f > 0", **data),
        Line2D([], [], color=_ORANGE, lw=2.2, ls=(0, (4, 2)), label="path of panel c"),
    ]
    page.legend(
        handles=handles,
        loc="upper left",
        frameon=False,
        fontsize=9.5,
        labelspacing=0.55,
        bbox_to_anchor=(7.05 / _SIZE[0], 13.65 / _SIZE[1]),
        borderaxespad=0,
    )
    text = "A and B lie in one region:\ntheir arrows are alike.\nC lies in another."
    page.text(7.2 / _SIZE[0], 11.85 / _SIZE[1], text, size=9.5, va="top")


def _sums(page: Figure, theory: Theory) -> None:
    seen = theory.marked
    steps = [_waterfall(seen, i) for i in range(len(theory.names))]
    ends = np.concatenate([np.cumsum(s) for s in steps])
    low, high = min(0.0, float(ends.min())), max(0.0, float(ends.max()))
    room = 0.16 * (high - low)
    for place, (name, home) in enumerate(zip(theory.names, theory.homes, strict=True)):
        axes = page.add_axes(_box(0.75 + place * 3.1, 6.35, 2.85, 1.85))
        _bars(axes, seen, place)
        axes.set_ylim(low - room, high + room)
        number = theory.homes.index(home) + 1
        title = f"{name}, in region {number if number == 1 else 2}"
        axes.set_title(title, size=10.5, loc="left", pad=3)
        if place:
            axes.set_yticklabels([])
        else:
            axes.set_ylabel("contribution to f", size=9.5)
        text = f"gap between sum and f(x): {_number(abs(seen.residual[place]))}"
        axes.set_xlabel(text, size=9, labelpad=5)


def _waterfall(seen: Represented, place: int) -> list[float]:
    return [float(seen.input_term[place]), *(float(t[place].sum()) for t in seen.bias_terms)]


def _bars(axes: Axes, seen: Represented, place: int) -> None:
    from matplotlib.patheffects import withStroke

    steps = _waterfall(seen, place)
    starts = [0.0, *np.cumsum(steps)[:-1]]
    output = float(seen.output[place])
    names = ["input", *(f"biases\n{layer}" for layer in seen.layers), "f(x)"]
    heights, bottoms = [*steps, output], [*starts, 0.0]
    colors = [_BLUE, *([_ORANGE] * len(seen.layers)), "0.25"]
    axes.bar(range(len(names)), heights, bottom=bottoms, width=0.7, color=colors, ec=colors, lw=1)
    for i, (height, bottom) in enumerate(zip(heights, bottoms, strict=True)):
        top = max(bottom, bottom + height) if height >= 0 else min(bottom, bottom + height)
        axes.annotate(
            f"{height:+.2f}".replace("-", "\N{MINUS SIGN}"),
            (i, top),
            (0, 2 if height >= 0 else -2),
            textcoords="offset points",
            size=8.5,
            ha="center",
            va="bottom" if height >= 0 else "top",
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )
        if i < len(names) - 2:
            end = bottom + height
            axes.plot([i + 0.35, i + 0.65], [end, end], color=_GREY, lw=0.9)
    axes.axhline(0, color=_BLACK, lw=0.8)
    axes.set_xticks(range(len(names)), names, size=8)
    axes.set_xlim(-0.5, len(names) - 0.5)
    _bare(axes)
    axes.tick_params(axis="x", length=0, labelsize=8)


def _path(page: Figure, theory: Theory) -> None:
    walk = theory.walk
    biases = np.concatenate(walk.seen.bias_gradients, 1)
    full, _, integrated = theory.measured
    rows: tuple[tuple[str, Array, bool], ...] = (
        ("full-gradient:\ngradient at the\ninput", walk.seen.gradient, full.weakly_dependent),
        (f"full-gradient:\ngradients at\n{biases.shape[1]} biases", biases, full.weakly_dependent),
        ("integrated\ngradients", walk.seen.integrated, integrated.weakly_dependent),
    )
    for place, (label, values, jumps) in enumerate(rows):
        axes = page.add_axes(_box(1.95, 4.05 - 1.08 * place, 6.1, 0.92))
        _lines(axes, walk, values, jumps)
        middle = (4.51 - 1.08 * place) / _SIZE[1]
        page.text(0.05, middle, label, size=9.5, va="center")
        page.text(8.5 / _SIZE[0], middle, _verdict(jumps), size=9.5, va="center")
        marks = [0.0, _along(theory), 1.0]
        axes.set_xticks(marks, theory.names if place == len(rows) - 1 else [])
        axes.tick_params(axis="x", labelsize=11)
        if values.shape[1] == 2:
            _ends(axes, values)


def _verdict(jumps: bool) -> str:
    return "constant within\neach region" if jumps else "changes within\nregions"


def _along(theory: Theory) -> float:
    """How far along the path B lies."""
    a, b, c = theory.marked.points
    return float(np.linalg.norm(b - a) / np.linalg.norm(c - a))


def _lines(axes: Axes, walk: Walk, values: Array, jumps: bool) -> None:
    """One line for each number; where it is constant within regions, broken at their borders."""
    edges = [0.0, *walk.borders, 1.0]
    pieces = [np.flatnonzero(walk.pieces == piece) for piece in range(len(edges) - 1)]
    styles: Sequence[tuple[str, Any]] = ((_BLUE, "-"), (_ORANGE, (0, (5, 1.5))))
    for column in range(values.shape[1]):
        color, style = styles[column] if values.shape[1] == 2 else (_GREY, "-")
        width = 2.2 if values.shape[1] == 2 else 1.1
        for inside, start, end in zip(pieces, edges[:-1], edges[1:], strict=True):
            x, y = walk.at[inside], values[inside, column]
            if jumps:  # drawn up to the borders: the points themselves stop short of them
                x, y = np.array([start, *x, end]), np.array([y[0], *y, y[-1]])
                axes.plot(x, y, color=color, ls=style, lw=width, solid_capstyle="butt")
        if not jumps:
            axes.plot(walk.at, values[:, column], color=color, ls=style, lw=width)
    for border in walk.borders:
        axes.axvline(border, color="0.55", lw=0.9, ls=":")
    axes.set_xlim(0, 1)
    axes.margins(y=0.12)
    _bare(axes)


def _ends(axes: Axes, values: Array) -> None:
    """Name both lines at their right ends."""
    gap = float(np.ptp(axes.get_ylim()))
    first, second = (float(v) for v in values[-1])
    apart = max(0.0, 0.2 * gap - abs(first - second)) / 2
    sign = 1 if first >= second else -1
    for value, shift, name, color in (
        (first, sign * apart, "$x_1$", _BLUE),
        (second, -sign * apart, "$x_2$", _ORANGE),
    ):
        axes.annotate(
            name,
            (1, value + shift),
            (3, 0),
            textcoords="offset points",
            size=10,
            color=color,
            va="center",
            annotation_clip=False,
        )


def _table(page: Figure, measured: Sequence[Measured]) -> None:
    from matplotlib.lines import Line2D

    for x, head in zip(_COLUMNS, _HEADS, strict=True):
        page.text(x, 1.17 / _SIZE[1], head, size=9, color="0.3", va="top", linespacing=1.1)
    page.add_artist(Line2D([0.06, 0.97], [0.79 / _SIZE[1]] * 2, color=_BLACK, lw=0.8))
    for place, m in enumerate(measured):
        cells = (
            m.name,
            m.sums_to,
            _number(m.gap),
            _answer(m.complete),
            _number(m.change),
            _answer(m.weakly_dependent),
        )
        for x, cell in zip(_COLUMNS, cells, strict=True):
            weight = "bold" if cell in {"yes", "NO"} else "normal"
            y = (0.72 - 0.22 * place) / _SIZE[1]
            page.text(x, y, cell, size=10, va="top", weight=weight, parse_math=False)


def _number(value: float) -> str:
    return f"{value:.2f}" if value >= 0.01 else f"{value:.0e}" if value else "0"


def _answer(holds: bool) -> str:
    return "yes" if holds else "NO"

"""Plots from stored results: colours that colour-blind readers tell apart, and markers besides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import growth as axes_of_growth
from benchmarks.methods import BASELINE, METHODS
from benchmarks.results import Record
from benchmarks.subjects import SUBJECTS
from benchmarks.tables import along

# Okabe and Ito's palette without its yellow, which is faint on white.
_STYLES = {
    "forward": ("#999999", "s"),
    BASELINE: ("#000000", "|"),
    "decompose": ("#0072B2", "D"),
    "saliency": ("#D55E00", "o"),
    "balanced": ("#882255", "h"),
    "complete": ("#117733", "p"),
    "captum_gradient": ("#56B4E9", "v"),
    "captum_gradcam": ("#009E73", "^"),
    "captum_smoothgrad": ("#E69F00", "P"),
    "captum_ig": ("#CC79A7", "X"),
    "gradcam_fullgrad": ("#000000", "*"),
    "compiled_cudagraphs": ("#0072B2", "D"),
    "compiled_gradient": ("#000000", "|"),
    "compiled_graph": ("#009E73", "^"),
    "compiled_inductor": ("#CC79A7", "X"),
}
_STEPS = (1.0, 2.0, 5.0)
_FINE_STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
_WIDTH, _MOST_PANELS = 10.5, 3  # inches; side by side
_LEGEND_COLUMNS = 4
_SETTINGS = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}


def ratios(records: Sequence[Record], path: Path, title: str) -> None:
    """Time of each method as a multiple of the baseline: a panel per batch, a row per model."""
    batches = sorted({r["batch"] for r in records})
    panels = [(f"batch {b}", [r for r in records if r["batch"] == b]) for b in batches]
    _panels(panels, path, title, _time_ratio)


def memory(records: Sequence[Record], path: Path, title: str) -> None:
    """Peak memory of each method's tensors as a multiple of the baseline's."""
    batches = sorted({r["batch"] for r in records})
    panels = [(f"batch {b}", [r for r in records if r["batch"] == b]) for b in batches]
    _panels(panels, path, title, _memory_ratio)


def _time_ratio(record: Record, name: str) -> tuple[float, float, float] | None:
    ratio = record["methods"].get(name, {}).get("ratio")
    return ratio and (ratio["low"], ratio["median"], ratio["high"])


def _memory_ratio(record: Record, name: str) -> tuple[float, float, float] | None:
    size = record["methods"].get(name, {}).get("tensors")
    base = record["methods"][BASELINE].get("tensors")
    return (size / base,) * 3 if size and base else None


def _panels(panels: Sequence[tuple[str, list[Record]]], path: Path, title: str, value: Any) -> None:
    plt = _pyplot()
    shown = [
        n
        for n in METHODS
        if n != BASELINE and any(value(r, n) for _, records in panels for r in records)
    ]
    orders = [[n for n in SUBJECTS if any(r["model"] == n for r in rs)] for _, rs in panels]
    alike = all(order == orders[0] for order in orders)
    columns = min(len(panels), _MOST_PANELS) if alike else 1  # else each as high as its rows
    rows = -(-len(panels) // columns)
    heights = [0.5 + 0.5 * len(order) for order in (orders if columns == 1 else orders[:rows])]
    with plt.rc_context(_SETTINGS):
        figure, grid = plt.subplots(
            rows,
            columns,
            figsize=(_WIDTH, 1.6 + sum(heights)),
            sharex=True,
            sharey=alike,
            squeeze=False,
            height_ratios=heights,
            layout="constrained",
        )
        for axis in grid.flat[len(panels) :]:
            axis.remove()
        for axis, order, (name, records) in zip(grid.flat, orders, panels, strict=False):
            for row, model in enumerate(order):
                if row % 2 == 0:
                    axis.axhspan(row - 0.5, row + 0.5, color="#f2f2f2", zorder=0)
                for record in (r for r in records if r["model"] == model):
                    _dots(axis, record, row, shown, value)
            axis.axvline(1, color="black", linewidth=1, zorder=1)
            axis.set_xscale("log")
            axis.set_title(name)
            axis.tick_params(labelbottom=True)
            axis.set_yticks(range(len(order)), [SUBJECTS[n].label for n in order])
            axis.set_ylim(len(order) - 0.5, -0.5)
        low, high = grid[0][0].get_xlim()
        low, high = min(low, 0.45), max(high, 2.2)  # wide enough for several numbers
        grid[0][0].set_xlim(low, high)
        _plain_numbers(grid[0][0].xaxis, _FINE_STEPS if high / low < 12 else _STEPS)
        _legend(figure, shown)
        figure.suptitle(title)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def _dots(axis: Any, record: Record, row: int, shown: Sequence[str], value: Any) -> None:
    for place, name in enumerate(shown):
        found = value(record, name)
        if found:
            low, median, high = found
            colour, marker = _STYLES[name]
            y = row + 0.7 * ((place + 0.5) / len(shown) - 0.5)
            axis.plot([low, high], [y, y], color=colour, linewidth=1.5, zorder=2)
            axis.plot(median, y, marker, color=colour, markersize=6, zorder=3, markeredgewidth=0)


def growth(records: Sequence[Record], path: Path, where: str) -> None:
    """Three panels, batch, resolution and depth: ratios above, times below."""
    plt = _pyplot()
    found = [(a, along(records, a)) for a in axes_of_growth.AXES]
    found = [(axis, cells) for axis, cells in found if cells]
    names = [n for n in METHODS if any(n in r["methods"] for r in records)]
    with plt.rc_context(_SETTINGS):
        figure, grid = plt.subplots(
            2,
            len(found),
            figsize=(_WIDTH, 5.6),
            sharex="col",
            sharey="row",
            squeeze=False,
            layout="constrained",
        )
        for column, (_, cells) in enumerate(found):
            above, below = grid[:, column]
            for name in names:
                _line(above, cells, name, "ratio", 1.0)
                _line(below, cells, name, "seconds", 1e3)
            below.set_xscale("log")
            below.set_yscale("log")
            below.set_xlabel(axes_of_growth.caption(cells))
            places = sorted({axes_of_growth.place(r) for r in cells})
            below.set_xticks(places, [str(p) for p in places])
            below.xaxis.minorticks_off()
            low, high = below.get_ylim()
            _plain_numbers(below.yaxis, _FINE_STEPS if high / low < 12 else _STEPS)
            above.set_ylim(bottom=0)
            for axis in (above, below):
                axis.grid(axis="y", color="#dddddd", linewidth=0.8)
        grid[0][0].set_ylabel("× forward + input-gradient")
        grid[1][0].set_ylabel("milliseconds per call (log)")
        _legend(figure, names, "-")
        figure.suptitle(f"Growth of cost, {where}")
        figure.savefig(path, dpi=150)
        plt.close(figure)


def _line(axis: Any, cells: Sequence[Record], name: str, quantity: str, unit: float) -> None:
    points = [
        (axes_of_growth.place(r), r["methods"][name][quantity])
        for r in cells
        if quantity in r["methods"].get(name, {})
    ]
    if not points:
        return
    colour, marker = _STYLES[name]
    places = [p for p, _ in points]
    low, median, high = ([s[k] * unit for _, s in points] for k in ("low", "median", "high"))
    axis.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)
    axis.plot(places, median, color=colour, marker=marker, markersize=5, linewidth=1.5)


def _legend(figure: Any, names: Sequence[str], line: Any = "none") -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=_STYLES[n][0],
            marker=_STYLES[n][1],
            linestyle=line,
            label=METHODS[n].label,
            markersize=7,
        )
        for n in names
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=_LEGEND_COLUMNS, frameon=False)


def _plain_numbers(axis: Any, steps: Sequence[float]) -> None:
    """A logarithmic axis with numbers as one writes them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(10, subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt

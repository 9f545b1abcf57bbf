"""Plots from stored results: colors that color-blind readers can distinguish, and markers."""

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
_WIDTH, _NARROW, _DPI = 10.5, 7.8, 110  # inches; narrow: legible on a phone
_SETTINGS = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}


def ratios(records: Sequence[Record], path: Path, title: str) -> None:
    """Time of each method as a multiple of the baseline: a row for each model and batch."""
    _rows(records, path, title, _time_ratio)


def memory(records: Sequence[Record], path: Path, title: str) -> None:
    """Peak memory of each method's tensors as a multiple of the baseline's."""
    _rows(records, path, title, _memory_ratio)


def _time_ratio(record: Record, name: str) -> tuple[float, float, float] | None:
    ratio = record["methods"].get(name, {}).get("ratio")
    return ratio and (ratio["low"], ratio["median"], ratio["high"])


def _memory_ratio(record: Record, name: str) -> tuple[float, float, float] | None:
    size = record["methods"].get(name, {}).get("tensors")
    base = record["methods"][BASELINE].get("tensors")
    return (size / base,) * 3 if size and base else None


def _rows(records: Sequence[Record], path: Path, title: str, value: Any) -> None:
    plt = _pyplot()
    order = sorted(records, key=lambda r: (list(SUBJECTS).index(r["model"]), r["batch"]))
    shown = [n for n in METHODS if n != BASELINE and any(value(r, n) for r in order)]
    height = max(0.36, 0.1 * len(shown))  # of a row, in inches
    with plt.rc_context(_SETTINGS):
        figure, axis = plt.subplots(
            figsize=(_NARROW, 2.2 + height * len(order)), dpi=_DPI, layout="constrained"
        )
        for row, record in enumerate(order):
            if row % 2 == 0:
                axis.axhspan(row - 0.5, row + 0.5, color="#f2f2f2", zorder=0)
            _dots(axis, record, row, shown, value)
        axis.axvline(1, color="black", linewidth=1, zorder=1)
        axis.set_xscale("log")
        low, high = axis.get_xlim()
        low, high = min(low, 0.45), max(high, 2.2)  # wide enough for several numbers
        axis.set_xlim(low, high)
        _plain_numbers(axis.xaxis, _FINE_STEPS if high / low < 12 else _STEPS)
        axis.grid(axis="x", color="#d0d0d0", linewidth=0.6, zorder=0)
        axis.set_yticks(
            range(len(order)), [f"{SUBJECTS[r['model']].label}, batch {r['batch']}" for r in order]
        )
        axis.tick_params(left=False, labeltop=True)
        axis.spines["left"].set_visible(False)
        axis.set_ylim(len(order) - 0.5, -0.5)
        _legend(figure, shown, columns=2)
        figure.suptitle(title, fontsize=12)
        figure.savefig(path)
        plt.close(figure)


def _dots(axis: Any, record: Record, row: int, shown: Sequence[str], value: Any) -> None:
    for place, name in enumerate(shown):
        found = value(record, name)
        if found:
            low, median, high = found
            color, marker = _STYLES[name]
            y = row + 0.84 * ((place + 0.5) / len(shown) - 0.5)
            axis.plot([low, high], [y, y], color=color, linewidth=1.5, zorder=2)
            axis.plot(median, y, marker, color=color, markersize=6, zorder=3, markeredgewidth=0)


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
    color, marker = _STYLES[name]
    places = [p for p, _ in points]
    low, median, high = ([s[k] * unit for _, s in points] for k in ("low", "median", "high"))
    axis.fill_between(places, low, high, color=color, alpha=0.2, linewidth=0)
    axis.plot(places, median, color=color, marker=marker, markersize=5, linewidth=1.5)


def _legend(figure: Any, names: Sequence[str], line: Any = "none", columns: int = 4) -> None:
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
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


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

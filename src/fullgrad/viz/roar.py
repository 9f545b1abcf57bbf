"""Figures of remove-and-retrain: accuracy against the share removed, and what was removed."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fullgrad._optional import require
from fullgrad.errors import InputError
from fullgrad.viz.curves import style
from fullgrad.viz.overlay import Array, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLES = {
    "most": "most salient pixels removed first\n(lower is better)",
    "least": "least salient pixels removed first\n(higher is better)",
}
_CELL = 0.82  # inches, of an example
_NAME = 1.9
_HEAD = 0.36


def roar_curves(
    summary: Any, order: str, chance: float, caveats: Sequence[str] = (), whole: str = "none"
) -> Figure:
    """Accuracy of retrained networks; beside it that of networks trained on the masks alone.

    Args:
        summary: from :func:`fullgrad.evaluation.retraining.results.summary`.
        order: ``most`` or ``least``.
        chance: accuracy of guessing.
        caveats: sentences for below the panels.
        whole: the method's name that stands for no removal.

    Raises:
        InputError: nothing to draw.
        MissingDependencyError: matplotlib is not installed.
    """
    require("matplotlib", "bench")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not len(summary):
        raise InputError("there are no results to draw")
    names = [n for n in dict.fromkeys(summary["method"]) if n != whole]
    panels = [p for p in ("images", "masks") if (summary["input"] == p).any()]
    width = 4.6 * len(panels) + 2.8
    lines = [line for c in caveats for line in textwrap.wrap(c, round(width * 15.5))]
    foot = 0.65 + 0.17 * (len(lines) + 1)
    height = max(3.7 + foot, 0.27 * len(names) + 1.2 + foot)
    figure = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(figure)
    left, right = 0.75 / width, 1 - 2.7 / width
    grid = figure.add_gridspec(
        1,
        len(panels),
        left=left,
        right=right,
        top=1 - 0.62 / height,
        bottom=foot / height,
        wspace=0.28,
    )
    handles: dict[str, Any] = {}
    intact = summary[(summary["method"] == whole) & (summary["input"] == "images")]
    top = min(1.02, 1.15 * max(chance, float(summary["accuracy"].max())))
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(grid[0, place])
        part = summary[summary["input"] == panel]
        for i, name in enumerate(names):
            own = part[part["method"] == name].sort_values("fraction")
            if not len(own):
                continue
            x = 100 * own["fraction"].to_numpy()
            (line,) = axes.plot(x, own["accuracy"], label=name, markersize=4.5, lw=1.5, **style(i))
            low, high = own["low"].to_numpy(), own["high"].to_numpy()
            if np.isfinite(low).all():
                axes.fill_between(x, low, high, color=line.get_color(), alpha=0.13, lw=0)
            handles[name] = line
        if panel == "images" and len(intact):
            line = axes.axhline(float(intact["accuracy"].iloc[0]), color="0.35", lw=1.2)
            band = intact[["low", "high"]].iloc[0].to_numpy(dtype=float)
            if np.isfinite(band).all():
                axes.axhspan(*band, color="0.35", alpha=0.13, lw=0)
            handles["no removal"] = line
        handles["chance"] = axes.axhline(chance, color="0.35", lw=1.0, ls=(0, (1, 2)))
        title = (
            _TITLES[order]
            if panel == "images"
            else ("the same networks trained on the\nremoval masks alone (leakage)")
        )
        axes.set_title(title, size=9)
        axes.set_xlabel("pixels removed (%)", size=9)
        axes.set_ylabel("test accuracy", size=9)
        axes.set_ylim(0, top)
        axes.tick_params(labelsize=8)
        ticks = sorted({round(100 * f, 6) for f in part["fraction"] if f})
        axes.set_xticks(ticks, [f"{t:.3g}" for t in ticks])
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.grid(alpha=0.25, lw=0.6)
    figure.legend(
        handles.values(),
        handles,
        loc="upper left",
        bbox_to_anchor=(right + 0.02, 1 - 0.3 / height),
        fontsize=8,
        frameon=False,
        borderaxespad=0,
    )
    runs = sorted({int(r) for r in summary["runs"]})
    head = "Means over runs; bands: 95 % Student's intervals over runs" + (
        " (none for single runs)." if runs[0] == 1 else "."
    )
    for i, text in enumerate(reversed([head, *lines])):
        figure.text(left, (0.1 + 0.17 * i) / height, text, size=8, color="0.35", parse_math=False)
    return figure


def examples(
    intact: Sequence[Array], changed: Mapping[str, Sequence[Sequence[Array]]], fractions: Any
) -> Figure:
    """Images as the retrained networks see them.

    Args:
        intact: images, uint8 of shape (H, W, 3).
        changed: for each method, for each fraction, one image for each of the intact ones.
        fractions: of the columns.

    Raises:
        InputError: nothing to draw.
        MissingDependencyError: matplotlib is not installed.
    """
    require("matplotlib", "bench")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not intact or not changed:
        raise InputError("there are no examples to draw")
    columns, rows = 1 + len(fractions), len(changed)
    gap = 0.14
    block = columns * _CELL + gap
    width = _NAME + block * len(intact) + 0.05
    height = _HEAD + rows * _CELL + 0.08
    figure = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(figure)
    for row, (name, cells) in enumerate(changed.items()):
        bottom = height - _HEAD - (row + 1) * _CELL
        parts = name.replace(":", ":\n", 1).replace(",", ",\n").split("\n")
        label = "\n".join(line for part in parts for line in textwrap.wrap(part, 26))
        figure.text(
            0.08 / width,
            (bottom + _CELL / 2) / height,
            label,
            size=8,
            va="center",
            parse_math=False,
        )
        for number, image in enumerate(intact):
            for column in range(columns):
                panel = image if column == 0 else cells[column - 1][number]
                x = _NAME + number * block + column * _CELL
                box = (x / width, bottom / height, 0.95 * _CELL / width, 0.95 * _CELL / height)
                show(figure.add_axes(box), panel)
                if row == 0:
                    head = "intact" if column == 0 else f"{100 * fractions[column - 1]:.3g} %"
                    middle = (x + 0.475 * _CELL) / width
                    figure.text(middle, 1 - (_HEAD - 0.08) / height, head, size=8, ha="center")
    figure.text(0.08 / width, 1 - (_HEAD - 0.08) / height, "pixels removed:", size=8)
    return figure

"""Pictures of digit flipping: how the log-odds change, and digits before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fullgrad._optional import require
from fullgrad.errors import InputError
from fullgrad.viz.curves import style
from fullgrad.viz.overlay import Array, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL = 0.78  # inches


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One digit, and what each method erases of it.

    Args:
        pair: in words, ``8→3``.
        before: shape (H, W), 0 to 1.
        after: from method to shape (H, W).
        changes: from method to the change of the log-odds.
    """

    pair: str
    before: Array
    after: dict[str, Array]
    changes: dict[str, float]


def flipping_curves(summary: Any, note: str = "") -> Figure:
    """Change of the log-odds against the number of erased pixels, one panel for each pair.

    Args:
        summary: columns pair, method, pixels, change, low, high.
        note: below the panels.

    Raises:
        InputError: nothing to draw.
    """
    require("matplotlib", "bench")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not len(summary):
        raise InputError("there are no results to draw")
    pairs = list(dict.fromkeys(summary["pair"]))
    names = list(dict.fromkeys(summary["method"]))
    columns = 2 if len(pairs) == 4 else min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    width = 3.5 * columns + 3.0
    height = max(3.2 * rows + 0.7, 0.27 * len(names) + 0.9)
    figure = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(figure)
    right = 1 - 3.0 / width
    grid = figure.add_gridspec(
        rows,
        columns,
        left=0.7 / width,
        right=right,
        wspace=0.28,
        top=1 - 0.45 / height,
        bottom=0.85 / height,
        hspace=0.5,
    )
    handles: dict[str, Any] = {}
    for place, pair in enumerate(pairs):
        axes = figure.add_subplot(grid[place // columns, place % columns])
        for i, name in enumerate(names):
            own = summary[(summary["pair"] == pair) & (summary["method"] == name)]
            if not len(own):
                continue
            (line,) = axes.plot(own["pixels"], own["change"], markersize=4, lw=1.4, **style(i))
            axes.fill_between(
                own["pixels"], own["low"], own["high"], color=line.get_color(), alpha=0.12, lw=0
            )
            handles[name] = line
        axes.axhline(0, color="0.6", lw=0.8)
        axes.set_title(f"{pair} (higher is better)", size=9)
        axes.set_xlabel("pixels erased at most", size=9)
        if place % columns == 0:
            axes.set_ylabel("fall of the log-odds", size=9)
        axes.tick_params(labelsize=8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.grid(alpha=0.25, lw=0.6)
    figure.legend(
        handles.values(),
        handles,
        loc="upper left",
        fontsize=8,
        frameon=False,
        bbox_to_anchor=(right + 0.02, 1 - 0.35 / height),
        borderaxespad=0,
    )
    text = "Means over digits; bands: 95 % bootstrap intervals." + (f" {note}" if note else "")
    figure.text(0.7 / width, 0.12 / height, text, size=8, color="0.35", parse_math=False)
    return figure


def flipping_examples(examples: Sequence[Example], pixels: int) -> Figure:
    """Digits before and after, a row for each pair and a column for each method.

    Args:
        examples: one for each row.
        pixels: how many were erased at most, for the title.

    Raises:
        InputError: no examples.
    """
    require("matplotlib", "bench")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not examples:
        raise InputError("there are no examples to draw")
    names = list(examples[0].after)
    heads = [wrapped(n.replace("_", " "), 13) for n in names]
    head = 0.75 + 0.15 * max(h.count("\n") + 1 for h in heads)
    gap, label = 0.14, 0.75
    width = max(label + (len(names) + 1) * (_CELL + gap) + 0.1, 6.5)
    height = head + len(examples) * (_CELL + 0.34) + 0.05
    figure = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(figure)
    title = f"At most {pixels} pixels erased. Below each digit: fall of the log-odds."
    figure.text(0.1 / width, 1 - 0.1 / height, title, va="top", size=10)
    for row, example in enumerate(examples):
        top = head + row * (_CELL + 0.34)
        middle = 1 - (top + _CELL / 2) / height
        figure.text(0.1 / width, middle, example.pair, va="center", size=11, weight="bold")
        cells = [("digit", example.before, "")]
        cells += [
            (h, example.after[n], f"{example.changes[n]:+.1f}")
            for h, n in zip(heads, names, strict=True)
        ]
        for column, (text, image, under) in enumerate(cells):
            left = label + column * (_CELL + gap)
            box = (left / width, 1 - (top + _CELL) / height, _CELL / width, _CELL / height)
            axes = figure.add_axes(box)
            gone = np.clip(example.before - image, 0, 1)
            picture = np.stack([image + 0.85 * gone, image + 0.37 * gone, image], 2)
            axes.imshow(np.clip(picture, 0, 1), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlabel(under, size=8, labelpad=2)
            if row == 0:
                axes.set_title(text, size=8, pad=4)
    figure.text(
        0.98, 1 - 0.12 / height, "orange: erased", va="top", ha="right", size=9, color="#B34E00"
    )
    return figure

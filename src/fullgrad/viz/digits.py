"""Pictures of digit flipping: how the log-odds change, and digits before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fullgrad.errors import InputError
from fullgrad.viz.curves import Panels, blank
from fullgrad.viz.overlay import Array, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL = 0.78  # inches


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """Holds one digit, and what each method erases of it.

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
    """Draw the change of the log-odds against the erased pixels, one panel for each pair.

    Args:
        summary: columns pair, method, pixels, change, low, high.
        note: below the panels.

    Raises:
        InputError: nothing to draw.
        MissingDependencyError: matplotlib is not installed.
    """
    pairs, names = (list(dict.fromkeys(summary[c])) for c in ("pair", "method"))
    text = "Means over digits; bands: 95 % bootstrap intervals." + (f" {note}" if note else "")
    columns = 2 if len(pairs) == 4 else min(3, len(pairs))
    panels = Panels(len(pairs), names, columns, (3.5, 3.2), 3.0, [text])
    for place, pair in enumerate(pairs):
        y = "" if place % columns else "fall of the log-odds"
        axes = panels.panel(place, f"{pair} (higher is better)", "pixels erased at most", y)
        panels.lines(axes, summary[summary["pair"] == pair], "pixels", "change")
        axes.axhline(0, color="0.6", lw=0.8)
    return panels.done()


def flipping_examples(examples: Sequence[Example], pixels: int) -> Figure:
    """Draw digits before and after, a row for each pair and a column for each method.

    Args:
        examples: one for each row.
        pixels: how many were erased at most, for the title.

    Raises:
        InputError: no examples.
    """
    if not examples:
        raise InputError("there are no examples to draw")
    names = list(examples[0].after)
    heads = [wrapped(n.replace("_", " "), 13) for n in names]
    head = 0.75 + 0.15 * max(h.count("\n") + 1 for h in heads)
    gap, label = 0.14, 0.75
    width = max(label + (len(names) + 1) * (_CELL + gap) + 0.1, 6.5)
    height = head + len(examples) * (_CELL + 0.34) + 0.05
    figure = blank(width, height)
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

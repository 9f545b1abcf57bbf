"""Figures of remove-and-retrain: accuracy against the share removed, and what was removed."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fullgrad.errors import InputError
from fullgrad.viz.curves import Panels, blank, percent_ticks
from fullgrad.viz.overlay import Array, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLES = {
    "most": "most salient pixels removed first\n(lower is better)",
    "least": "least salient pixels removed first\n(higher is better)",
}
_MASKS = "the same networks trained on the\nremoval masks alone (leakage)"
_CELL = 0.82  # inches, of an example
_NAME = 1.9
_HEAD = 0.36


def roar_curves(
    summary: Any, order: str, chance: float, caveats: Sequence[str] = (), whole: str = "none"
) -> Figure:
    """Draw the accuracy of retrained networks, and of networks trained on the masks alone.

    Args:
        summary: columns input, method, fraction, runs, accuracy, low, high.
        order: ``most`` or ``least``.
        chance: accuracy of guessing.
        caveats: sentences for below the panels.
        whole: the method's name that stands for no removal.

    Raises:
        InputError: nothing to draw.
        MissingDependencyError: matplotlib is not installed.
    """
    names = [n for n in dict.fromkeys(summary["method"]) if n != whole]
    inputs = [p for p in ("images", "masks") if (summary["input"] == p).any()]
    single = len(summary) and int(summary["runs"].min()) == 1
    head = "Means over runs; bands: 95 % Student's intervals over runs"
    notes = [head + (" (none for single runs)." if single else ".")]
    notes += [
        line for c in caveats for line in textwrap.wrap(c, round((4.6 * len(inputs) + 2.8) * 15.5))
    ]
    panels = Panels(len(inputs), names, len(inputs), notes=notes)
    intact = summary[(summary["method"] == whole) & (summary["input"] == "images")]
    top = min(1.02, 1.15 * max(chance, float(summary["accuracy"].max())))
    for place, kind in enumerate(inputs):
        title = _TITLES[order] if kind == "images" else _MASKS
        axes = panels.panel(place, title, "pixels removed (%)", "test accuracy")
        part = summary[(summary["input"] == kind) & (summary["method"] != whole)]
        panels.lines(axes, part, "fraction", "accuracy", 100)
        if kind == "images" and len(intact):
            line = axes.axhline(float(intact["accuracy"].iloc[0]), color="0.35", lw=1.2)
            band = intact[["low", "high"]].iloc[0].to_numpy(dtype=float)
            if np.isfinite(band).all():
                axes.axhspan(*band, color="0.35", alpha=0.13, lw=0)
            panels.legend("no removal", line)
        panels.legend("chance", axes.axhline(chance, color="0.35", lw=1.0, ls=(0, (1, 2))))
        axes.set_ylim(0, top)
        percent_ticks(axes, part["fraction"])
    return panels.done()


def examples(
    intact: Sequence[Array], changed: Mapping[str, Sequence[Sequence[Array]]], fractions: Any
) -> Figure:
    """Draw images as the retrained networks see them.

    Args:
        intact: images, uint8 of shape (H, W, 3).
        changed: for each method, for each fraction, one image for each of the intact ones.
        fractions: of the columns.

    Raises:
        InputError: nothing to draw.
        MissingDependencyError: matplotlib is not installed.
    """
    if not intact or not changed:
        raise InputError("there are no examples to draw")
    columns, rows = 1 + len(fractions), len(changed)
    gap = 0.14
    block = columns * _CELL + gap
    width = _NAME + block * len(intact) + 0.05
    height = _HEAD + rows * _CELL + 0.08
    figure = blank(width, height)
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

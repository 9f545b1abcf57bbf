"""A contact sheet: one row for each photograph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fullgrad._optional import require
from fullgrad.errors import InputError
from fullgrad.viz.mixture import drawn
from fullgrad.viz.overlay import Array, overlaid, show, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

_PANEL = 2.1  # inches
_LABEL = 2.3
_GAP = 0.12
_HEAD = 0.4
_SIZES = ((11, 22, 4), (7, 34, 9))  # of a label: points, characters a line, lines at most


@dataclass(frozen=True, slots=True)
class Row:
    """One photograph of a contact sheet.

    Args:
        image: what the model saw, of the map's size.
        saliency: its map, shape (height, width).
        label: the explained class.
        detail: its probability, for example.
        sign: whether the map's numbers have a sign; zero is then without color.
    """

    image: Image.Image
    saliency: Array
    label: str
    detail: str = ""
    sign: bool = False


def sheet(rows: Sequence[Row], method: str = "FullGrad saliency") -> Figure:
    """Photograph, overlay and map of several photographs, a row for each.

    Args:
        rows: at least one.
        method: that made the maps, in a few words.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: no rows, or see :func:`fullgrad.viz.picture`.
        MissingDependencyError: matplotlib is not installed.
    """
    require("matplotlib", "cli")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not rows:
        raise InputError("a contact sheet needs at least one photograph")
    width = _LABEL + 3 * (_PANEL + _GAP)
    height = _HEAD + len(rows) * (_PANEL + _GAP)
    figure = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(figure)
    for column, head in enumerate(("photograph", "overlay", method)):
        center = _LABEL + column * (_PANEL + _GAP) + _PANEL / 2
        figure.text(center / width, 1 - 0.12 / height, head, ha="center", va="top", size=10)
    for place, row in enumerate(rows):
        bottom = height - _HEAD - place * (_PANEL + _GAP) - _PANEL
        panels: tuple[Array, ...] = (
            np.asarray(row.image.convert("RGB")),
            overlaid(row.image, row.saliency, sign=row.sign),
            drawn(row.saliency, row.sign),
        )
        for column, panel in enumerate(panels):
            left = _LABEL + column * (_PANEL + _GAP)
            box = (left / width, bottom / height, _PANEL / width, _PANEL / height)
            show(figure.add_axes(box), panel)
        middle = (bottom + _PANEL / 2) / height
        label, size = _fitted(row.label)
        detail = wrapped(row.detail, 26)
        at = 0.12 / width
        figure.text(at, middle, label, va="bottom", size=size, weight="bold", parse_math=False)
        figure.text(
            at, middle - 0.05 / height, detail, va="top", size=9, color="0.3", parse_math=False
        )
    return figure


def _fitted(label: str) -> tuple[str, int]:
    """A label in lines, and the largest of the sizes in which they fit beside a panel."""
    fitting = ((wrapped(label, characters), size, most) for size, characters, most in _SIZES)
    tried = [(lines, size, lines.count("\n") < most) for lines, size, most in fitting]
    lines, size, _ = next((t for t in tried if t[2]), tried[-1])
    return lines, size

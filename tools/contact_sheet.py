"""A sheet of labelled lines of pictures with one colour scale, for docs/gallery.md."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from fullgrad.viz import colors
from fullgrad.viz.overlay import Array, show, wrapped
from fullgrad.viz.style import COLORMAP

NOT_APPLICABLE = "does not apply"
DPI = 100
CELL = 1.25  # inches a side, where all methods are compared
_STEPS = 64  # of colour in a map where all methods are compared
_GAP, _LABEL, _FOOT = 0.1, 2.35, 0.75  # inches
_BLANK = 0.93  # grey of a cell without a picture


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a contact sheet.

    Args:
        label: in bold.
        detail: smaller, below it.
        cells: RGB arrays, or words where there is no picture.
        said: what the model says, below the detail.
        wrong: whether that is in red.
    """

    label: str
    detail: str
    cells: tuple[Array | str, ...]
    said: str = ""
    wrong: bool = False


def grid(
    heads: Sequence[str], lines: Sequence[Line], rule: str, panel: float = 1.9, title: str = ""
) -> Figure:
    """A contact sheet with labels, a colour scale and the rule of its colours.

    Args:
        heads: one for each column of cells.
        lines: at least one, each with as many cells as there are heads.
        rule: in words, beside the colour scale.
        panel: inches a side of a cell.
        title: on top.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: no lines, or one with another number of cells.
    """
    if not lines or any(len(line.cells) != len(heads) for line in lines):
        raise ValueError(f"a grid needs lines of {len(heads)} cells each, one for each head")
    texts = [wrapped(head.replace("_", " "), max(9, round(panel * 11.5))) for head in heads]
    most = max(text.count("\n") + 1 for text in texts)
    top = 0.12 + 0.32 * bool(title) + 0.17 * most
    width = _LABEL + len(heads) * (panel + _GAP)
    height = top + len(lines) * (panel + _GAP) + _FOOT
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, text, parse_math=False, **style)

    if title:
        write(0.12, 0.1, title, va="top", size=12, weight="bold")
    for column, text in enumerate(texts):
        middle = _LABEL + column * (panel + _GAP) + panel / 2
        write(middle, top - 0.04, text, ha="center", va="bottom", size=9)
    for row, line in enumerate(lines):
        above = top + row * (panel + _GAP)
        _write_label(write, line, above, panel)
        for column, cell in enumerate(line.cells):
            left = _LABEL + column * (panel + _GAP)
            box = (left / width, 1 - (above + panel) / height, panel / width, panel / height)
            _fill(figure.add_axes(box), cell)
    _scale(figure, rule, width, height)
    return figure


def _write_label(write: Any, line: Line, above: float, panel: float) -> None:
    """Label, detail and what is said, one below the other, in the middle of the row."""
    parts = [
        (wrapped(line.label, 24), 10, "black", "bold"),
        (wrapped(line.detail, 34), 8, "0.3", "normal"),
        (wrapped(line.said, 34), 8, "#b00020" if line.wrong else "black", "normal"),
    ]
    heights = [(text.count("\n") + 1) * size * 0.0178 if text else 0.0 for text, size, *_ in parts]
    at = above + max(0.0, (panel - sum(heights)) / 2)
    for (text, size, colour, weight), tall in zip(parts, heights, strict=True):
        if text:
            write(0.12, at, text, va="top", size=size, color=colour, weight=weight)
        at += tall


def _fill(axes: Any, cell: Array | str) -> None:
    if not isinstance(cell, str):
        show(axes, cell)
        if cell.shape[1] == round(axes.get_window_extent().width):  # of the size it is drawn at
            axes.images[0].set_interpolation("nearest")
        return
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor(str(_BLANK))
    for side in axes.spines.values():
        side.set_visible(False)
    text = wrapped(cell, 12)
    axes.text(0.5, 0.5, text, ha="center", va="center", size=8, color="0.3", parse_math=False)


def _scale(figure: Figure, rule: str, width: float, height: float) -> None:
    bar = figure.add_axes((0.25 / width, 0.42 / height, (_LABEL - 0.7) / width, 0.14 / height))
    scale = figure.colorbar(
        ScalarMappable(Normalize(0, 1), COLORMAP), cax=bar, orientation="horizontal"
    )
    scale.set_ticks([0, 0.5, 1], labels=["0\nleast", "0.5", "1\nmost"])
    scale.ax.tick_params(labelsize=8, length=2, pad=1)
    scale.outline.set_visible(False)
    text = wrapped(rule, round((width - _LABEL) * 15))
    figure.text(_LABEL / width, 0.36 / height, text, va="center", size=8.5, parse_math=False)


def small(heat: Array, pixels: int) -> Array:
    """A map at the size at which it is drawn, in as many steps as :func:`paletted` keeps."""
    size = (pixels, pixels)
    shrunk = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BOX)
    levels: Array = np.rint(np.asarray(shrunk) * (_STEPS - 1)) / (_STEPS - 1)
    return levels


def paletted(content: bytes) -> bytes:
    """A methods' grid as a PNG of 256 colours, since maps that look like noise fill megabytes.

    The colours of the maps stay exactly what they are; those of photographs and letters are
    approximated.
    """
    image = Image.open(io.BytesIO(content)).convert("RGB")
    grey = round(_BLANK * 255)
    kept = np.concatenate([colors(np.linspace(0, 1, _STEPS)), [[255] * 3, [grey] * 3]])
    room = 256 - len(kept)
    left = image.crop((0, 0, round((_LABEL + CELL) * DPI), image.height)).quantize(room)
    palette = Image.new("P", (1, 1))
    palette.putpalette([*map(int, kept.ravel()), *(left.getpalette() or [])[: 3 * room]])
    places = np.array(image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))
    codes = np.asarray(image).astype(np.int64) @ (65536, 256, 1)
    for place, code in enumerate(kept.astype(np.int64) @ (65536, 256, 1)):
        places[codes == code] = place  # Pillow's search is not exact
    result = Image.fromarray(places)
    result.putpalette(palette.getpalette() or [])
    with io.BytesIO() as file:
        result.save(file, "PNG", optimize=True)
        return file.getvalue()

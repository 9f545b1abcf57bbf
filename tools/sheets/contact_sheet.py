"""A sheet of labeled lines of pictures with its color scales, for docs/gallery.md.

It is as wide as a page's column and its letters are large, so that it can be read on a phone too.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from fullgrad.viz.overlay import Array, show
from fullgrad.viz.style import (
    BLANK,
    COLORMAP,
    DIVERGING,
    DPI,
    FAINT,
    bare,
    colors,
    limit_of,
    page,
    scale_bar,
    signed_colors,
    wrap,
)

NOT_APPLICABLE = "does not apply"
WIDTH = 858  # pixels, as all numbers below
LARGE, SMALL = 160, 100  # a side of a cell, with labels above the lines and beside them
SIZE, LABEL_SIZE = 12.0, 13.0  # points
_MARGIN, _GAP = 11, 9
_LEADING, _LABEL_LEADING = 22, 25  # of lines of text
_STEPS = 64  # of color in a map where all methods are compared
_SIGNED_STEPS = 32  # on either side of zero
SIZES = ({0.0: "least", 1.0: "most"}, (0, 1), COLORMAP)
SIGNS = ({-1.0: "against", 0.0: "0", 1.0: "for"}, (-1, 1), DIVERGING)
WRONG = "#b00020"


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a contact sheet.

    Args:
        label: in bold.
        detail: after it, in a line of its own.
        cells: RGB arrays, or words where there is no picture.
        wrong: whether the detail is in red.
        notes: below each cell, or nothing.
        outline: drawn on every cell: left, top, right, bottom as shares of its side.
    """

    label: str
    detail: str
    cells: tuple[Array | str, ...]
    wrong: bool = False
    notes: tuple[str, ...] = ()
    outline: tuple[float, float, float, float] | None = None


def grid(
    heads: Sequence[str],
    lines: Sequence[Line],
    rule: str,
    *,
    title: str = "",
    cell: int = LARGE,
    beside: bool = False,
    repeat: int = 4,
) -> Figure:
    """A contact sheet with labels, both color scales and the rule of its colors.

    Args:
        heads: one for each column of cells.
        lines: at least one, each with as many cells as there are heads.
        rule: in words, below the color scales.
        title: on top.
        cell: pixels a side.
        beside: labels stand at the left of their lines, not above.
        repeat: the heads stand again after so many lines.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: no lines, or one with another number of cells or notes.
    """
    count = len(heads)
    uneven = [n for n in lines if len(n.cells) != count or len(n.notes) not in (0, count)]
    if not lines or uneven:
        raise ValueError(f"a grid needs lines of {count} cells each, one for each head")
    left = WIDTH - _MARGIN - count * cell - (count - 1) * _GAP
    room = left - _MARGIN - _GAP if beside else WIDTH - 2 * _MARGIN
    tops = [_wrap(head, cell) for head in heads]
    labels = [(_wrap(n.label, room, LABEL_SIZE, bold=True), _wrap(n.detail, room)) for n in lines]
    notes = [[_wrap(note, cell) for note in n.notes] for n in lines]
    rule = _wrap(rule, WIDTH - 2 * _MARGIN)

    def head_height() -> int:
        return _LEADING * max(map(_lines, tops)) + 9

    def label_height(row: int) -> int:
        name, detail = labels[row]
        return _LABEL_LEADING * _lines(name) + _LEADING * _lines(detail)

    def height_of(row: int) -> int:
        above = 0 if beside else label_height(row) + 6
        below = _LEADING * max(map(_lines, notes[row]), default=0)
        tall = max(cell, label_height(row)) if beside else cell
        return above + tall + below + (_GAP if beside else 2 * _GAP)

    shown = [row for row in range(len(lines)) if row % repeat == 0]
    height = _MARGIN + (32 if title else 0) + len(shown) * head_height()
    height += sum(map(height_of, range(len(lines)))) + 62 + _LEADING * _lines(rule) + _MARGIN
    figure = page(WIDTH / DPI, height / DPI)
    at = _MARGIN

    def write(x: float, y: float, text: str, **style: Any) -> None:
        if text:
            options: dict[str, Any] = {"va": "top", "size": SIZE, "linespacing": 1.12, **style}
            figure.text(x / WIDTH, 1 - y / height, text, parse_math=False, **options)

    def axes(x: float, y: float, wide: float, tall: float) -> Axes:
        box = (x / WIDTH, 1 - (y + tall) / height, wide / WIDTH, tall / height)
        return figure.add_axes(box)

    if title:
        write(_MARGIN, at, title, size=15, weight="bold")
        at += 32
    for row, line in enumerate(lines):
        if row in shown:
            for column, text in enumerate(tops):
                middle = left + column * (cell + _GAP) + cell / 2
                write(middle, at + head_height() - 13, text, ha="center", va="baseline")
            at += head_height()
        name, detail = labels[row]
        tall = _LABEL_LEADING * _lines(name)
        above = at
        if beside:
            above += max(0, (cell - label_height(row)) // 2)
        write(_MARGIN, above, name, size=LABEL_SIZE, weight="bold")
        write(_MARGIN, above + tall, detail, color=WRONG if line.wrong else FAINT)
        if not beside:
            at += label_height(row) + 6
        for column, content in enumerate(line.cells):
            x = left + column * (cell + _GAP)
            _fill(axes(x, at, cell, cell), content, line.outline)
            if line.notes:
                write(x + cell / 2, at + cell + 4, notes[row][column], ha="center")
        at += height_of(row) - (0 if beside else label_height(row) + 6)
    for column, (ticks, ends, name) in enumerate((SIZES, SIGNS)):
        bar = axes(40 + column * WIDTH / 2, at + 8, WIDTH / 2 - 80, 14)
        scale_bar(bar, ends, ticks, name)
        bar.tick_params(labelsize=SIZE)
    write(_MARGIN, at + 58, rule)
    return figure


def _wrap(text: str, pixels: float, size: float = SIZE, *, bold: bool = False) -> str:
    return wrap(text.replace("_", " "), pixels / DPI, size, bold=bold)


def _lines(text: str) -> int:
    return text.count("\n") + 1 if text else 0


def _fill(
    axes: Axes, content: Array | str, outline: tuple[float, float, float, float] | None
) -> None:
    if isinstance(content, str):
        bare(axes)
        axes.set_facecolor(BLANK)
        text = _wrap(content, axes.get_window_extent().width - 12, 10)
        axes.text(0.5, 0.5, text, ha="center", va="center", size=10, color=FAINT, parse_math=False)
        return
    show(axes, content)
    axes.images[0].set_interpolation("nearest")
    if outline is None:
        return
    tall, wide = content.shape[:2]
    x0, y0, x1, y1 = (share * n - 0.5 for share, n in zip(outline, (wide, tall) * 2, strict=True))
    for color, style in (("white", "-"), ("black", (0, (3, 3)))):
        axes.add_patch(
            Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, lw=1.2, color=color, ls=style)
        )


def photo(image: Image.Image, pixels: int) -> Array:
    """A photograph at the size at which it is drawn."""
    return np.asarray(image.resize((pixels, pixels), Image.Resampling.LANCZOS))


def small(heat: Array, pixels: int) -> Array:
    """A map at the size at which it is drawn, in as many steps as :func:`paletted` keeps."""
    size = (pixels, pixels)
    shrunk = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BOX)
    levels: Array = np.rint(np.asarray(shrunk) * (_STEPS - 1)) / (_STEPS - 1)
    return levels


def squares(cells: Array, pixels: int) -> Array:
    """A signed map as squares of one color each, its scale symmetric about zero.

    Args:
        cells: shape (rows, columns).
        pixels: a side of the picture.

    Returns:
        uint8 RGB of shape (pixels, pixels, 3).
    """
    levels = np.rint(np.clip(cells / limit_of(cells), -1, 1) * _SIGNED_STEPS) / _SIGNED_STEPS
    down, along = (np.arange(pixels) * n // pixels for n in cells.shape)
    drawn: Array = signed_colors(levels, 1.0)[down][:, along]
    return drawn


def paletted(content: bytes) -> bytes:
    """A methods' grid as a PNG of 256 colors, since maps that look like noise fill megabytes.

    The colors of the maps stay exactly what they are; those of photographs and letters are
    approximated.
    """
    image = Image.open(io.BytesIO(content)).convert("RGB")
    gray = round(float(BLANK) * 255)
    both = np.arange(-_SIGNED_STEPS, _SIGNED_STEPS + 1) / _SIGNED_STEPS
    maps = [colors(np.linspace(0, 1, _STEPS)), signed_colors(both, 1.0)]
    kept = np.unique(np.concatenate([*maps, [[255] * 3, [gray] * 3]]), axis=0).astype(np.int64)
    weights = np.array((65536, 256, 1))
    codes = np.asarray(image).astype(np.int64) @ weights
    room = 256 - len(kept)
    other = np.asarray(image)[~np.isin(codes, kept @ weights)]
    found: list[int] = []
    if len(other):
        found = Image.fromarray(other[None]).quantize(room).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*map(int, kept.ravel()), *found[: 3 * room]])
    places = np.array(image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))
    for place, code in enumerate(kept @ weights):
        places[codes == code] = place  # Pillow's search is not exact
    result = Image.fromarray(places)
    result.putpalette(palette.getpalette() or [])
    with io.BytesIO() as file:
        result.save(file, "PNG", optimize=True)
        return file.getvalue()

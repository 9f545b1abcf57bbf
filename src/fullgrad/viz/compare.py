"""Maps of several methods side by side, with the rule of their colors stated in the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from fullgrad.errors import InputError
from fullgrad.viz.overlay import HIGH, LOW, Array, colors, normalize, show
from fullgrad.viz.style import (
    BLANK,
    FAINT,
    LONGEST_SIDE,
    RULE,
    SEQUENTIAL,
    Writer,
    bare,
    limit_of,
    lines,
    page,
    plane,
    scale_bar,
    signed_colors,
    wrap,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

Scale: TypeAlias = Literal["map", "rank", "method"]
NOT_APPLICABLE = "does not apply"
RULES: dict[str, str] = {
    "map": f"Color, for each map on its own: {RULE}. Brightness cannot be compared between maps.",
    "rank": "Color: the share of the map's own pixels that count less. Equal areas of equal "
    "color in all maps, whatever the methods' units; how much more a pixel counts is not shown.",
    "method": f"Color, for each method over all its maps: {RULE.replace('its', 'their')}. "
    "Brightness can be compared down a column, not between columns.",
}
_DPI = 150
_PANEL, _GAP, _LABEL = 1.45, 0.09, 2.2  # inches
_NARROWEST = 6.5  # of a sheet, so that what is written below it has room
_LONGEST_NOTE = 420  # characters
_SIZES = ((10.5, 8.5), (8.0, 7.0), (5.5, 5.5))  # of label and detail, points
_LINE = 0.0168  # inches of a line's height for each point


SIGNED_RULE = (
    "In blue and red: signed numbers, red areas raise the output and blue ones lower it; the "
    f"colors end at the {HIGH:g} % percentile of the numbers' sizes."
)


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """One row of a comparison: a photograph and its maps.

    Args:
        image: what the model saw, of the maps' size.
        label: the explained class.
        maps: one for each method; words where there is none (:data:`NOT_APPLICABLE`).
        detail: smaller, below the label: the probability, the file.
    """

    image: Image.Image
    label: str
    maps: tuple[Array | str, ...]
    detail: str = ""


def most_rows(methods: int) -> int:
    """How many rows a sheet can have.

    Args:
        methods: how many there are.
    """
    head_and_foot = 4 + 0.6 * methods  # inches, with a long reason for each method
    return int((LONGEST_SIDE / _DPI - head_and_foot) / (_PANEL + _GAP))


def comparison(
    rows: Sequence[Compared],
    methods: Sequence[str],
    *,
    scale: Scale = "map",
    title: str = "",
    notes: Sequence[str] = (),
    rule: str = "",
    signed: Sequence[bool] = (),
) -> Figure:
    """A sheet of photographs and methods.

    Args:
        rows: at least one, each with as many maps as there are methods.
        methods: names, above the columns.
        scale: what is alike in all maps: ``map``, nothing, each map is stretched by itself;
            ``rank``, how many pixels have a color; ``method``, the numbers, down a column.
        title: on top.
        notes: below, one line each: why a method does not apply.
        rule: more about the maps, behind the rule of the colors.
        signed: whether the numbers of each method have a sign: they are drawn in blue and red,
            zero without color, whatever the scale, which is then alike for ``method`` alone.

    Returns:
        A matplotlib figure, to be saved with :func:`fullgrad.viz.style.saved`.

    Raises:
        InputError: no rows or methods, another number of maps, values that are not maps, an image
            of another size than its maps, or more rows than :func:`most_rows`.
        ValueError: an unknown scale.
        MissingDependencyError: matplotlib is not installed.
    """
    if scale not in RULES:
        raise ValueError(f"scale must be one of {', '.join(get_args(Scale))}, not {scale!r}")
    _check(rows, methods)
    signs = [*signed, *[False] * (len(methods) - len(signed))]
    heats = _heats(rows, signs, scale)
    if any(signs):
        rule = f"{rule} {SIGNED_RULE}".strip()
    width = max(_LABEL + (len(methods) + 1) * (_PANEL + _GAP), _NARROWEST)
    heads = [wrap(name.replace("_", " "), _PANEL, 9) for name in ("what the model sees", *methods)]
    below = wrap(f"{RULES[scale]} {rule}".strip(), width - _LABEL - 0.15, 8.5)
    written = [wrap(_cut(note), width - 0.3, 8) for note in notes]
    title = wrap(title, width - 0.3, 12, bold=True)
    top = 0.14 + 0.24 * lines(title) + 0.15 * max(map(lines, heads)) + 0.03
    foot = max(0.16 * lines(below), 0.4) + 0.15
    notes_tall = sum(0.15 * lines(note) + 0.03 for note in written) + 0.1 * bool(written)
    under = top + len(rows) * (_PANEL + _GAP) + 0.05
    figure = page(width, under + foot + notes_tall, _DPI)
    write = Writer(figure)
    write(0.12, 0.1, title, va="top", size=12, weight="bold")
    for column, head in enumerate(heads):
        middle = _LABEL + column * (_PANEL + _GAP) + _PANEL / 2
        write(middle, top - 0.05, head, ha="center", va="bottom", size=9)
    for place, (row, drawn) in enumerate(zip(rows, heats, strict=True)):
        above = top + place * (_PANEL + _GAP)
        _label(write, row, above)
        cells: list[Array | str] = [np.asarray(row.image.convert("RGB")), *drawn]
        for column, cell in enumerate(cells):
            left = _LABEL + column * (_PANEL + _GAP)
            _fill(write.axes(left, above, _PANEL, _PANEL), cell)
    bar = write.axes(0.3, under + 0.05, _LABEL - 0.75, 0.13)
    scale_bar(bar, (0, 1), {0: "0\nleast", 0.5: "0.5", 1: "1\nmost"}, SEQUENTIAL)
    write(_LABEL, under + 0.02, below, va="top", size=8.5)
    at = under + foot
    for note in written:
        write(0.12, at, note, va="top", size=8, color=FAINT)
        at += 0.15 * lines(note) + 0.03
    return figure


def _check(rows: Sequence[Compared], methods: Sequence[str]) -> None:
    if not rows or not methods:
        raise InputError("a comparison needs at least one photograph and one method")
    most = most_rows(len(methods))
    if len(rows) > most:
        raise InputError(f"a sheet has room for {most} photographs, not for {len(rows)}")
    for row in rows:
        if len(row.maps) != len(methods):
            raise InputError(f"{len(methods)} methods need as many maps, not {len(row.maps)}")
        for found in row.maps:
            if isinstance(found, str):
                continue
            shape = plane(found).shape
            if shape != (row.image.height, row.image.width):
                raise InputError(
                    f"the image is {row.image.width} x {row.image.height}, the map {shape[1]} x "
                    f"{shape[0]}: they must be of one size"
                )


def _heats(
    rows: Sequence[Compared], signs: Sequence[bool], scale: Scale
) -> list[list[Array | str]]:
    """Colored maps, or the words instead of them."""
    columns: list[list[Array | str]] = []
    for k, sign in enumerate(signs):
        found: list[Array | str] = [
            m if isinstance(m := r.maps[k], str) else plane(m) for r in rows
        ]
        maps = [m for m in found if not isinstance(m, str)]
        if sign:
            shared = max(map(limit_of, maps), default=1.0) if scale == "method" else None
            columns.append(
                [
                    c if isinstance(c, str) else signed_colors(c, shared or limit_of(c))
                    for c in found
                ]
            )
            continue
        ends = _pooled(maps) if scale == "method" and maps else None
        columns.append([c if isinstance(c, str) else colors(_heat(c, scale, ends)) for c in found])
    return [[column[i] for column in columns] for i in range(len(rows))]


def _signed(cell: Array | str, limit: float | None) -> Array | str:
    return cell if isinstance(cell, str) else signed_colors(cell, limit or limit_of(cell))


def _pooled(maps: Sequence[Array]) -> tuple[float, float]:
    every = np.concatenate([m.ravel() for m in maps])
    low, high = np.percentile(every, (LOW, HIGH))
    if not high > low:
        low, high = every.min(), every.max()
    return float(low), float(high)


def _heat(values: Array, scale: Scale, ends: tuple[float, float] | None) -> Array:
    if scale == "rank":
        return ranked(values)
    if ends is None:
        return normalize(values)
    low, high = ends
    if not high > low:
        return np.zeros(values.shape, np.float32)
    heat: Array = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    return heat


def ranked(values: Array) -> Array:
    """The share of a map's other pixels that are less than each one; equal ones share the mean.

    Args:
        values: shape (height, width).

    Returns:
        float32 in [0, 1] of the same shape; zeros for a constant map.
    """
    flat = values.ravel()
    ordered = np.sort(flat)
    if ordered[0] == ordered[-1]:
        return np.zeros(values.shape, np.float32)
    first = np.searchsorted(ordered, flat, "left")
    last = np.searchsorted(ordered, flat, "right") - 1
    share: Array = ((first + last) / 2 / (flat.size - 1)).reshape(values.shape).astype(np.float32)
    return share


def _label(write: Any, row: Compared, above: float) -> None:
    """Class and what is said of it, in the middle of the row; smaller where there is much."""
    for size, small in _SIZES:
        label = wrap(row.label, _LABEL - 0.24, size, bold=True).split("\n")
        detail = wrap(row.detail, _LABEL - 0.24, small).split("\n")
        tall = size * _LINE * len(label), small * _LINE * len(detail)
        if sum(tall) <= _PANEL:
            break
    else:
        size, small = _SIZES[-1]
        label, detail = _kept(label, size), _kept(detail, small)
        tall = size * _LINE * len(label), small * _LINE * len(detail)
    at = above + max(0.0, (_PANEL - sum(tall)) / 2)
    write(0.12, at, "\n".join(label), va="top", size=size, weight="bold")
    write(0.12, at + tall[0] + 0.03, "\n".join(detail), va="top", size=small, color="0.3")


def _kept(text: list[str], size: float) -> list[str]:
    """As many lines as half of a row has room for."""
    room = int(_PANEL / 2 / (size * _LINE))
    return text if len(text) <= room else [*text[: room - 1], "…"]


def _fill(axes: Axes, cell: Array | str) -> None:
    if not isinstance(cell, str):
        show(axes, cell)
        return
    bare(axes)
    axes.set_facecolor(BLANK)
    text = "\n".join(_kept(wrap(cell, _PANEL - 0.5, 8).split("\n"), 8))
    axes.text(0.5, 0.5, text, ha="center", va="center", size=8, color="0.3", parse_math=False)


def _cut(note: str) -> str:
    return note if len(note) <= _LONGEST_NOTE else f"{note[: _LONGEST_NOTE - 1]}…"

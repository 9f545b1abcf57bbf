"""Pictures of an evaluation: methods under several tests, and images with their maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fullgrad.errors import InputError
from fullgrad.viz.overlay import overlaid, show
from fullgrad.viz.style import FAINT, INK, Array, Writer, lines, page, shortened, wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

_MOST = 4  # panels beside each other
_NAMES, _PANEL, _GAP = 2.2, 1.9, 0.14  # inches
_EDGE, _TOP, _FOOT = 0.12, 0.42, 0.62
_GRAY = "0.62"
_SIZE = 1.5  # inches, of an image
_NOTE = (
    "Dots: means over images; bars: 95 % bootstrap intervals. Filled: first or tied with the "
    "first. Gray: controls, which know nothing of the model. Dashed: chance."
)


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One test of one model.

    Args:
        title: of the test.
        detail: how it was done.
        better: ``higher`` or ``lower``.
        chance: what chance gives, if that is known.
        rows: with ``method``, ``mean``, ``low``, ``high`` and ``verdict``.
    """

    title: str
    detail: str
    better: str
    chance: float | None
    rows: Sequence[Any]


def score_panels(panels: Sequence[Panel], title: str, controls: Sequence[str] = ()) -> Figure:
    """Draw methods as rows and tests as panels, the methods in the first test's order in all.

    Args:
        panels: one for each test.
        title: above.
        controls: labels of methods that are drawn in gray.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: nothing to draw.
        MissingDependencyError: matplotlib is not installed.
    """
    names = list(dict.fromkeys(r["method"] for p in panels for r in p.rows))
    if not names:
        raise InputError("there are no results to draw")
    across = -(-len(panels) // -(-len(panels) // _MOST))
    down = -(-len(panels) // across)
    labels = [_label(name) for name in names]
    row = 0.1 + 0.125 * max(map(lines, labels))
    heads = [_head(panel) for panel in panels]
    head = 0.12 + 0.15 * max(lines(text) + lines(detail) for text, detail in heads)
    width = _EDGE + _NAMES + across * (_PANEL + _GAP) + _EDGE
    note = wrap(_NOTE, width - 2 * _EDGE, 7.5)
    tall = row * len(names)
    block = head + tall + 0.42
    figure = page(width, _TOP + down * block + 0.1 + 0.14 * lines(note))
    write = Writer(figure)
    write(_EDGE, 0.1, shortened(title, width - 2 * _EDGE, 11), size=11, va="top")
    for place, (panel, (text, detail)) in enumerate(zip(panels, heads, strict=True)):
        line, column = divmod(place, across)
        x = _EDGE + _NAMES + column * (_PANEL + _GAP)
        y = _TOP + line * block
        write(x, y, text, size=8.5, va="top", weight="bold", linespacing=1.15)
        write(x, y + 0.15 * lines(text), detail, size=7.5, va="top", color=FAINT, linespacing=1.2)
        axes = write.axes(x, y + head, _PANEL, tall)
        _dots(axes, panel, names, controls)
        axes.set_yticks(range(len(names)), labels if column == 0 else [""] * len(names), size=7.5)
        for tick, name in zip(axes.get_yticklabels(), names, strict=True):
            tick.set_color(FAINT if name in controls else INK)
            tick.set_parse_math(False)
    write(_EDGE, _TOP + down * block + 0.02, note, size=7.5, va="top", color=FAINT)
    return figure


def _label(method: str) -> str:
    name, _, options = method.partition(":")
    text = f"{name}\n{options.replace(',', ', ')}" if options else name
    return wrap(text, _NAMES - 0.12, 7.5)


def _head(panel: Panel) -> tuple[str, str]:
    text = wrap(panel.title, _PANEL, 8.5, bold=True)
    arrow = "higher is better →" if panel.better == "higher" else "← lower is better"
    return text, wrap("\n".join(part for part in (panel.detail, arrow) if part), _PANEL, 7.5)


def _dots(axes: Any, panel: Panel, names: Sequence[str], controls: Sequence[str]) -> None:
    for row in panel.rows:
        place, color = names.index(row["method"]), _GRAY if row["method"] in controls else INK
        good = row["verdict"] in {"first", "tied"}
        reach = np.abs([[row["mean"] - row["low"]], [row["high"] - row["mean"]]])
        axes.errorbar(
            row["mean"],
            place,
            xerr=reach,
            fmt="o",
            ms=5,
            color=color,
            mfc=color if good else "white",
            elinewidth=1.1,
        )
    if panel.chance is not None:
        axes.axvline(panel.chance, color=FAINT, lw=0.9, ls=(0, (4, 3)), zorder=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=7)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=4)
    axes.grid(alpha=0.25, lw=0.6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """An image with its map.

    Args:
        image: what the model saw, of the map's size.
        saliency: its map, shape (height, width).
        label: the image's name.
        detail: its score, for example.
    """

    image: Image.Image
    saliency: Array
    label: str
    detail: str = ""


def example_sheet(groups: Sequence[tuple[str, Sequence[Example]]], title: str) -> Figure:
    """Draw groups of images, each beside its map laid over it.

    A map with negative numbers is drawn in red and blue, on a scale that is symmetric about zero.

    Args:
        groups: words and images, a row for each.
        title: above.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: nothing to draw.
        MissingDependencyError: matplotlib is not installed.
    """
    if not groups:
        raise InputError("there are no images to draw")
    cell = 2 * _SIZE + 0.04
    most = max(len(examples) for _, examples in groups)
    width = max(_EDGE + most * (cell + _GAP), 5.0)
    block = 0.26 + _SIZE + 0.42
    title = wrap(title, width - 2 * _EDGE, 10)
    top = 0.16 + 0.18 * lines(title)
    signs = [bool((e.saliency < 0).any()) for _, examples in groups for e in examples]
    note = wrap(_rule(any(signs), all(signs)), width - 2 * _EDGE, 7.5)
    figure = page(width, top + len(groups) * block + 0.1 + 0.14 * lines(note))
    write = Writer(figure)
    write(_EDGE, 0.08, title, size=10, va="top")
    for place, (head, examples) in enumerate(groups):
        y = top + place * block
        write(_EDGE, y + 0.04, head, size=8.5, va="top", weight="bold")
        for column, example in enumerate(examples):
            x = _EDGE + column * (cell + _GAP)
            sign = bool((example.saliency < 0).any())
            plain = np.asarray(example.image.convert("RGB"))
            over = overlaid(example.image, example.saliency, sign=sign)
            for i, content in enumerate((plain, over)):
                show(write.axes(x + i * (_SIZE + 0.04), y + 0.24, _SIZE, _SIZE), content)
            below = y + 0.24 + _SIZE + 0.04
            write(x, below, shortened(example.label, cell, 7.5), size=7.5, va="top")
            detail = shortened(example.detail, cell, 7.5)
            write(x, below + 0.14, detail, size=7.5, va="top", color=FAINT)
    write(_EDGE, top + len(groups) * block, note, size=7.5, va="top", color=FAINT)
    return figure


def _rule(some: bool, every: bool) -> str:
    signed = "Red speaks for the class, blue against it; each map has a scale of its own."
    plain = "The brighter, the larger the map's number; each map has a scale of its own."
    return " ".join(text for text, said in ((signed, some), (plain, not every)) if said)

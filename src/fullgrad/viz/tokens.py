"""A text's tokens as colored boxes.

Only matplotlib's object-oriented interface with the Agg canvas is used, as in
:mod:`fullgrad.viz.overlay`. Blue is negative, red positive; the scale is symmetric around zero
and one for the whole picture, so that colors can be compared between texts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from fullgrad._files import printable
from fullgrad._optional import require
from fullgrad.errors import InputError
from fullgrad.viz.style import DIVERGING, Array, lines, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABEL = "contribution to the output (blue lowers it, red raises it)"
LONGEST = 24  # characters of a token's box; longer ones lose their middle
_WIDTH = 9.0  # inches, of the whole picture
_MARGIN = 0.2
_SIZE = 11  # points
_CHARACTER = 0.602 * _SIZE / 72  # inches, of the monospaced font
_PAD, _GAP = 0.07, 0.05
_BOX = 0.46  # height of a box: the token and its score
_HEAD = 0.18  # of a line of a title
_FOOT = 0.75  # the color bar with its label
_SPACES = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"})


@dataclass(frozen=True, slots=True)
class Strip:
    """One text.

    Args:
        tokens: as they are to be shown.
        scores: one for each, shape (T,).
        title: above the boxes; long ones are wrapped.
    """

    tokens: Sequence[str]
    scores: Tensor | Array | Sequence[float]
    title: str = ""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A box: where its left edge lies on its line, and how wide it is, in inches."""

    line: int
    left: float
    width: float
    text: str
    score: float


def token_strip(
    tokens: Sequence[str],
    scores: Tensor | Array | Sequence[float],
    title: str = "",
    *,
    label: str = LABEL,
) -> Figure:
    """The tokens of one text, each in a box of its score's color, with the score below it.

    Args:
        tokens: as they are to be shown. White space is made visible, other control characters are
            replaced; tokens of more than ``LONGEST`` characters lose their middle.
        scores: one for each, shape (T,).
        title: on top; long ones are wrapped.
        label: of the color bar.

    Returns:
        A matplotlib figure, to be saved with :func:`fullgrad.viz.png`.

    Raises:
        InputError: no tokens, a score too many or too few, NaN or infinite scores.
        MissingDependencyError: matplotlib is not installed.
    """
    return token_strips([Strip(tokens, scores, title)], label=label)


def token_strips(strips: Sequence[Strip], title: str = "", *, label: str = LABEL) -> Figure:
    """Several texts below each other, on one color scale.

    Args:
        strips: at least one.
        title: on top of all; long ones are wrapped.
        label: of the color bar.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: no strips, or see :func:`token_strip`.
        MissingDependencyError: matplotlib is not installed.
    """
    require("matplotlib", "cli")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    if not strips:
        raise InputError("a picture of tokens needs at least one text")
    values = [_values(s) for s in strips]
    limit = max(float(np.abs(v).max()) for v in values) or 1.0
    rows = [_boxes([shown(t) for t in s.tokens], v) for s, v in zip(strips, values, strict=True)]
    heads = [wrapped(s.title, 95) for s in strips]
    title = wrapped(title, 80)
    height = 0.15 + lines(title) * 0.28 + _FOOT
    for boxes, head in zip(rows, heads, strict=True):
        height += lines(head) * _HEAD + 0.06 + (boxes[-1].line + 1) * (_BOX + _GAP) + 0.15
    figure = Figure(figsize=(_WIDTH, height), dpi=130)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, _WIDTH), ylim=(0, height))
    axes.set_axis_off()
    top = height - 0.12
    if title:
        axes.text(_MARGIN, top, title, va="top", size=13, weight="bold", parse_math=False)
        top -= lines(title) * 0.28
    norm = Normalize(-limit, limit)
    for boxes, head in zip(rows, heads, strict=True):
        if head:
            axes.text(_MARGIN, top, head, va="top", size=10, parse_math=False)
            top -= lines(head) * _HEAD + 0.06
        for box in boxes:
            _draw(axes, box, top, norm, limit)
        top -= (boxes[-1].line + 1) * (_BOX + _GAP) + 0.15
    bar = figure.add_axes((0.25, 0.48 / height, 0.5, 0.13 / height))
    _color_bar(bar, norm, limit, label)
    return figure


def shown(token: str) -> str:
    """A token as its box shows it: white space visible, on one line, of bounded length."""
    text = printable(token.translate(_SPACES)) or "∅"
    if len(text) > LONGEST:
        half = (LONGEST - 1) // 2
        text = f"{text[:half]}…{text[-half:]}"
    return text


def _values(strip: Strip) -> Array:
    scores: Any = strip.scores
    if isinstance(scores, Tensor):
        scores = scores.detach().cpu().double().numpy()
    values: Array = np.asarray(scores, np.float64)
    if values.shape != (len(strip.tokens),) or not len(strip.tokens):
        raise InputError(
            f"{len(strip.tokens)} tokens need as many scores, not an array of shape {values.shape}"
        )
    if not bool(np.isfinite(values).all()):
        raise InputError("the scores hold NaN or infinite values")
    return values


def _columns(text: str) -> int:
    """Columns that a text takes in a monospaced font."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(bool(unicodedata.combining(c)) for c in text)


def _boxes(tokens: Sequence[str], values: Array) -> list[_Placed]:
    """Boxes side by side, on as many lines as they need."""
    placed: list[_Placed] = []
    line, left = 0, _MARGIN
    for token, value in zip(tokens, values, strict=True):
        width = max(_columns(token) * _CHARACTER, 0.42) + 2 * _PAD
        if left + width > _WIDTH - _MARGIN and left > _MARGIN:
            line, left = line + 1, _MARGIN
        placed.append(_Placed(line, left, width, token, float(value)))
        left += width + _GAP
    return placed


def _draw(axes: Axes, box: _Placed, top: float, norm: Any, limit: float) -> None:
    from matplotlib.patches import Rectangle

    color = require("matplotlib", "cli").colormaps[DIVERGING](norm(box.score))
    ink = "white" if abs(box.score) > 0.55 * limit else "black"
    bottom = top - box.line * (_BOX + _GAP) - _BOX
    axes.add_patch(
        Rectangle((box.left, bottom), box.width, _BOX, facecolor=color, edgecolor="0.6", lw=0.6)
    )
    middle = box.left + box.width / 2
    common: dict[str, Any] = {"ha": "center", "va": "center", "color": ink, "parse_math": False}
    axes.text(middle, bottom + 0.31, box.text, size=_SIZE, family="monospace", **common)
    axes.text(middle, bottom + 0.11, number(box.score, limit), size=7.5, **common)


def number(score: float, limit: float) -> str:
    """A score with its sign, to about a hundredth of the scale's end."""
    if score == 0:
        return "0"
    if not 1e-3 <= limit < 1e4:
        return f"{score:+.1e}"
    digits = int(np.clip(1 - np.floor(np.log10(limit / 2)), 0, 5))
    return f"{score:+.{digits}f}"


def _color_bar(axes: Axes, norm: Any, limit: float, label: str) -> None:
    from matplotlib.cm import ScalarMappable

    bar = axes.figure.colorbar(ScalarMappable(norm, DIVERGING), cax=axes, orientation="horizontal")
    ends = [-limit, -limit / 2, 0.0, limit / 2, limit]
    bar.set_ticks(ends, labels=[number(t, limit) for t in ends])
    bar.ax.tick_params(labelsize=8)
    bar.set_label(wrapped(label, 90), size=8, parse_math=False)
    bar.outline.set_visible(False)

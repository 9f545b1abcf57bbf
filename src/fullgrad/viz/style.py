"""What the project's pictures have in common: colors, pages, scales, and files.

Only matplotlib's object-oriented interface with the Agg canvas is used: no display, and nothing is
ever shown. Maps without sign are drawn in ``inferno``; signed numbers in a diverging map that is
symmetric about zero, blue below and red above. Both are safe for color-blind readers, and what a
color says is also said by a number or a sign.
"""

from __future__ import annotations

import io
import textwrap
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from torch import Tensor

from fullgrad._deprecated import renamed
from fullgrad._files import printable
from fullgrad._optional import require
from fullgrad._table import number as number  # noqa: PLC0414
from fullgrad._table import signed as signed  # noqa: PLC0414
from fullgrad.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array: TypeAlias = np.ndarray[Any, Any]

COLORMAP = SEQUENTIAL = "inferno"
DIVERGING = "RdBu_r"
LOW, HIGH = 1.0, 99.5  # percentiles between which a map is stretched
__getattr__ = renamed(__name__, {"signed_colours": "signed_colors"})

SHARED = "is shared with other maps: equal colors are equal numbers."
RAISES, LOWERS, TOTAL = "#B2182B", "#2166AC", "#404040"
INK, FAINT, BLANK = "black", "0.35", "0.93"
DPI = 110
LONGEST_SIDE = 60_000  # pixels, of what the Agg canvas draws
FORMATS = ("png", "svg", "pdf")
RULE = f"its {LOW:g} % percentile and all below is 0, its {HIGH:g} % percentile and all above is 1"


def page(width: float, height: float, dpi: float = DPI) -> Figure:
    """An empty figure.

    Args:
        width: inches.
        height: inches.
        dpi: pixels an inch.

    Raises:
        InputError: it is too large to be drawn.
        MissingDependencyError: matplotlib is not installed.
    """
    require("matplotlib", "cli")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if max(width, height) * dpi > LONGEST_SIDE:
        raise InputError(
            f"the picture would be {width * dpi:.0f} x {height * dpi:.0f} pixels, more than "
            f"{LONGEST_SIDE} a side: show less in it"
        )
    figure = Figure(figsize=(width, height), dpi=dpi)
    FigureCanvasAgg(figure)
    return figure


class Writer:
    """Writes text on a figure at places in inches from its left and upper edges.

    Args:
        figure: from :func:`page`.
    """

    def __init__(self, figure: Figure) -> None:
        self._figure = figure
        self._width, self._height = map(float, figure.get_size_inches())

    def __call__(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write one text; it is shown as it stands, never read as a formula."""
        if text:
            self._figure.text(
                x / self._width, 1 - y / self._height, text, parse_math=False, **style
            )

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes whose upper left corner lies at a place."""
        w, h = self._width, self._height
        return self._figure.add_axes((x / w, (h - y - height) / h, width / w, height / h))


def lines(text: str) -> int:
    """How many lines a text takes."""
    return text.count("\n") + 1 if text else 0


def wrap(text: str, inches: float, size: float, *, bold: bool = False) -> str:
    """Text in lines that are at most ``inches`` wide, by the font's own measure.

    Args:
        text: its line breaks stay; words wider than a line are broken.
        inches: of a line.
        size: of the letters, in points.
        bold: whether they are.
    """
    room = inches * 72 / size
    return "\n".join(part for line in text.split("\n") for part in _wrapped(line, room, bold))


def _wrapped(line: str, room: float, bold: bool) -> list[str]:
    found: list[str] = []
    current, used = "", 0.0
    for word in printable(line).split(" "):
        wide = _width(f" {word}", bold)
        if current and used + wide > room:
            found.append(current)
            current, used = "", 0.0
        current, used = (f"{current} {word}", used + wide) if current else (word, wide)
        while used > room and len(current) > 1:  # one word that is wider than the line
            fits = max(1, _fitting(current, room, bold))
            found.append(current[:fits])
            current = current[fits:]
            used = _width(f" {current}", bold)
    return [*found, current] if current else found


def shortened(text: str, inches: float, size: float, *, bold: bool = False) -> str:
    """A text on one line, without its middle where it is wider than ``inches``."""
    text, room = printable(text), inches * 72 / size
    if _width(text, bold) <= room:
        return text
    half = (room - _width("…", bold)) / 2
    head, tail = _fitting(text, half, bold), _fitting(text[::-1], half, bold)
    return f"{text[:head]}…{text[len(text) - tail :]}"


def _width(text: str, bold: bool) -> float:
    """The width of a text, in units of the letters' size; kerning is left out."""
    return sum(_advance(c, bold) for c in text)


def _fitting(text: str, room: float, bold: bool) -> int:
    """How many of the first characters fit."""
    for count, character in enumerate(text):
        room -= _advance(character, bold)
        if room < 0:
            return count
    return len(text)


@lru_cache(maxsize=8192)
def _advance(character: str, bold: bool) -> float:
    require("matplotlib", "cli")
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=100, weight="bold" if bold else "normal")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about characters that the font lacks
        wide, without = (
            text_to_path.get_text_width_height_descent(t, font, False)[0]
            for t in (f"|{character}|", "||")
        )
    return float(wide - without) / 100


def bare(axes: Axes) -> None:
    """Take ticks and frame away."""
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def plane(saliency: Tensor | Array) -> Array:
    """Return a map's numbers, float64 of shape (height, width).

    Raises:
        InputError: more than one map, an empty one, or NaN or infinite values.
    """
    array = saliency.detach().cpu().double().numpy() if isinstance(saliency, Tensor) else saliency
    shape = array.shape
    if len(shape) < 2 or array.size == 0 or array.size != shape[-1] * shape[-2]:
        raise InputError(f"one map of shape (height, width) is needed, not {tuple(shape)}")
    values: Array = np.asarray(array, np.float64).reshape(shape[-2:])
    if not bool(np.isfinite(values).all()):
        raise InputError("the map holds NaN or infinite values")
    return values


def normalize(saliency: Tensor | Array, low: float = LOW, high: float = HIGH) -> Array:
    """Stretch a map to [0, 1], robustly against single extreme pixels.

    Args:
        saliency: a map; axes of length 1 before the last two are dropped.
        low: this percentile of the map becomes 0, and so does all below.
        high: this percentile becomes 1, and so does all above.

    Returns:
        float32 of shape (height, width); zeros for a constant map.

    Raises:
        InputError: more than one map, an empty one, or NaN or infinite values.
        ValueError: percentiles that are not 0 <= low < high <= 100.
    """
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles must be 0 <= low < high <= 100, not {low} and {high}")
    values = plane(saliency)
    bottom, top = np.percentile(values, (low, high))
    if not top > bottom:  # almost all pixels alike: what differs is all there is to see
        bottom, top = float(values.min()), float(values.max())
    if not top > bottom:
        return np.zeros(values.shape, np.float32)
    heat: Array = np.clip((values - bottom) / (top - bottom), 0, 1).astype(np.float32)
    return heat


def colors(heat: Array) -> Array:
    """Colors of a map in [0, 1].

    Args:
        heat: shape (height, width), from :func:`normalize`.

    Returns:
        uint8 RGB of shape (height, width, 3).

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    return _rgb(COLORMAP, heat)


def show(axes: Axes, content: Array) -> None:
    """An image without ticks, frame or distortion."""
    axes.imshow(content, aspect="equal", interpolation="auto")
    bare(axes)


def limit_of(values: Array) -> float:
    """The end of a symmetric scale: the ``HIGH`` % percentile of the sizes; 1 if all are 0."""
    sizes = np.abs(values)
    return float(np.percentile(sizes, HIGH)) or float(sizes.max()) or 1.0


def shared_limit(maps: Iterable[Tensor | Array]) -> float:
    """The end of one symmetric scale for several signed maps: the largest of their own ends.

    Maps of several classes of one image can be compared by color only on one scale.

    Args:
        maps: at least one; axes of length 1 before the last two are dropped.

    Raises:
        InputError: no maps, or one that is not a map.

    Example:
        >>> import torch
        >>> from fullgrad.viz.style import shared_limit
        >>> shared_limit([torch.full((4, 4), -2.0), torch.full((4, 4), 0.5)])
        2.0
    """
    ends = [limit_of(plane(each)) for each in maps]
    if not ends:
        raise InputError("a scale needs at least one map")
    return max(ends)


def checked_limit(limit: float | None, sign: bool) -> None:
    """Refuse an end of the scale that no picture can have.

    Raises:
        ValueError: it is not positive and finite, or the map has no sign.
    """
    if limit is None:
        return
    if not sign:
        raise ValueError("limit is the end of a signed scale: it needs sign=True")
    if not 0 < limit < float("inf"):
        raise ValueError(f"the limit of a signed scale must be positive, not {limit!r}")


def signed_colors(values: Array, limit: float) -> Array:
    """Colors of a signed map: blue at ``-limit``, pale at 0, red at ``limit``.

    Args:
        values: shape (height, width).
        limit: positive; all beyond is drawn like it.

    Returns:
        uint8 RGB of shape (height, width, 3).

    Raises:
        ValueError: a limit that is not positive.
        MissingDependencyError: matplotlib is not installed.
    """
    if not limit > 0:
        raise ValueError(f"the limit of a signed scale must be positive, not {limit!r}")
    return _rgb(DIVERGING, np.clip(values / limit, -1, 1) / 2 + 0.5)


def _rgb(name: str, scaled: Array) -> Array:
    rgba = require("matplotlib", "cli").colormaps[name](scaled, bytes=True)
    result: Array = rgba[..., :3]
    return result


def scale_bar(axes: Axes, ends: tuple[float, float], ticks: dict[float, str], name: str) -> None:
    """A horizontal color scale with words at some of its values."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    drawn: Any = axes.figure
    bar = drawn.colorbar(ScalarMappable(Normalize(*ends), name), cax=axes, orientation="horizontal")
    places = sorted(ticks)
    bar.set_ticks(places, labels=[ticks[p] for p in places])
    bar.ax.tick_params(labelsize=8, length=2, pad=1)
    bar.outline.set_visible(False)


def png(figure: Figure) -> bytes:
    """A figure as PNG file content.

    Args:
        figure: from :func:`picture` or :func:`fullgrad.viz.sheet`.

    Returns:
        The bytes of the file.
    """
    return _file_of(figure, "png")


def photo_png(figure: Figure) -> bytes:
    """A figure that is mostly photographs as PNG file content: five times as quick as :func:`png`.

    Colors are rounded to multiples of 3, of 255: none changes by more than 1, and the file is a
    third smaller.

    Args:
        figure: from :func:`fullgrad.viz.picture`, without transparency.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    pil = require("PIL.Image", "vision")
    canvas: Any = FigureCanvasAgg(figure)
    with io.BytesIO() as file, _unknown_letters():
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        rounded = (np.arange(1, 257) // 3 * 3).astype(np.uint8)[pixels]
        pil.fromarray(rounded).save(file, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
        return file.getvalue()


def saved(figure: Figure, kind: str) -> bytes:
    """A figure as a file's content; equal figures give equal bytes.

    Args:
        figure: from any function of :mod:`fullgrad.viz`.
        kind: ``png``, ``svg`` or ``pdf``.

    Returns:
        The bytes of the file.

    Raises:
        ValueError: another kind.
    """
    if kind not in FORMATS:
        raise ValueError(f"a picture is one of {', '.join(FORMATS)}, not {kind!r}")
    if kind == "png":
        return png(figure)
    date = {"svg": "Date", "pdf": "CreationDate"}[kind]
    with require("matplotlib", "cli").rc_context({"svg.hashsalt": "fullgrad"}):
        return _file_of(figure, kind, metadata={date: None})


def _file_of(figure: Figure, kind: str, **options: Any) -> bytes:
    with io.BytesIO() as file, _unknown_letters():
        figure.savefig(file, format=kind, **options)
        return file.getvalue()


@contextmanager
def _unknown_letters() -> Iterator[None]:
    """Names may be in a script that matplotlib's font lacks: it draws boxes, and warns in vain."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


def wrapped(text: str, width: int) -> str:
    """Text in lines of at most ``width`` characters; words longer than a line are broken."""
    lines = [textwrap.wrap(printable(line), width) for line in text.split("\n")]
    return "\n".join(line for part in lines for line in part)

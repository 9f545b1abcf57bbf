"""The texts of a store: each token with its number, in the color of that number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fullgrad.datasets.encoding import Array
from fullgrad.datasets.opened import Opened
from fullgrad.viz.style import signed_colors
from fullgrad.viz.tokens import number, shown

_DARK = 0.179  # relative luminance up to which white letters have more contrast than black ones


@dataclass(frozen=True, slots=True)
class ColoredToken:
    """One token of a text.

    Args:
        text: as it is shown, on one line, of bounded length.
        score: its number, in words.
        color: of the score as ``#rrggbb``: red raises the output, blue lowers it.
        ink: of letters on that color, as ``#rrggbb``.
    """

    text: str
    score: str
    color: str
    ink: str


@dataclass(frozen=True, slots=True)
class ColoredText:
    """The tokens of a text, or a stretch of it.

    Args:
        tokens: in order.
        before: how many tokens there are before them.
        after: how many there are behind.
    """

    tokens: tuple[ColoredToken, ...]
    before: int = 0
    after: int = 0


def colored_text(store: Opened, row: int, most: int | None = None) -> ColoredText | None:
    """Return a row's tokens in colors; None where it has no map.

    Colors run from minus the text's largest number to plus that.

    Args:
        store: of maps of texts.
        row: of the store.
        most: tokens that are returned: those around the largest number; None for all.

    Raises:
        UsageError: there is no such row.
        StoreError: the map is damaged.
    """
    values = store.map(row)
    names: Sequence[str] | None = store.index.at[row, "tokens"]
    if names is None or not np.isfinite(values).all():
        return None
    scores = values[: len(names)].astype(np.float64)
    limit = float(np.abs(scores).max(initial=0.0)) or 1.0
    count = len(names) if most is None else min(most, len(names))
    start = int(np.clip(np.abs(scores).argmax() - count // 2, 0, len(names) - count))
    kept = slice(start, start + count)
    colors = signed_colors(scores[None, kept], limit)[0]
    tokens = tuple(
        ColoredToken(
            shown(str(name)),
            number(float(score), limit),
            f"#{bytes(color.tolist()).hex()}",
            "#ffffff" if light < _DARK else "#000000",
        )
        for name, score, color, light in zip(
            names[kept], scores[kept], colors, _luminance(colors), strict=True
        )
    )
    return ColoredText(tokens, start, len(names) - start - count)


def _luminance(colors: Array) -> Array:
    """The relative luminance of sRGB colors (WCAG 2.2), from uint8 of shape (colors, 3)."""
    part = colors / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return np.asarray(linear @ (0.2126, 0.7152, 0.0722))

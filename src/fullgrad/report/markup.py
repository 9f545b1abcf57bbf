"""Parts of a report's page, from Python values that are all escaped."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from fullgrad._html import Html, tag
from fullgrad._optional import require
from fullgrad.report.values import ReportError

_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"<?xml": "image/svg+xml", b"<svg": "image/svg+xml"}
_QUALITY = 85  # of WebP: labels stay sharp


def kind_of(content: bytes) -> str | None:
    """The media type of a picture that can be shown, by its first bytes."""
    start = content.lstrip(b"\xef\xbb\xbf \t\r\n")[:8]
    return next((kind for begin, kind in _KINDS.items() if start.startswith(begin)), None)


def small(content: bytes, widest: int, name: str = "the picture") -> tuple[bytes, str]:
    """A picture for the page: no wider than it is shown, and as WebP where that is smaller.

    Args:
        content: of a PNG file.
        widest: pixels that it may be wide.
        name: of the file, for messages.

    Returns:
        The content, and its media type.

    Raises:
        ReportError: it cannot be decoded.
    """
    pil = require("PIL.Image", "vision")
    try:
        with pil.open(io.BytesIO(content), formats=("PNG",)) as image:
            found = image.convert("RGBA" if "transparency" in image.info else "RGB")
    except (OSError, ValueError, SyntaxError, pil.DecompressionBombError) as error:
        raise ReportError(f"{name} is damaged: {error}") from error
    fits = found.width <= widest
    if not fits:
        found.thumbnail((widest, found.height), pil.Resampling.LANCZOS)
    file = io.BytesIO()
    found.save(file, "WEBP", quality=_QUALITY)
    if fits and file.tell() >= len(content):
        return content, "image/png"
    return file.getvalue(), "image/webp"


class Builder:
    """Elements that need an identifier of their own."""

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def name(self, what: str) -> str:
        """An identifier that no other element has."""
        return f"{what}-{next(self._count)}"

    def scrolling(self, label: str, *children: Any) -> Html:
        """A box that scrolls sideways by itself, also with the keyboard."""
        return tag("div", *children, class_="scroll", role="group", aria_label=label, tabindex=0)

    def table(
        self,
        caption: Any,
        heads: Sequence[Any],
        rows: Iterable[Sequence[Any]],
        *,
        numeric: Iterable[int] = (),
        class_: str | None = None,
    ) -> Html:
        """A table whose first column names its rows.

        Args:
            caption: what it shows and what its numbers mean.
            heads: of the columns.
            rows: with as many cells each.
            numeric: places of the columns with numbers.
            class_: of the table.
        """
        name, right = self.name("table"), set(numeric)

        def cell(place: int, value: Any) -> Html:
            kind = "n" if place in right else None
            if place == 0:
                return tag("th", value, scope="row", class_=kind)
            return tag("td", value, class_=kind)

        top = [
            tag("th", h, scope="col", class_="n" if i in right else None)
            for i, h in enumerate(heads)
        ]
        body = [tag("tr", *(cell(i, v) for i, v in enumerate(row))) for row in rows]
        content = tag(
            "table",
            tag("caption", caption, id=name),
            tag("thead", tag("tr", *top)),
            tag("tbody", *body),
            class_=class_,
        )
        return tag("div", content, class_="scroll", role="group", aria_labelledby=name, tabindex=0)

    @staticmethod
    def source(content: bytes, kind: str) -> str:
        """The address of a picture inside the page."""
        return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"

    def picture(
        self, content: bytes, kind: str, alt: str, caption: Any, wide: bool = False
    ) -> Html:
        """A picture inside the page.

        Args:
            content: of its file.
            kind: media type.
            alt: what is to be seen, for those who do not see it.
            caption: below it.
            wide: whether it keeps its size on narrow screens, and scrolls.
        """
        image = tag(
            "img",
            src=self.source(content, kind),
            alt=alt,
            loading="lazy",
            decoding="async",
            class_="wide" if wide else None,
        )
        if wide:
            image = self.scrolling(f"Picture: {alt}", image)
        return tag("figure", image, tag("figcaption", caption))


def facts(rows: Iterable[tuple[Any, Any, Any]]) -> Html:
    """A list of names, values, and what they mean (which may be empty)."""

    def one(name: Any, value: Any, what: Any) -> Html:
        meaning = tag("dd", what, class_="what") if what else ""
        return tag("div", tag("dt", name), tag("dd", value), meaning)

    return tag("dl", *(one(*row) for row in rows))


def details(summary: str, *children: Any, shown: bool = False) -> Html:
    """Content that can be folded away, and is until it is asked for unless ``shown``."""
    return tag("details", tag("summary", summary), *children, open=shown)

"""HTML from Python values: everything is escaped but what this module made itself."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

from fullgrad._files import printable

_VOID = frozenset({"img", "input", "meta", "br"})


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(value: Any) -> Html:
    """Any value as HTML that shows it; what cannot be shown becomes a replacement character."""
    if isinstance(value, Html):
        return value
    lines = "\n".join(printable(line) for line in str(value).splitlines())
    return Html(html.escape(lines, quote=True))


def joined(parts: Iterable[Any]) -> Html:
    """Parts one after the other."""
    return Html("".join(map(escaped, parts)))


def tag(name: str, *children: Any, **attributes: Any) -> Html:
    """An element.

    Args:
        name: of the element; never from a file.
        children: HTML, or values to be escaped.
        attributes: a trailing ``_`` is dropped, other ``_`` become ``-``; True gives an attribute
            without a value, None and False none at all.
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = key.rstrip("_").replace("_", "-")
        words.append(label if value is True else f'{label}="{escaped(value)}"')
    start = f"<{' '.join(words)}>"
    return Html(start if name in _VOID else f"{start}{joined(children)}</{name}>")

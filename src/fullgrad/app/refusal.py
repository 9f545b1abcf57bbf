"""What a request is answered when it cannot be done."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeAlias

from fullgrad._files import printable
from fullgrad.errors import FullGradError

Kind: TypeAlias = Literal["photograph", "request", "method", "busy", "internal"]

_LONGEST = 1000  # characters of a message
# A path of two parts or more: where the server keeps its files is nobody's business.
_PATH = re.compile(r"(?<![\w.<:/])(?:~|[A-Za-z]:)?(?:[/\\][\w.@+~-]+){2,}[/\\]?")
_REST = r"(?:[/\\][\w.@+~-]+)*[/\\]?"
_INSTEAD = "(a file of the server)"
_HIDDEN: set[str] = set()


class Refusal(FullGradError):
    """A request that cannot be done, with a message for the person who made it.

    Args:
        message: in words, without anything of the server's.
        kind: whose matter it is.
        status: of the HTTP answer, where it has not begun yet.
    """

    def __init__(self, message: str, kind: Kind = "request", status: int = 400) -> None:
        super().__init__(public(message))
        self.kind: Kind = kind
        self.status = status

    def body(self) -> dict[str, Any]:
        """The answer, as JSON-ready values."""
        return {"error": str(self), "kind": self.kind}


def hide(paths: Iterable[Path]) -> None:
    """Name paths that no message may tell, of this process: those that a pattern cannot find.

    Args:
        paths: with spaces in them, perhaps; those of a single part (``/``, ``net.py``) are let be.
    """
    _HIDDEN.update(_line(str(p)) for p in paths if len(p.parts) > 1)


def public(message: str) -> str:
    """A message on one line, without paths of the server's file system."""
    line = _line(message)
    for path in sorted(_HIDDEN, key=len, reverse=True):
        line = re.sub(rf"(?<![\w.<:/]){re.escape(path)}(?![\w-]){_REST}", _INSTEAD, line)
    line = _PATH.sub(_INSTEAD, line)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _line(text: str) -> str:
    return printable(" ".join(text.split()))

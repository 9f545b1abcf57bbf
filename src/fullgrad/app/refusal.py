"""Why a request is refused or has failed, in words for the person who made it."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from fullgrad._files import printable
from fullgrad.errors import FullGradError, ImageError

Kind: TypeAlias = Literal["photograph", "request", "method", "busy", "internal"]

_LONGEST = 1000  # characters of a message
# A path of two parts or more: where the server keeps its files is nobody's business.
_PATH = re.compile(r"(?<![\w.<:/])(?:~|[A-Za-z]:)?(?:[/\\][\w.@+~-]+){2,}[/\\]?")
_REST = r"(?:[/\\][\w.@+~-]+)*[/\\]?"
_INSTEAD = "(a file of the server)"
_HIDDEN: set[str] = set()
_ALLOCATION = "can't allocate memory"  # in PyTorch's RuntimeError, where the CPU's memory ends


class Refusal(FullGradError):
    """A request that cannot be done, with a message for the person who made it.

    Args:
        message: the reason in words, without anything of the server's.
        kind: what the reason has to do with.
        status: the status of the HTTP response, where it has not begun yet.
    """

    def __init__(self, message: str, kind: Kind = "request", status: int = 400) -> None:
        super().__init__(public(message))
        self.kind: Kind = kind
        self.status = status

    def body(self) -> dict[str, Any]:
        """Return the response, as JSON-ready values."""
        return {"error": str(self), "kind": self.kind}


def hide(paths: Iterable[Path]) -> None:
    """Keep paths of this process out of every message, those too that no pattern finds.

    Args:
        paths: the paths, perhaps with spaces; those of a single part (``/``, ``net.py``) are left
            unchanged.
    """
    _HIDDEN.update(_line(str(p)) for p in paths if len(p.parts) > 1)


def public(message: str) -> str:
    """Put a message on one line, without paths of the server's file system."""
    line = _line(message)
    for path in sorted(_HIDDEN, key=len, reverse=True):
        line = re.sub(rf"(?<![\w.<:/]){re.escape(path)}(?![\w-]){_REST}", _INSTEAD, line)
    line = _PATH.sub(_INSTEAD, line)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _line(text: str) -> str:
    return printable(" ".join(text.split()))


def refusal_of(error: BaseException) -> Refusal:
    """Return what a person reads of an error; an unforeseen one is written on the terminal."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, FullGradError):
        return Refusal(str(error), "photograph" if isinstance(error, ImageError) else "method")
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or _ALLOCATION in str(error):
        return Refusal("The viewer ran out of memory for this request.", "internal", 500)
    text = "".join(traceback.format_exception(error))
    print(f"fullgrad app: unexpected error\n{text}", file=sys.stderr, flush=True)
    return Refusal(
        "Something went wrong in the viewer. Its terminal says more; other requests are not "
        "affected.",
        "internal",
        500,
    )

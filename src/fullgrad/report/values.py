"""Numbers and texts out of JSON that others may have written or damaged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from fullgrad._files import printable
from fullgrad.errors import FullGradError

_LARGEST = 50_000_000  # bytes of a file that is read


class ReportError(FullGradError):
    """A file is not what ``fullgrad`` writes."""


class Values:
    """A JSON object that says what is wrong with it.

    Args:
        found: what was parsed.
        where: it is, for messages.

    Raises:
        ReportError: it is no object.
    """

    def __init__(self, found: Any, where: str) -> None:
        if not isinstance(found, dict):
            raise ReportError(f"{where} is not a JSON object")
        self._found: dict[str, Any] = found
        self.where = where

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def _of(self, name: str, kinds: Any, what: str, optional: bool) -> Any:
        value = self._found.get(name)
        if value is None and optional:
            return None
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise ReportError(f"{self.where}: {name!r} is not {what}")
        return value

    def text(self, name: str) -> str:
        """A text.

        Raises:
            ReportError: there is none of that name.
        """
        value: str = self._of(name, str, "a text", optional=False)
        return value

    def maybe_text(self, name: str) -> str | None:
        """A text, or None where there is null or nothing.

        Raises:
            ReportError: there is something else.
        """
        value: str | None = self._of(name, str, "a text", optional=True)
        return value

    def number(self, name: str) -> float:
        """A finite number.

        Raises:
            ReportError: there is none of that name.
        """
        value = self._of(name, (int, float), "a number", optional=False)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ReportError(f"{self.where}: {name!r} is not a finite number")
        return number

    def integer(self, name: str) -> int:
        """A whole number.

        Raises:
            ReportError: there is none of that name.
        """
        value: int = self._of(name, int, "a whole number", optional=False)
        return value

    def inside(self, name: str) -> Values:
        """The object of a name.

        Raises:
            ReportError: there is none.
        """
        return Values(self._found.get(name), f"{self.where}: {name!r}")

    def each(self, name: str) -> list[Values]:
        """The objects of a list.

        Raises:
            ReportError: there is no list, or one of something else.
        """
        found = self._of(name, list, "a list", optional=False)
        return [Values(v, f"{self.where}: {name!r}[{i}]") for i, v in enumerate(found)]

    def items(self) -> list[tuple[str, Any]]:
        """Names and values as they are."""
        return list(self._found.items())

    def plain(self) -> dict[str, Any]:
        """The object itself."""
        return self._found


def read_bytes(path: Path) -> bytes:
    """The content of a regular file of bounded size.

    Raises:
        ReportError: it is none, or cannot be read.
    """
    try:
        if not path.is_file():
            raise ReportError(f"{printable(path)} does not exist")
        if path.stat().st_size > _LARGEST:
            raise ReportError(f"{printable(path)} is larger than {_LARGEST // 1_000_000} MB")
        return path.read_bytes()
    except OSError as error:
        raise ReportError(f"{printable(path)} cannot be read: {error.strerror}") from error


def read_json(path: Path) -> Values:
    """The JSON object in a file.

    Raises:
        ReportError: it cannot be read, or is no JSON object.
    """
    name = printable(path)
    try:
        found = json.loads(read_bytes(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{name} is no JSON: {error}") from error
    return Values(found, name)


def shown(value: Any) -> str:
    """A value of any kind as one short text, for tables."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{k}: {shown(v)}" for k, v in value.items()) or "none"
    return str(value)

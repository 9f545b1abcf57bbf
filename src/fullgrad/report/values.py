"""Files that others may have written or damaged, and their values as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fullgrad._files import printable
from fullgrad.vision.schema import RecordError

_LARGEST = 50_000_000  # bytes of a file that is read


ReportError = RecordError  # a file is not what ``fullgrad`` writes


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

    def text(self, name: str) -> str:
        """Return a text.

        Raises:
            ReportError: there is none of that name.
        """
        value = self._found.get(name)
        if not isinstance(value, str):
            raise ReportError(f"{self.where}: {name!r} is not a text")
        return value

    def inside(self, name: str) -> Values:
        """Return the object of a name.

        Raises:
            ReportError: there is none.
        """
        return Values(self._found.get(name), f"{self.where}: {name!r}")

    def items(self) -> list[tuple[str, Any]]:
        """Return names and values as they are."""
        return list(self._found.items())


def read_bytes(path: Path) -> bytes:
    """The content of a regular file of bounded size.

    Raises:
        ReportError: it is not one, or cannot be read.
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
        ReportError: it cannot be read, or is not a JSON object.
    """
    name = printable(path)
    try:
        found = json.loads(read_bytes(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{name} is not JSON: {error}") from error
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

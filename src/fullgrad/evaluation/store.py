"""A results folder that survives being killed: parts written whole, one plan for each folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fullgrad._files import printable, write_whole
from fullgrad._optional import require
from fullgrad.errors import FullGradError

PLAN, RECORD, TABLE = "plan.json", "record.json", "results"


class StoreError(FullGradError):
    """A results folder cannot be used."""


class Store:
    """The results of one plan.

    Args:
        folder: made if need be.
        plan: JSON-ready values of everything the rows depend on.

    Raises:
        StoreError: the folder belongs to another plan or cannot be written.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self.folder = folder
        self._parts = folder / "parts"
        text = json.dumps(plan, indent=1, sort_keys=True) + "\n"
        try:
            known = (folder / PLAN).read_text(encoding="utf-8") if folder.is_dir() else None
        except FileNotFoundError:
            known = None
            if any(folder.iterdir()):
                raise StoreError(
                    f"{printable(folder)} holds other files and no results; give an empty folder"
                ) from None
        except OSError as error:
            raise StoreError(f"{printable(folder)} cannot be read: {error.strerror}") from error
        if known is not None and known != text:
            raise StoreError(
                f"{printable(folder)} holds the results of another run ({_difference(known, plan)}"
                "); give another folder, or the options of that run"
            )
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            if known is None:
                write_whole(folder / PLAN, text.encode())
        except OSError as error:
            raise StoreError(f"cannot write to {printable(folder)}: {error.strerror}") from error

    def path(self, number: int) -> Path:
        """Of a part."""
        return self._parts / f"{number:06d}.json"

    def missing(self, count: int) -> list[int]:
        """Numbers of the parts that are not done. A damaged one is not done."""
        return [n for n in range(count) if self._read(n) is None]

    def _read(self, number: int) -> dict[str, Any] | None:
        try:
            found = json.loads(self.path(number).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and {"rows", "seconds"} <= set(found) else None

    def put(self, number: int, rows: Sequence[Mapping[str, Any]], seconds: Any) -> None:
        """Keep the rows of one part, and what it took.

        Raises:
            StoreError: it cannot be written.
        """
        text = json.dumps({"rows": list(rows), "seconds": seconds})
        try:
            write_whole(self.path(number), text.encode())
        except OSError as error:
            raise StoreError(
                f"cannot write to {printable(self.folder)}: {error.strerror}"
            ) from error

    def rows(self, count: int) -> Any:
        """All parts' rows in order, as a pandas table."""
        pandas: Any = require("pandas", "bench")
        parts = [self._read(n) for n in range(count)]
        return pandas.DataFrame([row for part in parts if part for row in part["rows"]])

    def seconds(self, count: int) -> dict[str, float]:
        """What each piece of work took in all parts together."""
        total: dict[str, float] = {}
        for part in (self._read(n) for n in range(count)):
            for name, value in (part or {"seconds": {}})["seconds"].items():
                total[name] = total.get(name, 0.0) + value
        return total

    def write(self, name: str, content: bytes) -> Path:
        """Write a file of the folder, whole or not at all.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            write_whole(self.folder / name, content)
        except OSError as error:
            raise StoreError(
                f"cannot write to {printable(self.folder)}: {error.strerror}"
            ) from error
        return self.folder / name


def _difference(known: str, plan: Mapping[str, Any]) -> str:
    try:
        before = json.loads(known)
    except ValueError:
        return "its plan.json is damaged"
    names = [k for k in {**before, **plan} if before.get(k) != json.loads(json.dumps(plan.get(k)))]
    said = [f"{k}: {before.get(k)!r} there, {plan.get(k)!r} asked for" for k in names]
    return "; ".join(said)[:400]

"""Options of tests, and how progress is reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a test, on the command line and in Python.

    Args:
        flag: as ``--batch-size``, in Python ``batch_size``.
        help: what it is, in one line.
        default: of a list where there are several values; of one or None otherwise.
        kind: from text to its value; ``bool`` for a switch.
        choices: its possible values.
        required: it has no default.
        old: the flag that it had before.
        also: another flag for it.
    """

    flag: str
    help: str
    default: Any = None
    kind: type[Any] = str
    choices: Sequence[str] | None = None
    required: bool = False
    old: str | None = None
    also: str | None = None

    @property
    def name(self) -> str:
        """Its name in Python."""
        return self.flag.removeprefix("--").replace("-", "_")


MEANINGS = {
    "method": "whose map gives the order",
    "fraction": "share of the pixels that are removed",
    "low": "lower end of the 95 % interval",
    "high": "upper end of the 95 % interval",
    "median": "over cases",
    "rank": "1 is best",
    "first": "one method of a pair",
    "second": "the other one",
    "difference": "first minus second, over the same cases",
    "differ": "whether the interval of the difference leaves out zero",
    "p": "of a test that flips the signs of the differences",
    "p_least": "the least that p can be with so few cases",
}


class Meter(Protocol):
    """Shows how much of the work is done; see ``fullgrad.cli.progress.Progress``."""

    def __call__(self, done: int, total: int) -> None:
        """Show up to which number the work is done."""

    def end(self) -> None:
        """Clear the display."""


class Silent:
    """Shows no progress.

    Args:
        what: would be counted.
    """

    def __init__(self, what: str) -> None:
        pass

    def __call__(self, done: int, total: int) -> None:
        """Show nothing."""

    def end(self) -> None:
        """Show nothing."""

"""How far a run is, and what came of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

_SELDOM = 30.0  # seconds between full lines where there is no terminal
_OFTEN = 0.2


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Args:
        done: maps that are there, those of earlier runs too.
        total: maps that this run is to see done.
        errors: rows without a map that this run wrote.
        rate: maps a second, of this run.
        left: seconds, if the rate stays; None before the first unit.
    """

    done: int
    total: int
    errors: int = 0
    rate: float = 0.0
    left: float | None = None

    def __str__(self) -> str:
        parts = [f"{self.done:,} of {self.total:,} maps"]
        if self.errors:
            parts.append(f"{self.errors:,} {'error' if self.errors == 1 else 'errors'}")
        if self.rate:
            parts.append(f"{self.rate:.3g} a second")
        if self.left is not None:
            parts.append(f"{duration(self.left)} left")
        return ", ".join(parts)


OnProgress: TypeAlias = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of a run.

    Args:
        address: of the store.
        digest: of the plan.
        units: that the run was to see done.
        units_done: of these, those that are there now.
        units_written: of these, those that this run wrote.
        maps: rows of the units that this run wrote.
        errors: of these, rows without a map.
        errors_there: rows without a map in all units that the run was to see done.
        bytes: of the shards that this run wrote.
        seconds: that the run took.
        damaged: a line for each unit that was damaged and done again.
    """

    address: str
    digest: str
    units: int
    units_done: int
    units_written: int
    maps: int
    errors: int
    errors_there: int
    bytes: int
    seconds: float
    damaged: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every unit that the run was to see done is there."""
        return self.units_done == self.units

    def __str__(self) -> str:
        lines = [
            f"{self.units_done} of {self.units} units are in {self.address} (plan {self.digest}), "
            f"{self.errors_there:,} rows without a map",
            f"this run: {self.units_written} units, {self.maps:,} rows, {self.errors:,} of them "
            f"without a map, {size(self.bytes)}, {duration(self.seconds)}",
        ]
        if self.maps and self.seconds:
            lines[1] += f", {self.maps / self.seconds:.3g} a second"
        return "\n".join([*self.damaged, *lines])


class Meter:
    """Counts what is done, and tells.

    Args:
        done: maps that are there.
        total: maps there are to be.
        tell: told after each change.
    """

    def __init__(self, done: int, total: int, tell: OnProgress) -> None:
        self._progress, self._tell = Progress(done, total), tell
        self._first, self._began = done, time.monotonic()
        tell(self._progress)

    def add(self, maps: int, errors: int) -> None:
        """Count maps that are there now, rows without a map among them."""
        done = self._progress.done + maps
        passed = time.monotonic() - self._began
        rate = (done - self._first) / passed if passed else 0.0
        left = (self._progress.total - done) / rate if rate else None
        errors += self._progress.errors
        self._progress = replace(self._progress, done=done, errors=errors, rate=rate, left=left)
        self._tell(self._progress)


class Line:
    """Shows progress as one line that is written over; full lines, seldom, without a terminal."""

    def __init__(self) -> None:
        self._said, self._live = 0.0, sys.stderr.isatty()

    def __call__(self, progress: Progress) -> None:
        """Show it."""
        now = time.monotonic()
        last = progress.done >= progress.total
        if now - self._said < (_OFTEN if self._live else _SELDOM) and not last:
            return
        self._said = now
        if self._live:
            sys.stderr.write(f"\r\x1b[K{progress}" + ("\n" if last else ""))
            sys.stderr.flush()
        else:
            print(progress, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds as people write them.

    Example:
        >>> duration(5.24), duration(754), duration(7265)
        ('5.2 s', '12:34', '2:01:05')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def size(count: int) -> str:
    """Bytes as people write them.

    Example:
        >>> size(812), size(51_300_000)
        ('812 bytes', '51.3 MB')
    """
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"

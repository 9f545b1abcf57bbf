"""Progress of long work on the terminal: how much is done, and how long the rest will take."""

from __future__ import annotations

import sys
import time


class Progress:
    """One line that is written over again; full lines, seldom, where there is no terminal.

    Args:
        what: is being counted.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._began: float | None = None
        self._first = 0
        self._said = 0.0
        self._live = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        """Show how many of all are done."""
        now = time.monotonic()
        if self._began is None:
            self._began, self._first = now, done
        ahead = ""
        if done > self._first:
            left = (now - self._began) / (done - self._first) * (total - done)
            ahead = f", {_duration(left)} left"
        text = f"{self._what} {done}/{total}{ahead}"
        if self._live:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
        elif now - self._said > 30 or done == self._first:
            print(text, file=sys.stderr, flush=True)
            self._said = now

    def end(self) -> None:
        """Clear the line."""
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

"""Interleaved timing: every method once per round, in rotated order, and ratios within rounds.

A machine's speed drifts. Two methods timed in the same round meet nearly the same machine, so the
ratio is taken within each round and the median over the rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_LONGEST_REASON = 160


@dataclass(frozen=True, slots=True)
class Spread:
    """A median between its quartiles.

    Args:
        low: first quartile.
        median: of all values.
        high: third quartile.
    """

    low: float
    median: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles, the quartiles by linear interpolation between the sorted values."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low, median, high)


@dataclass(slots=True)
class Times:
    """What the rounds gave.

    Args:
        seconds: for each method that never failed, one number per round.
        failures: for each other method, why.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def ratios(self, name: str, baseline: str) -> list[float]:
        """One method's time over the baseline's, round by round."""
        pairs = zip(self.seconds[name], self.seconds[baseline], strict=True)
        return [method / base for method, base in pairs]


def rotated(names: Sequence[str], by: int) -> list[str]:
    """The same order, begun ``by`` places further on."""
    by %= max(len(names), 1)
    return [*names[by:], *names[:by]]


def interleave(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    before: Callable[[str], Any] = lambda name: None,
    finish: Callable[[], Any] = lambda: None,
) -> Times:
    """Time each callable once per round.

    Args:
        calls: by name. One that raises is left out of the following rounds.
        rounds: how many.
        clock: seconds, rising.
        before: called with the name ahead of each call, outside the measured time.
        finish: called behind each call, inside the measured time: waits for a GPU.

    Returns:
        The times of all methods that got through every round, and why the others did not.
    """
    times = Times({name: [] for name in calls})
    for number in range(rounds):
        for name in rotated(list(times.seconds), number):
            before(name)
            try:
                start = clock()
                result = calls[name]()
                finish()
                times.seconds[name].append(clock() - start)
            except Exception as error:
                times.failures[name] = describe(error)
                del times.seconds[name]
            result = None  # noqa: F841 - frees what was returned before the next method begins
    return times


def rounds_for(seconds: float, fewest: int, most: int, budget: float) -> int:
    """How many rounds fit into a budget.

    Args:
        seconds: one round takes.
        fewest: rounds, whatever they take.
        most: rounds, however short they are.
        budget: seconds.

    Returns:
        A number from ``fewest`` to ``most``.
    """
    return max(fewest, min(most, int(budget / max(seconds, 1e-9))))


def describe(error: BaseException) -> str:
    """Why a method failed, in one short line without what changes from run to run."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate" in text:
        return "out of memory"
    sentence = text.split(". ")[0].rstrip(".")
    if len(sentence) > _LONGEST_REASON:
        sentence = sentence[: _LONGEST_REASON - 1] + "…"
    kind = type(error).__name__
    if kind == "NotApplicableError":
        return sentence
    return f"{kind}: {sentence}" if sentence else kind

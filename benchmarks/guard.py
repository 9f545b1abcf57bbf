"""The check that a change has not made the map slower.

    python -m benchmarks.guard

Machines differ and are shared, so no time is compared: only the ratio of ``fullgrad.saliency`` to
forward + input-gradient, both in this process and in the same rounds. Other work on the machine
can only be told from a slower map by measuring again, so one good attempt of three is enough.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.methods import BASELINE, METHODS
from benchmarks.subjects import SIZE, build, series
from benchmarks.timing import Spread, interleave, spread

RESNET18_LIMIT = 1.4
MOBILENET_LIMIT = 1.9
SERIES_LIMIT = 50
SERIES = {f"lstm_{steps}": steps for steps in (100, 400, 1600)}
LIMITS = {
    "resnet18": RESNET18_LIMIT,
    "mobilenet_v3_large": MOBILENET_LIMIT,
    "lstm_1600": SERIES_LIMIT,
}
BATCH, ROUNDS, ATTEMPTS = 8, 9, 3


class GuardError(Exception):
    """A method could not be measured at all."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the attempts on one model gave.

    Args:
        model: name.
        limit: for the median ratio.
        attempts: the ratios of each attempt; the last one decided.
    """

    model: str
    limit: float
    attempts: tuple[Spread, ...]

    @property
    def passed(self) -> bool:
        """Whether an attempt was within the limit."""
        return self.attempts[-1].median <= self.limit

    def __str__(self) -> str:
        best = min(a.median for a in self.attempts)
        if self.passed:
            return f"{self.model}: {best:.2f} is within the limit of {self.limit:g}"
        return (
            f"{self.model}: saliency took {best:.2f} times as long as forward + input-gradient in "
            f"the best of {len(self.attempts)} attempts; the limit is {self.limit:g}"
        )


def judge(
    model: str,
    limit: float,
    measure: Callable[[str], Spread],
    attempts: int = ATTEMPTS,
    say: Callable[[str], object] = print,
) -> Verdict:
    """Measure until an attempt is within the limit.

    Args:
        model: name.
        limit: for the median ratio.
        measure: from the model's name to its ratios.
        attempts: at most.
        say: is given a line per attempt.

    Returns:
        The verdict.
    """
    seen: list[Spread] = []
    while len(seen) < attempts and not (seen and seen[-1].median <= limit):
        seen.append(measure(model))
        say(
            f"{model}, attempt {len(seen)}: saliency / (forward + input-gradient) = "
            f"{seen[-1].median:.2f} (quartiles {seen[-1].low:.2f} to {seen[-1].high:.2f}), "
            f"limit {limit:g}"
        )
    return Verdict(model, limit, tuple(seen))


def measured(model: str, batch: int = BATCH, size: int = SIZE, rounds: int = ROUNDS) -> Spread:
    """The ratios of saliency to the baseline on this machine, now.

    Args:
        model: one of ``SUBJECTS``, or of ``SERIES``, which have a batch and a size of their own.
        batch: samples.
        size: height and width.
        rounds: interleaved, after one that is not counted.

    Returns:
        Median and quartiles over the rounds.

    Raises:
        GuardError: one of the two cannot be measured.
    """
    import torch

    if model in SERIES:
        work = series(SERIES[model])
    else:
        work = build(model, batch, size, torch.float32, "cpu")
    calls = {name: METHODS[name].prepare(work).run for name in (BASELINE, "saliency")}
    times = interleave(calls, 1)
    gc.collect()
    gc.freeze()  # all that is loaded by now, so that collecting the rest is quick
    try:
        if not times.failures:
            times = interleave(calls, rounds, before=lambda name: gc.collect())
    finally:
        gc.unfreeze()
    for name, why in times.failures.items():
        raise GuardError(f"{model}: {METHODS[name].label} failed: {why}")
    return spread(times.ratios("saliency", BASELINE))


def main(
    argv: Sequence[str] | None = None,
    measure: Callable[[str], Spread] | None = None,
    limits: Mapping[str, float] = LIMITS,
) -> int:
    """Run the guard.

    Args:
        argv: arguments; by default those of the process.
        measure: from a model's name to its ratios; by default measured here.
        limits: by model.

    Returns:
        0: every model within its limit; 1: one is not, or could not be measured.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guard",
        description="Fail if fullgrad.saliency costs too many times a plain input-gradient.",
    )
    parser.add_argument("--batch", type=int, default=BATCH, help="samples (%(default)s)")
    parser.add_argument("--size", type=int, default=SIZE, help="pixels (%(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="per attempt (%(default)s)")
    options = parser.parse_args(argv)
    for name in ("batch", "size", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if measure is None:
        measure = lambda model: measured(model, options.batch, options.size, options.rounds)  # noqa: E731
    try:
        verdicts = [judge(model, limit, measure) for model, limit in limits.items()]
    except GuardError as error:
        print(f"guard: error: {error}", file=sys.stderr)
        return 1
    for verdict in verdicts:
        where = sys.stdout if verdict.passed else sys.stderr
        print(verdict if verdict.passed else f"guard: failed: {verdict}", file=where)
    return 0 if all(verdict.passed for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Every test of maps by name, and one call that runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fullgrad.evaluation.experiment import Result, Test, run
from fullgrad.evaluation.options import Meter, Silent
from fullgrad.evaluation.store import STAGES, Store
from fullgrad.evaluation.tests.digit_flipping import DigitFlipping
from fullgrad.evaluation.tests.evaluate.run import Evaluate
from fullgrad.evaluation.tests.evaluate.run_texts import EvaluateTexts
from fullgrad.evaluation.tests.pixel_perturbation import PixelPerturbation
from fullgrad.evaluation.tests.remove_and_retrain.roar import RemoveAndRetrain

_TESTS: dict[str, type[Test]] = {}


def register(kind: type[Test]) -> type[Test]:
    """Make a test known by its name: to :func:`bench`, the command, agreement and report.

    Args:
        kind: the test's class; the function can be used as a decorator.

    Raises:
        ValueError: there is another test of that name.
    """
    if kind.name in _TESTS:
        raise ValueError(f"there is a test named {kind.name!r} already")
    _TESTS[kind.name] = kind
    return kind


def unregister(name: str) -> None:
    """Forget a test that was registered."""
    del _TESTS[name]


for _kind in (PixelPerturbation, DigitFlipping, RemoveAndRetrain, Evaluate, EvaluateTexts):
    register(_kind)


def kinds() -> dict[str, type[Test]]:
    """Return the classes of all tests, by name."""
    return dict(_TESTS)


def prepared(name: str, **options: Any) -> Test:
    """Read what a test's options name, and see that they fit each other.

    Args:
        name: of the test, ``evaluate``, ``pixel-perturbation``, ``digit-flipping`` or ``roar``.
        **options: as on the command line, with ``_`` for ``-``.

    Raises:
        ValueError: an unknown test, or an option's value is impossible.
        TypeError: an unknown option, or one that is required is missing.
        FullGradError: what an option names is unusable.
    """
    if name not in _TESTS:
        raise ValueError(f"unknown test {name!r}; known: {', '.join(_TESTS)}")
    return _TESTS[name].prepare(**{**_TESTS[name].defaults(), **options})


def bench(
    name: str,
    out: str | Path,
    *,
    store: str | Path | None = None,
    meter: Callable[[str], Meter] = Silent,
    say: Callable[[str], None] = print,
    command: Sequence[str] = (),
    **options: Any,
) -> Result:
    """Run a test of maps, as ``fullgrad bench`` does; what is done already is not repeated.

    Args:
        name: of the test, ``evaluate``, ``pixel-perturbation``, ``digit-flipping`` or ``roar``.
        out: results folder, which then holds tables, figures and a record.
        store: folder of the finished pieces of work; None for one in the results folder.
        meter: from a name of what is counted to a progress display.
        say: called with lines about damaged files and replaced results.
        command: how the run was asked for, for the record.
        **options: as on the command line, with ``_`` for ``-``.

    Returns:
        Tables, figures and record; ``print`` shows the ranking.

    Raises:
        ValueError: an unknown test, or an option's value is impossible.
        TypeError: an unknown option, or one that is required is missing.
        FullGradError: work had to stop; what is done is kept.
    """
    test = prepared(name, **options)
    return run(test, out, store=store, meter=meter, say=say, command=command)


def outlook(
    name: str,
    out: str | Path,
    *,
    store: str | Path | None = None,
    say: Callable[[str], None] = print,
    **options: Any,
) -> str:
    """Return what remove-and-retrain would do and what it takes, by a short trial.

    The arguments are those of :func:`bench`; nothing is written.

    Raises:
        ValueError: another test; else as :func:`bench`.
    """
    test = prepared(name, **options)
    if not isinstance(test, RemoveAndRetrain):
        raise ValueError(  # noqa: TRY004 - the name is wrong, not a type
            f"{name} has no dry run; {RemoveAndRetrain.name} has one"
        )
    return test.outlook(Store(Path(store) if store else Path(out) / STAGES, say), say)

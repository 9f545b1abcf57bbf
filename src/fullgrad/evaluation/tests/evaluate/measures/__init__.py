"""Tests of maps that share maps, predictions and statistics, by name; each one file."""

from collections.abc import Mapping, Sequence
from typing import Any

from fullgrad.evaluation.tests.evaluate.measure import Measure
from fullgrad.evaluation.tests.evaluate.measures.class_sensitivity import ClassSensitivity
from fullgrad.evaluation.tests.evaluate.measures.grid_pointing import GridPointing
from fullgrad.evaluation.tests.evaluate.measures.randomization import Randomization
from fullgrad.evaluation.tests.evaluate.measures.relevance_gain import RelevanceGain
from fullgrad.evaluation.tests.evaluate.measures.stability import LogitShift, Stability
from fullgrad.evaluation.tests.evaluate.measures.token_gain import TokenGain

_MEASURES: dict[str, type[Measure]] = {}


def register(kind: type[Measure]) -> type[Measure]:
    """Make a test known by its name, to ``fullgrad evaluate`` too.

    Args:
        kind: the test's class; the function can be used as a decorator.

    Raises:
        ValueError: there is another test of that name.
    """
    if kind.name in _MEASURES:
        raise ValueError(f"there is a test named {kind.name!r} already")
    _MEASURES[kind.name] = kind
    return kind


def chosen_tests(
    names: Sequence[str], explains: str, options: Mapping[str, Any]
) -> tuple[Measure, ...]:
    """Return tests with their options.

    Args:
        names: of the tests.
        explains: ``images`` or ``texts``; those of the other kind are not known here.
        options: of all of them.

    Raises:
        ValueError: an unknown test, or an option has an impossible value.
    """
    known = measures(explains)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown test {unknown[0]!r}; known: {', '.join(known)}")
    return tuple(known[name].of(options) for name in names)


def unregister(name: str) -> None:
    """Forget a test that was registered."""
    del _MEASURES[name]


def measures(explains: str | None = None) -> dict[str, type[Measure]]:
    """Return the classes of all tests, by name.

    Args:
        explains: only those of ``images`` or of ``texts``.
    """
    return {n: kind for n, kind in _MEASURES.items() if explains in {None, kind.explains}}


for _kind in (
    RelevanceGain,
    GridPointing,
    ClassSensitivity,
    Randomization,
    Stability,
    LogitShift,
    TokenGain,
):
    register(_kind)

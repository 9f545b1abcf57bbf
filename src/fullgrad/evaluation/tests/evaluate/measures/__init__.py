"""Tests of maps that share maps, predictions and statistics, by name; each one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fullgrad.evaluation.tests.evaluate.measure import Measure
from fullgrad.evaluation.tests.evaluate.measures.class_sensitivity import ClassSensitivity
from fullgrad.evaluation.tests.evaluate.measures.grid_pointing import GridPointing
from fullgrad.evaluation.tests.evaluate.measures.ground_truth import GroundTruth
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
    check_used(names, explains, options)
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


def check_used(tests: Sequence[str], explains: str, given: Mapping[str, Any]) -> None:
    """Refuse an option of tests that are not asked for.

    Args:
        tests: that are.
        explains: ``images`` or ``texts``.
        given: values of options, by name.

    Raises:
        ValueError: one differs from its default, and no test takes it.
    """
    used = {option.name for t in tests for option in _MEASURES[t].options}
    for name, kind in measures(explains).items():
        for option in kind.options:
            default = option.default
            value = given.get(option.name, default)
            value = tuple(value) if isinstance(default, tuple) else value
            if option.name not in used and value != default:
                raise ValueError(f"{option.flag} is of the test {name}, which is not in --tests")


for _kind in (
    RelevanceGain,
    GridPointing,
    ClassSensitivity,
    Randomization,
    Stability,
    LogitShift,
    GroundTruth,
    TokenGain,
):
    register(_kind)

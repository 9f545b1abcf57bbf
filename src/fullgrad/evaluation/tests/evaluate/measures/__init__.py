"""Tests of maps that share maps, predictions and statistics, by name; each one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fullgrad._user_code import loaded, names_file
from fullgrad.errors import UsageError
from fullgrad.evaluation.tests.evaluate.measure import Measure
from fullgrad.evaluation.tests.evaluate.measures.class_sensitivity import ClassSensitivity
from fullgrad.evaluation.tests.evaluate.measures.grid_pointing import GridPointing
from fullgrad.evaluation.tests.evaluate.measures.ground_truth import GroundTruth
from fullgrad.evaluation.tests.evaluate.measures.randomization import Randomization
from fullgrad.evaluation.tests.evaluate.measures.relevance_gain import RelevanceGain
from fullgrad.evaluation.tests.evaluate.measures.stability import LogitShift, Stability
from fullgrad.evaluation.tests.evaluate.measures.token_gain import TokenGain
from fullgrad.methods.registry import unlike

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
        names: of the tests, or ``path/to/file.py:CLASS`` of own ones, which have their defaults.
        explains: ``images`` or ``texts``; those of the other kind are not known here.
        options: of all of them.

    Raises:
        ValueError: an unknown test, or an option has an impossible value.
    """
    known = measures(explains)
    own = {name: _from_file(name, explains) for name in names if names_file(name)}
    unknown = [name for name in names if name not in known and name not in own]
    if unknown:
        raise ValueError(f"unknown test {unknown[0]!r}; {unlike(unknown[0], list(known))}")
    check_used([name for name in names if name in known], explains, options)
    return tuple(own[name] if name in own else known[name].of(options) for name in names)


def _from_file(spec: str, explains: str) -> Measure:
    """A test that a Python file of the user's defines, with its defaults."""
    _, kind = loaded(spec, UsageError)
    if not (isinstance(kind, type) and issubclass(kind, Measure)) or kind.explains != explains:
        raise UsageError(
            f"{spec} is not a test of {explains}: give a subclass of "
            "fullgrad.evaluation.tests.evaluate.measure.Measure"
        )
    return kind()


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
                raise ValueError(
                    f"{option.flag} belongs to the test {name}, which is not in --tests"
                )


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

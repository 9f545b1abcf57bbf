"""Tests of maps that share maps, predictions and statistics, by name; each one file."""

from fullgrad.evaluation.tests.evaluate.measure import Measure
from fullgrad.evaluation.tests.evaluate.measures.class_sensitivity import ClassSensitivity
from fullgrad.evaluation.tests.evaluate.measures.grid_pointing import GridPointing
from fullgrad.evaluation.tests.evaluate.measures.ground_truth import GroundTruth
from fullgrad.evaluation.tests.evaluate.measures.randomization import Randomization
from fullgrad.evaluation.tests.evaluate.measures.relevance_gain import RelevanceGain
from fullgrad.evaluation.tests.evaluate.measures.stability import LogitShift, Stability

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


def unregister(name: str) -> None:
    """Forget a test that was registered."""
    del _MEASURES[name]


def measures() -> dict[str, type[Measure]]:
    """Return the classes of all tests, by name."""
    return dict(_MEASURES)


for _kind in (
    RelevanceGain,
    GridPointing,
    ClassSensitivity,
    Randomization,
    Stability,
    LogitShift,
    GroundTruth,
):
    register(_kind)

"""What an evaluation is asked for, and the pieces that its work falls into."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullgrad._files import sha256_of
from fullgrad.evaluation.plan import Plan
from fullgrad.evaluation.tests.evaluate.measure import Measure
from fullgrad.evaluation.tests.evaluate.subject import NUMBERS


@dataclass(frozen=True, slots=True)
class Model:
    """A model, as a plan names it.

    Args:
        spec: what ``fullgrad.vision.models.load_model`` was asked for.
        weights: the same.
        checkpoint: SHA-256 of the weights' file, if it is known.
        source: SHA-256 of the Python file that makes it, if it is one.
        stated: number of classes and preprocessing, where they were stated.
        state: digest of its modules, weights, buffers and file; None where a test of texts has it
            in ``checkpoint``.
    """

    spec: str
    weights: str | None
    checkpoint: str | None
    source: str | None = None
    stated: str = ""
    state: str | None = None


def content_of(spec: str) -> str | None:
    """Return the SHA-256 of the Python file that a model is made by; None for other models.

    Files that it imports do not count.
    """
    path = Path(spec.rpartition(":")[0])
    return sha256_of(path) if path.suffix == ".py" and path.is_file() else None


@dataclass(frozen=True, kw_only=True)
class TestsPlan(Plan):
    """Holds what tests of images' and of texts' explanations both depend on, but for the code.

    Args:
        models: whose explanations are tested.
        count: how many images or texts.
        content: digest of their names and of what they hold.
        tests: of the explanations.
        choices: the methods.
        random_runs: how many draws of noise are tried where a test says so.
        seed: of ties, noise and everything else that is drawn.
        batch_size: images or texts at a time.

    Raises:
        ValueError: no method or test, the same twice, or a number below 1.
    """

    models: tuple[Model, ...]
    count: int
    content: str
    tests: tuple[Measure, ...]
    random_runs: int = 1
    seed: int = 0
    batch_size: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, names in (
            ("tests", [t.name for t in self.tests]),
            ("models", [m.spec for m in self.models]),
        ):
            if not names:
                raise ValueError(f"no {what} are asked for")
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                raise ValueError(f"asked for twice: {', '.join(twice)}")
        if self.random_runs < 1:
            raise ValueError(f"at least one random order is needed, not {self.random_runs}")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, not {self.batch_size}")

    def values(self) -> dict[str, Any]:
        """Return the plan as JSON can hold it."""
        return super().values() | {"tests": [t.values() for t in self.tests]}


@dataclass(frozen=True, kw_only=True)
class EvaluatePlan(TestsPlan):
    """Holds all that the numbers of images depend on, but for the code.

    Args:
        images: where they come from.
        number: what is explained, one of ``logit``, ``log-probability`` and ``margin``.

    Raises:
        ValueError: as :class:`TestsPlan`, or an unknown number.
    """

    images: str
    number: str = "logit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.number not in NUMBERS:
            raise ValueError(f"--explain is one of {', '.join(NUMBERS)}, not {self.number!r}")


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work: one method's maps of a batch of images, in all tests.

    Args:
        model: its place in the plan.
        choice: the method's place.
        numbers: of the images.
    """

    model: int
    choice: int
    numbers: tuple[int, ...]

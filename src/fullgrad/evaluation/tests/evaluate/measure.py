"""What a test of maps is, beside others of the same maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fullgrad.evaluation.options import Option
from fullgrad.evaluation.tests.evaluate.subject import Subject


@dataclass(frozen=True, slots=True)
class Score:
    """What a test says of one map.

    Args:
        number: of the image.
        setting: how the test was done, where there are several ways.
        value: the score.
        scale: by whose mean over images the mean score is divided.
        more: further numbers, by column.
    """

    number: int
    value: float
    setting: str = ""
    scale: float = 1.0
    more: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Measure(ABC):
    """One test of maps: a frozen dataclass of its settings, in a file of its own."""

    name: ClassVar[str]
    """On the command line."""
    title: ClassVar[str]
    """What it measures, in one line."""
    better: ClassVar[str] = "higher"
    """Whether ``higher`` or ``lower`` values are better."""
    chance: ClassVar[float | None] = None
    """What maps without knowledge get, where that is known."""
    options: ClassVar[Sequence[Option]] = ()
    """What can be chosen."""
    random_runs: ClassVar[bool] = False
    """Whether noise is measured with several draws."""
    explains: ClassVar[str] = "images"
    """Whether maps of ``images`` are measured, or relevances of ``texts``."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Measure:
        """Return the test with the options that it knows of those that are given.

        Raises:
            ValueError: an option has an impossible value.
        """
        return cls(**{o.name: given[o.name] for o in cls.options if o.name in given})

    def values(self) -> dict[str, Any]:
        """Return name and settings, as JSON can hold them."""
        own = asdict(self).items()
        return {"test": self.name, **{k: list(v) if isinstance(v, tuple) else v for k, v in own}}

    def cases(self, subject: Subject) -> int:
        """How many images of a subject the test can use."""
        return len(subject)

    @classmethod
    def chance_in(cls, setting: str) -> float | None:
        """Return what maps without knowledge get in a setting, if that is known."""
        return cls.chance

    @abstractmethod
    def scores(self, explained: Any) -> Iterable[Score]:
        """Measure the maps of some images, or the relevances of tokens of some texts.

        Args:
            explained: a :class:`~.subject.Explained`, or of texts a
                :class:`~.token_methods.ExplainedTexts`.
        """


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation of two maps of each sample, shape (B,).

    Two maps that are equal have 1, also where they are constant; a constant one beside another
    has 0.

    Args:
        a: shape (B, ...).
        b: the same shape.
    """
    a, b = (v.flatten(1).double() for v in (a, b))
    equal = (a == b).all(1)
    a, b = (v - v.mean(1, keepdim=True) for v in (a, b))
    size = a.norm(dim=1) * b.norm(dim=1)
    found = (a * b).sum(1) / size.clamp_min(torch.finfo(torch.float64).tiny)
    return torch.where(equal, 1.0, torch.where(size > 0, found, 0.0))

"""The number that is explained in an image: its exact parts, and the class it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from fullgrad.decomposition import Decomposition
from fullgrad.errors import TargetError
from fullgrad.targets import Margin, margin
from fullgrad.vision.layers import MODEL

if TYPE_CHECKING:
    from fullgrad.vision.schema import RatherThanInfo, SplitInfo

INPUT = "input"  # the name of the input's share


@dataclass(frozen=True, slots=True)
class Split:
    """The exact decomposition of one logit.

    Args:
        input: the sum of the input term.
        stages: the sums of the bias terms by stage.
        residual: logit minus all sums.
        relative_residual: compared with the sum of the terms' absolute values.
        tolerance: for the relative residual.
        linearization: which linear maps stood for the operations. A map that compares with a
            baseline has other ones than its split, which has the Jacobian.
    """

    input: float
    stages: Mapping[str, float]
    residual: float
    relative_residual: float
    tolerance: float
    linearization: str = "jacobian"

    @property
    def shares(self) -> list[tuple[str, float]]:
        """The input and the stages with their sums; they add up to the logit less the residual."""
        return [(INPUT, self.input), *((n or MODEL, value) for n, value in self.stages.items())]

    def info(self, total: float) -> SplitInfo:
        """Return the decomposition for records; shares are those of a total."""
        from fullgrad.vision.schema import ShareInfo, SplitInfo

        return SplitInfo(
            residual=self.residual,
            relative_residual=self.relative_residual,
            tolerance=self.tolerance,
            linearization=self.linearization,
            shares=tuple(
                ShareInfo(of=name, sum=value, share=value / total if total else None)
                for name, value in self.shares
            ),
        )


@dataclass(frozen=True, slots=True)
class RatherThan:
    """The class that the explained one is compared with.

    Args:
        index: of the class.
        name: of the class, if it is known.
        logit: its output.
        margin: the explained class's output less that: the number that is explained.
    """

    index: int
    name: str | None
    logit: float
    margin: float

    @property
    def label(self) -> str:
        """The class's name, for people."""
        return self.name or f"class {self.index}"

    def info(self) -> RatherThanInfo:
        """Return it for records."""
        from fullgrad.vision.schema import RatherThanInfo

        return RatherThanInfo(
            index=self.index, name=self.name, logit=self.logit, margin=self.margin
        )


def splits_of(decomposition: Decomposition, depth: int) -> list[Split]:
    """The split of each sample's output, with stages of this many components of the path."""
    d = decomposition
    stages = d.by_module(depth)
    return [
        Split(
            input=float(d.input_sums[i]),
            stages={name: float(sums[i]) for name, sums in stages.items()},
            residual=float(d.residual[i]),
            relative_residual=float(d.relative_residual[i]),
            tolerance=d.tolerance,
            linearization=d.linearization,
        )
        for i in range(len(d.output))
    ]


def contrast(logits: Tensor, targets: Tensor, rather_than: int) -> Margin:
    """What is explained where each image's class is compared with one other.

    Args:
        logits: of the images, shape (B, classes).
        targets: the class of each, shape (B,).
        rather_than: the other class.

    Raises:
        TargetError: an unknown class, or one that is compared with itself.
    """
    if bool((targets == rather_than).any()):
        raise TargetError(
            f"the class to explain is {rather_than} itself, so there is nothing to compare it "
            "with: choose another class (rather_than, or target)"
        )
    found = margin(targets, rather_than)
    found(logits)
    return found

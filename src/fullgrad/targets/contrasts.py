"""Contrasts between classes: a margin, a log-probability, the odds against all others.

The classes in them are targets themselves: an index, one index for each sample (a list or tensor of
shape (B,)), a tuple of indices into a dense output, or None for the class that is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fullgrad.engine.targets import Contrast, Target, select
from fullgrad.errors import TargetError
from fullgrad.targets.words import logits_of, plain, words


@dataclass(frozen=True, slots=True)
class Margin(Contrast):
    """One output less another; made by :func:`margin`.

    Args:
        a: the class that is explained.
        b: the class that it is compared with.
    """

    a: Target
    b: Target

    def __call__(self, output: Any) -> Tensor:
        """The margin of each sample, shape (B,).

        Raises:
            TargetError: a class that does not fit the output, or is compared with itself.
        """
        a, b = select(output, self.a), select(output, self.b)
        if a.index is not None and b.index is not None:
            equal = (a.index == b.index).nonzero()
            if len(equal):
                sample = int(equal[0])
                raise TargetError(
                    f"a margin needs two classes, but sample {sample} has class "
                    f"{int(a.index[sample])} twice"
                )
        return a.output - b.output

    def describe(self, names: Sequence[str] | None = None) -> str:
        """What is explained: ``class 3 rather than class 5``."""
        return f"{words(self.a, names)} rather than {words(self.b, names)}"


@dataclass(frozen=True, slots=True)
class LogProbability(Contrast):
    """The logarithm of a class's softmax; made by :func:`log_probability`.

    Args:
        c: the class; None for the predicted one.
    """

    c: Target = None

    def __call__(self, output: Any) -> Tensor:
        """The log-probability of each sample's class, shape (B,).

        Raises:
            TargetError: the output is not of shape (B, classes), or the class does not fit it.
        """
        logits = logits_of(output, "log_probability")
        return select(logits.log_softmax(1), self.c).output

    def describe(self, names: Sequence[str] | None = None) -> str:
        """What is explained: ``log-probability of class 3``."""
        return f"log-probability of {words(self.c, names)}"


@dataclass(frozen=True, slots=True)
class AgainstRest(Contrast):
    """The log odds of a class; made by :func:`against_rest`.

    Args:
        c: the class; None for the predicted one.
    """

    c: Target = None

    def __call__(self, output: Any) -> Tensor:
        """The log odds of each sample's class, shape (B,).

        Raises:
            TargetError: the output is not of shape (B, classes) with two classes or more, or the
                class does not fit it.
        """
        logits = logits_of(output, "against_rest")
        if logits.shape[1] < 2:
            raise TargetError("against_rest needs at least two classes, and the output has one")
        own = select(logits, self.c)
        if own.index is None:
            raise TargetError("against_rest needs class indices, not a callable")
        places = torch.arange(logits.shape[1] - 1, device=logits.device)
        others = logits.gather(1, places + (places >= own.index[:, None]).long())
        return own.output - others.logsumexp(1)

    def describe(self, names: Sequence[str] | None = None) -> str:
        """What is explained: ``log odds of class 3 against all others``."""
        return f"log odds of {words(self.c, names)} against all others"


def margin(a: Target, b: Target) -> Margin:
    """Why one class rather than another: the output of class a less that of class b.

    Args:
        a: an index, one for each sample, a tuple of indices into a dense output, or None for the
            predicted class. Any other target does as well, such as another contrast.
        b: likewise.

    Returns:
        A target. Its terms are the differences of the terms of a and b.

    Raises:
        TargetError: a and b are the same. The call that explains it also raises this if a class
            does not fit the model's output.

    Example:
        >>> import torch, fullgrad
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.GELU())
        >>> d = fullgrad.decompose(model, torch.ones(2, 4), fullgrad.targets.margin(2, 0))
        >>> d.output_source
        'class 2 rather than class 0'
    """
    a, b = plain(a), plain(b)
    if type(a) is type(b) and not isinstance(a, list) and a == b:
        raise TargetError(f"a margin needs two classes, not {words(a)} twice")
    return Margin(a, b)


def log_probability(c: Target = None) -> LogProbability:
    """The logarithm of the softmax of one class: its output less log Σ exp of all outputs.

    Args:
        c: an index, one for each sample, or None for the predicted class.

    Returns:
        A target, for models that return logits of shape (B, classes).

    Example:
        >>> import torch, fullgrad
        >>> model = torch.nn.Linear(4, 3)
        >>> d = fullgrad.decompose(model, torch.ones(2, 4), fullgrad.targets.log_probability(1))
        >>> torch.allclose(d.output, model(torch.ones(2, 4)).log_softmax(1)[:, 1])
        True
    """
    return LogProbability(plain(c))


def against_rest(c: Target = None) -> AgainstRest:
    """One class against all others: its log odds, log p / (1 - p) for its softmax p.

    That is its output less log Σ exp of all other outputs; of two classes, their margin.

    Args:
        c: an index, one for each sample, or None for the predicted class.

    Returns:
        A target, for models that return logits of shape (B, classes).

    Example:
        >>> import torch, fullgrad
        >>> model = torch.nn.Linear(4, 3)
        >>> d = fullgrad.decompose(model, torch.ones(2, 4), fullgrad.targets.against_rest([1, 0]))
        >>> p = model(torch.ones(2, 4)).softmax(1)[[0, 1], [1, 0]]
        >>> torch.allclose(d.output, (p / (1 - p)).log(), atol=1e-5)
        True
    """
    return AgainstRest(plain(c))

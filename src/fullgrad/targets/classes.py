"""One class, the sum of several classes, and a number with its unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fullgrad.engine.targets import Contrast, Described, Target, main_tensor, select
from fullgrad.errors import TargetError
from fullgrad.targets.words import logits_of, plain, whole, words


@dataclass(frozen=True, slots=True)
class OneClass(Contrast):
    """The output of one class; made by :func:`one_class`.

    Args:
        c: the class; None for the predicted one.
    """

    c: Target = None

    def __call__(self, output: Any) -> Tensor:
        """The class's output for each sample, shape (B,).

        Raises:
            TargetError: the class does not fit the output.
        """
        return select(output, self.c).output

    def describe(self, names: Sequence[str] | None = None) -> str:
        """What is explained: ``class 3``."""
        return words(self.c, names)


@dataclass(frozen=True, slots=True)
class SeveralClasses(Described):
    """The weighted sum of several classes' outputs; made by :func:`several_classes`.

    Args:
        classes: their indices.
        weights: one for each class.
    """

    classes: tuple[int, ...]
    weights: tuple[float, ...]

    def __call__(self, output: Any) -> Tensor:
        """The sum for each sample, shape (B,).

        Raises:
            TargetError: the output is not of shape (B, classes), or lacks a class.
        """
        logits = logits_of(output, "several_classes")
        for c in self.classes:
            if not 0 <= c < logits.shape[1]:
                raise TargetError(
                    f"target {c} is out of range for an output of size {logits.shape[1]}"
                )
        weights = logits.new_tensor(self.weights)
        total: Tensor = (logits[:, list(self.classes)] * weights).sum(1)
        return total

    def describe(self, names: Sequence[str] | None = None) -> str:
        """What is explained: ``class 3 + class 5``, weights before the classes where they are."""
        parts = [
            words(c, names) if w == 1 else f"{w:g} x {words(c, names)}"
            for c, w in zip(self.classes, self.weights, strict=True)
        ]
        return " + ".join(parts)


@dataclass(frozen=True, slots=True)
class Regression(Described):
    """A number that a model predicts, in its unit; made by :func:`regression`.

    Args:
        name: of the number.
        unit: that it is in, after scale and offset.
        index: which of several outputs it is; None where there is one.
        scale: by which the output is multiplied.
        offset: that is then added.
    """

    name: str
    unit: str
    index: int | None
    scale: float
    offset: float

    def __call__(self, output: Any) -> Tensor:
        """The number for each sample, shape (B,).

        Raises:
            TargetError: the output has several numbers for a sample, and none is chosen.
        """
        tensor, _ = main_tensor(output)
        if tensor.dim() == 2 and self.index is None and tensor.shape[1] == 1:
            tensor = tensor[:, 0]
        elif tensor.dim() == 2 and self.index is not None:
            if not 0 <= self.index < tensor.shape[1]:
                raise TargetError(
                    f"index {self.index} is out of range for {tensor.shape[1]} numbers"
                )
            tensor = tensor[:, self.index]
        elif tensor.dim() != 1 or self.index is not None:
            raise TargetError(
                f"the output of shape {tuple(tensor.shape)} does not hold one number for each "
                f"sample where index is {self.index}: for an output of shape (batch, numbers) give "
                "index=, for one of shape (batch,) or (batch, 1) leave it out"
            )
        if self.scale != 1:
            tensor = tensor * self.scale
        return tensor + self.offset if self.offset else tensor

    def describe(self, names: Sequence[str] | None = None) -> str:
        """What is explained: ``price in EUR``, with what is done to the output."""
        text = f"{self.name} in {self.unit}" if self.unit else self.name
        done = "" if self.scale == 1 else f" x {self.scale:g}"
        done += f" {'+-'[self.offset < 0]} {abs(self.offset):g}" if self.offset else ""
        which = "" if self.index is None else f" {self.index}"
        which = "" if self.name == f"output{which}" else which
        return f"{text} (output{which}{done})" if which or done else text


@dataclass(frozen=True, slots=True)
class Token(Described):
    """The outputs for tokens at some positions, summed; made by :func:`token`.

    Args:
        positions: in the sequence; from its end where they are negative.
        ids: of the tokens at them; None for those with the highest outputs; a row for each sample
            once they are settled.
        log: whether log-probabilities are summed, not outputs.
    """

    positions: tuple[int, ...]
    ids: Any = None
    log: bool = False

    def __call__(self, output: Any) -> Tensor:
        """The sum for each sample, shape (B,).

        Raises:
            TargetError: the output is not of shape (B, positions, vocabulary), or too small.
        """
        numbers = self._at_positions(output)
        ids = self.ids if self.ids is not None else numbers.detach().argmax(2).tolist()
        rows = ids if isinstance(ids, list) else [ids] * len(numbers)
        size = numbers.shape[2]
        if bad := [i for row in rows for i in row if not 0 <= i < size]:
            raise TargetError(f"token id {bad[0]} is out of range for a vocabulary of {size}")
        if len(rows) != len(numbers):
            raise TargetError(
                f"token ids for {len(rows)} samples, and the batch has {len(numbers)}"
            )
        places = numbers.new_tensor(rows, dtype=None).long()[:, :, None]
        chosen: Tensor = (numbers.log_softmax(2) if self.log else numbers).gather(2, places)
        return chosen.sum((1, 2))

    def _at_positions(self, output: Any) -> Tensor:
        tensor, _ = main_tensor(output)
        if tensor.dim() != 3:
            raise TargetError(
                "token needs an output of shape (batch, positions, vocabulary), not "
                f"{tuple(tensor.shape)}"
            )
        length = tensor.shape[1]
        if bad := [p for p in self.positions if not -length <= p < length]:
            raise TargetError(f"position {bad[0]} is out of range for {length} positions")
        return tensor[:, [p % length for p in self.positions]]

    @property
    def is_open(self) -> bool:
        """Whether the tokens are those that the output predicts."""
        return self.ids is None

    def settled(self, output: Any, samples: int | None = None) -> Token:
        """The same with the tokens that an output predicts."""
        if self.ids is not None:
            return self
        ids = self._at_positions(output).detach().argmax(2).tolist()
        return replace(self, ids=[tuple(row) for row in ids])

    def changed(self, change: Callable[[Any], Any]) -> Token:
        """The same with rows of tokens changed."""
        return replace(self, ids=change(self.ids)) if isinstance(self.ids, list) else self

    def describe(self, names: Sequence[str] | None = None) -> str:
        """What is explained: ``token 7 at position -1``."""
        of = "log-probability of " if self.log else ""
        if self.ids is None or isinstance(self.ids, list):
            parts = [f"the predicted token at position {p}" for p in self.positions]
        else:
            pairs = zip(self.ids, self.positions, strict=True)
            parts = [f"token {_token(i, names)} at position {p}" for i, p in pairs]
        return of + " + ".join(parts)


def _token(index: int, names: Sequence[str] | None) -> str:
    return repr(names[index]) if names and index < len(names) else str(index)


def one_class(c: Target = None) -> OneClass:
    """The output of one class, as a target with words; a plain index explains the same.

    Args:
        c: an index, one for each sample, a tuple of indices into a dense output, or None for the
            predicted class.

    Example:
        >>> import torch, fullgrad
        >>> from fullgrad.targets import one_class
        >>> model = torch.nn.Linear(4, 3)
        >>> fullgrad.decompose(model, torch.ones(2, 4), one_class(1)).output_source
        'class 1'
    """
    return OneClass(plain(c))


def several_classes(
    classes: Sequence[int], weights: Sequence[float] | None = None
) -> SeveralClasses:
    """The sum of several classes' outputs: what speaks for a dog of any breed.

    A map for each class of several is another call: ``target=[[3, 5]]`` of
    :func:`fullgrad.saliency`.

    Args:
        classes: indices, each once.
        weights: one for each class; None for 1. With 1 / k they give the mean.

    Raises:
        TargetError: no class, one twice, or another number of weights.

    Example:
        >>> import torch, fullgrad
        >>> from fullgrad.targets import several_classes
        >>> model = torch.nn.Linear(4, 3)
        >>> d = fullgrad.decompose(model, torch.ones(2, 4), several_classes([0, 2]))
        >>> d.output_source, torch.allclose(d.output, model(torch.ones(2, 4))[:, [0, 2]].sum(1))
        ('class 0 + class 2', True)
    """
    found = tuple(whole(c, "a class") for c in plain(classes))
    given = (1.0,) * len(found) if weights is None else tuple(map(float, plain(weights)))
    if not found:
        raise TargetError("several_classes needs at least one class")
    if twice := [c for c in found if found.count(c) > 1]:
        raise TargetError(f"several_classes has class {twice[0]} twice; give it a weight of 2")
    if len(given) != len(found):
        raise TargetError(f"{len(given)} weights for {len(found)} classes")
    return SeveralClasses(found, given)


def regression(
    name: str = "the output",
    unit: str = "",
    *,
    index: int | None = None,
    scale: float = 1.0,
    offset: float = 0.0,
) -> Regression:
    """A number that a model predicts, in its unit: output x scale + offset.

    The terms are in that unit, and sum to the number; the offset is one of them.

    Args:
        name: of the number, for people.
        unit: of the number.
        index: which of several outputs it is; None where there is one for each sample.
        scale: by which outputs are multiplied, such as the standard deviation that the targets
            were divided by in training.
        offset: that is then added, such as their mean.

    Raises:
        TargetError: scale is zero, or a number is not finite.

    Example:
        >>> import torch, fullgrad
        >>> from fullgrad.targets import regression
        >>> model = torch.nn.Linear(4, 1)
        >>> age = regression("age", "years", scale=12.5, offset=40)
        >>> d = fullgrad.decompose(model, torch.ones(2, 4), age)
        >>> d.output_source
        'age in years (output x 12.5 + 40)'
    """
    if not (math.isfinite(scale) and math.isfinite(offset) and scale):
        raise TargetError(f"scale must be finite and not 0, offset finite: {scale!r}, {offset!r}")
    at = None if index is None else whole(index, "index")
    return Regression(name, unit, at, float(scale), float(offset))


def token(
    position: int | Sequence[int], id: int | Sequence[int] | None = None, *, log: bool = False
) -> Token:
    """The output for a token at a position, or the sum for tokens at several positions.

    Args:
        position: in the sequence, or several; negative ones count from the end.
        id: of the token, or one for each position; None for the predicted ones.
        log: True for log-probabilities, whose sum is that of a generated answer.

    Returns:
        A target, for outputs of shape (B, positions, vocabulary). Each token of an answer by
        itself is ``target=[[token(p, i) for p, i in ...]]``.

    Raises:
        TargetError: no position, or another number of tokens.

    Example:
        >>> import torch, fullgrad
        >>> from fullgrad.targets import token
        >>> model = torch.nn.Linear(4, 9)  # of (batch, positions, 4)
        >>> fullgrad.decompose(model, torch.ones(2, 5, 4), token(-1, 7)).output_source
        'token 7 at position -1'
    """
    at, ids = (
        None if v is None else tuple(plain(v)) if not hasattr(v, "__index__") else (v,)
        for v in (position, id)
    )
    places = tuple(whole(p, "a position") for p in at or ())
    if not places:
        raise TargetError("token needs at least one position")
    tokens = None if ids is None else tuple(whole(i, "a token id") for i in ids)
    if tokens is not None and len(tokens) != len(places):
        raise TargetError(f"{len(tokens)} token ids for {len(places)} positions")
    return Token(places, tokens, bool(log))

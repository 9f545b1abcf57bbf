"""A term that back-propagation has reached, read a few samples at a time.

Whole terms of a batch are large: writing one costs more than the arithmetic in it. A few samples'
numbers are used up while the processor's cache still holds them, in memory that is used again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from fullgrad._decisions import tracing
from fullgrad.engine import samples as sample_index
from fullgrad.engine.backward import bias_of, widen
from fullgrad.engine.tape import Entry
from fullgrad.operations import Bias

# Numbers read at once. A GPU's cost is the number of launches.
AT_ONCE = {"cpu": 1 << 21}
_AT_ONCE_ELSEWHERE = 1 << 25


class Part(NamedTuple):
    """Some samples of a term: gradient, bias (which broadcasts to it), and number of samples.

    ``own`` says that nothing else uses the bias's memory.
    """

    gradient: Tensor
    bias: Tensor
    samples: int
    own: bool


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """One bias term as back-propagation delivers it.

    Args:
        place: on the tape.
        entry: what was recorded.
        gradient: at the operation's output, in the model's dtype.
        batch: number of samples.
        labels: each number's sample, where neither axes nor the first one tell.
        where: where the samples lie, None if they follow each other along the first axis.
    """

    place: int
    entry: Entry
    gradient: Tensor
    batch: int
    labels: Tensor | None = None
    where: sample_index.Along | None = field(init=False)

    def __post_init__(self) -> None:
        found = sample_index.along(self.entry.axes, self.batch)
        first = found is None or found[:2] == (0, 1)
        object.__setattr__(self, "where", None if first else found)

    @property
    def may_be_infinite(self) -> bool:
        """Whether the bias may be infinite where the gradient is zero."""
        return self.entry.bias.may_be_infinite

    def bias(self) -> Tensor:
        """The whole bias, which broadcasts to the gradient's shape."""
        return bias_of(self.entry)

    def parts(self, *, bias: Tensor | None = None, whole: bool = False) -> Iterator[Part]:
        """The term in parts of whole samples, in order, half precision widened.

        There is one part if the samples do not follow each other along the first axis.

        Args:
            bias: the whole bias, if it is computed already.
            whole: do not divide it.
        """
        gradient, batch = self.gradient, self.batch
        at_once = AT_ONCE.get(gradient.device.type, _AT_ONCE_ELSEWHERE)
        together = max(1, at_once * batch // max(1, gradient.numel()))
        whole = whole or tracing()  # what a compiler fuses is not written at all
        if whole or together >= batch or self.labels is not None or self.where is not None:
            all_of_it = self.bias() if bias is None else bias
            own = bias is None and _own(all_of_it, self.entry.held)
            yield Part(widen(gradient), all_of_it, batch, own)
            return
        rows = gradient.shape[0] // batch
        rule = self.entry.bias
        assert isinstance(rule, Bias)
        if bias is None and not rule.samplewise:
            bias = self.bias()
        for start in range(0, batch, together):
            stop = min(batch, start + together)
            cut = slice(start * rows, stop * rows)
            if bias is None:
                held = [widen(_cut(h, cut, gradient.shape)) for h in self.entry.held]
                part = rule.compute(*held)
                own = _own(part, held)
            else:
                part, own = _cut(bias, cut, gradient.shape), False
            yield Part(widen(gradient[cut]), part, stop - start, own)

    def sums(self, value: Tensor, samples: int) -> Tensor:
        """Per-sample sums of (a part of) the term, shape (samples,), float64."""
        if self.labels is not None:
            return sample_index.sums_labelled(value, self.labels, samples)
        if self.where is not None:
            return sample_index.sums_along(value, self.where, samples)
        return sample_index.sums_leading(value, samples)

    def batch_axis(self, samples: int) -> int | None:
        """Where the samples lie, None if they are folded with other numbers."""
        if self.labels is not None:
            return sample_index.batch_axis(self.labels, self.batch)
        where = self.where
        if where is not None:
            return where.dim if where.before == where.after == 1 else None
        shape = self.gradient.shape
        return 0 if len(shape) and shape[0] == samples else None


def _own(t: Tensor, held: Iterable[Tensor]) -> bool:
    """Whether a computed tensor has memory of its own, each number once."""
    storage = t.untyped_storage().data_ptr()
    return t.is_contiguous() and all(h.untyped_storage().data_ptr() != storage for h in held)


def _cut(t: Tensor, rows: slice, shape: torch.Size) -> Tensor:
    """The rows of a tensor that broadcasts to a shape."""
    return t[rows] if t.dim() == len(shape) and t.shape[0] == shape[0] else t

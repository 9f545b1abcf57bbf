"""Which numbers of a term belong to which sample of the batch.

The axes that were followed tell. Where they are not known, most operations keep the batch first,
or fold it with windows or heads into the first axis, batch slowest; each sample's sum is proved.
Where that is not so either back-propagation itself separates the samples: weighting sample
i's scalar by a power of two scales, exactly, the gradients of its own numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from fullgrad.axes.algebra import Axes


@contextmanager
def repeatable() -> Iterator[None]:
    """Make cuDNN sum in one order, so that twice the weight is exactly twice the gradient."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def base_for(dtype: torch.dtype) -> int:
    """Sample numbers are read in digits to this base: weights from 1 to 2^(base - 1)."""
    return 4 if dtype == torch.float16 else 16


def leading(shape: torch.Size, batch: int) -> bool:
    """Whether the first axis may hold the batch, alone or folded with others behind it."""
    return batch == 1 or (len(shape) > 0 and shape[0] % batch == 0)


class Along(NamedTuple):
    """An axis that counts the samples: after ``before`` and ahead of ``after`` other numbers."""

    dim: int
    before: int
    after: int


def along(axes: Axes | None, batch: int) -> Along | None:
    """Where the samples lie, None if the axes do not tell."""
    if axes is None or batch == 1:
        return None
    found = [(d, i) for d, g in enumerate(axes.groups) for i, a in enumerate(g) if a.batch]
    if len(found) != 1:
        return None
    dim, i = found[0]
    group = axes.groups[dim]
    if group[i].size != batch:
        return None
    before, after = (math.prod(a.size for a in part) for part in (group[:i], group[i + 1 :]))
    return Along(dim, before, after)


def sums_along(value: Tensor, where: Along, batch: int) -> Tensor:
    """Per-sample sums, shape (B,) in float64, of a term whose samples lie there."""
    apart = value.unflatten(where.dim, (where.before, batch, where.after))
    sums: Tensor = apart.movedim(where.dim + 1, 0).flatten(1).sum(1)
    return sums.to(torch.float64)


def sums_leading(value: Tensor, batch: int) -> Tensor:
    """Per-sample sums, shape (B,) in float64, of a term whose first axis holds the batch."""
    if batch == 1:
        return value.sum().to(torch.float64).reshape(1)
    if value.shape[0] == batch and value.dim() > 1:
        return value.sum(list(range(1, value.dim()))).to(torch.float64)
    return value.reshape(batch, -1).sum(1).to(torch.float64)


def passes(batch: int, base: int) -> int:
    """How many weighted backward passes tell ``batch`` samples apart."""
    return max(1, math.ceil(math.log(batch, base) - 1e-9)) if batch > 1 else 0


def weights(batch: int, digit: int, like: Tensor) -> Tensor:
    """Weight of each sample's scalar in one pass, shape (B,): 2 to its digit."""
    base = base_for(like.dtype)
    digits = torch.arange(batch, device=like.device) // base**digit % base
    return _powers_of_two(base, like)[digits]


def _powers_of_two(count: int, like: Tensor) -> Tensor:
    """The first powers, exactly: ``torch.pow`` of a GPU rounds 2 to the 15th in float64."""
    return torch.tensor([2.0**n for n in range(count)], dtype=like.dtype, device=like.device)


def digits_of(plain: Tensor, weighted: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Read one digit of each number's sample off the gradient's scaling.

    Args:
        plain: gradients for weights of one.
        weighted: gradients for :func:`weights`.
        dtype: in which the model computed them.

    Numbers so small that they are not scaled exactly count as zero: so does their term.

    Returns:
        Integers like ``plain``, -1 where the gradient is zero; None where a ratio is no power of
        two, which happens only if samples depend on each other.
    """
    plain, weighted = _real(plain), _real(weighted)
    limits, base = torch.finfo(dtype), base_for(dtype)
    smallest = limits.tiny if dtype == torch.float16 else limits.tiny / limits.eps
    nonzero = plain.abs() > smallest
    if bool(((plain == 0) & (weighted.abs() > smallest * 2**base)).any()):
        return None
    ratio = torch.where(nonzero, weighted / torch.where(nonzero, plain, 1), 1)
    digit = torch.log2(ratio.abs().clamp(min=0.5)).round()
    exact = _powers_of_two(base, ratio)[digit.clamp(0, base - 1).long()] == ratio
    if not bool((exact & (digit >= 0) & (digit < base)).all()):
        return None
    return torch.where(nonzero, digit, -1).to(torch.long)


def _real(gradient: Tensor) -> Tensor:
    return gradient.real + gradient.imag if gradient.is_complex() else gradient


def combine(digits: list[Tensor], base: int) -> Tensor:
    """The sample of each number from its digits, -1 where none is known."""
    total = torch.zeros_like(digits[0])
    for place, digit in enumerate(digits):
        total = total + digit.clamp(min=0) * base**place
    return torch.where(digits[0] < 0, -1, total)


def sums_labelled(value: Tensor, samples: Tensor, batch: int) -> Tensor:
    """Per-sample sums, shape (B,) in float64, by each number's sample (-1: its term is zero)."""
    known = samples >= 0
    sums = torch.zeros(batch, dtype=torch.float64, device=value.device)
    return sums.index_add(0, samples[known], value[known].to(torch.float64))


def elsewhere(labels: Tensor, axes: Axes | None, batch: int) -> bool:
    """Whether a number belongs to another sample than the one at whose place it lies.

    Args:
        labels: each number's sample, -1 where its term is zero.
        axes: of the numbers.
        batch: number of samples.
    """
    found = along(axes, batch)
    if found is None and (not leading(labels.shape, batch) or not labels.dim()):
        return True
    dim, before, after = found or Along(0, 1, len(labels) // batch)
    own = torch.arange(batch, device=labels.device).repeat_interleave(after).repeat(before)
    own = own.view(-1, *[1] * (labels.dim() - 1 - dim))
    return bool(((labels >= 0) & (labels != own)).any())


def batch_axis(samples: Tensor, batch: int) -> int | None:
    """The axis along which the sample number runs from 0 to B - 1, if there is one."""
    for axis, size in enumerate(samples.shape):
        if size == batch:
            shape = [1] * samples.dim()
            shape[axis] = batch
            expected = torch.arange(batch, device=samples.device).view(shape)
            if bool(((samples < 0) | (samples == expected)).all()):
                return axis
    return None

"""Smooth FullGrad: the mean map over noisy copies of the input.

The noise is SmoothGrad's (Smilkov et al. 2017): normal, of a standard deviation that is a share of
each sample's range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fullgrad.batches import BatchSize, batch_for, in_batches, tiled
from fullgrad.explanation import Request, forward


@dataclass(frozen=True, slots=True)
class Noise:
    """How the noisy copies are made.

    Args:
        samples: how many copies of each sample.
        scale: standard deviation, as a share of the sample's largest less its smallest number.
        seed: of the noise. Equal seeds make equal maps, whatever the batches.

    Raises:
        ValueError: no samples, or a negative scale.
    """

    samples: int = 16
    scale: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        if type(self.samples) is not int or self.samples < 1:
            raise ValueError(f"Noise.samples must be a positive integer, not {self.samples!r}")
        if not self.scale >= 0:
            raise ValueError(f"Noise.scale must not be negative, not {self.scale!r}")


def noisy(x: Tensor, noise: Noise) -> Iterator[Tensor]:
    """Noisy copies of a batch, one after the other, each of shape (B, ...).

    All samples get the same normal numbers, each to its own scale, so that a sample's copies do not
    depend on its batch.
    """
    over = list(range(1, x.dim()))
    spread = (x.amax(over, keepdim=True) - x.amin(over, keepdim=True)) * noise.scale
    generator = torch.Generator(device=x.device).manual_seed(noise.seed)
    for _ in range(noise.samples):
        drawn = torch.randn(x.shape[1:], generator=generator, device=x.device, dtype=x.dtype)
        yield x + spread * drawn


def smoothed(
    request: Request,
    compute: Callable[[Request], Tensor],
    noise: Noise,
    batch_size: BatchSize,
    memory: int | None,
) -> Tensor:
    """The mean result over noisy copies, as many copies at a time as a batch holds.

    Without a target, all copies of a sample are explained for the class that is predicted for the
    sample itself.

    Args:
        request: the call; its input is one tensor, shape (B, ...).
        compute: from a part of the call to its result, samples first.
        noise: how the copies are made.
        batch_size: how many copies go through the model together; None for one of each sample.
        memory: see :func:`fullgrad.batches.in_batches`.
    """
    size = batch_for(request, memory) if batch_size == "auto" else batch_size
    return in_batches(request, lambda part: _mean(part, compute, noise, size), size, None)


def _mean(
    request: Request, compute: Callable[[Request], Tensor], noise: Noise, size: int | None
) -> Tensor:
    if request.target is None:
        request = replace(request, target=forward(request).index)
    x = request.inputs
    assert isinstance(x, Tensor)
    rounds = 1 if size is None else max(1, size // len(x))
    total: Tensor | None = None
    copies = noisy(x.detach(), noise)
    for done in range(0, noise.samples, rounds):
        now = min(rounds, noise.samples - done)
        part = replace(tiled(request, now), inputs=torch.cat([next(copies) for _ in range(now)]))
        maps = compute(part).unflatten(0, (now, len(x))).sum(0)
        total = maps if total is None else total + maps
    assert total is not None
    return total / noise.samples

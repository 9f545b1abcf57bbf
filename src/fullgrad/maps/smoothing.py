"""Smooth FullGrad: the map of the mean terms over noisy copies of the input.

The noise is SmoothGrad's (Smilkov et al. 2017): normal, of a standard deviation that is a share of
each sample's range.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fullgrad.engine.pipeline import explain_each, forward
from fullgrad.engine.request import Request, Traced
from fullgrad.engine.targets import again, predicts
from fullgrad.maps.aggregation import Psi
from fullgrad.maps.minibatches import sample_axes, tiled
from fullgrad.maps.selection import Selection
from fullgrad.maps.sinks import Average, Maps, TermAverage, beside


@dataclass(frozen=True, slots=True)
class Noise:
    """How the noisy copies are made.

    Args:
        samples: how many copies of each sample.
        scale: standard deviation, as a share of the sample's largest less its smallest number.
        seed: of the noise. Equal seeds make equal maps, whatever the minibatches.

    Raises:
        ValueError: no samples, or a negative scale.
    """

    samples: int = 25
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


def smoothed(request: Request, chosen: Selection, psi: Psi, noise: Noise, size: int | None) -> Maps:
    """The map of the mean terms over noisy copies, as many copies at a time as fit.

    Classes that are predicted are those of the sample itself, for all its copies.

    Args:
        request: the call; its input is one tensor, shape (B, ...) or as its layout says.
        chosen: the terms that count.
        psi: how the mean terms are drawn.
        noise: how the copies are made.
        size: how many copies go through the model together; None for one of each sample.

    Returns:
        One map, shape (B, targets, *positions).
    """
    if predicts(request.target):
        request = replace(request, target=again(forward(request)))
    x = request.inputs
    assert isinstance(x, Tensor)
    (axis,) = sample_axes(x, request.layout)
    x = x.detach().movedim(axis, 0)
    rounds = 1 if size is None else max(1, size // len(x))
    averages: dict[int, TermAverage] = {}

    def open_sink(traced: Traced, number: int) -> Average:
        return Average(traced, chosen, averages.setdefault(number, TermAverage(len(x))))

    copies = noisy(x, noise)
    for done in range(0, noise.samples, rounds):
        now = min(rounds, noise.samples - done)
        inputs = torch.cat([next(copies) for _ in range(now)]).movedim(0, axis)
        part = replace(tiled(request, now), inputs=inputs)
        explain_each(part, open_sink)
    return beside([average.maps(psi) for average in averages.values()])

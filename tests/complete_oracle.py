"""The complete map the slow way: for chains of layers, every number by itself, in plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

import fullgrad
from networks import seeded

DOUBLE = torch.float64


@dataclass(frozen=True)
class Layer:
    """A convolution or pool along one axis, as its arguments say."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    pool: bool = False

    def after(self, size: int) -> int:
        return (size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1


@dataclass(frozen=True)
class Cell:
    low: int
    high: int
    center: float


def cells_after(layers: Sequence[Layer], size: int) -> list[list[Cell]]:
    """What each cell reads of the input and around where, before and after each layer."""
    found = [[Cell(i, i, float(i)) for i in range(size)]]
    for layer in layers:
        last = found[-1]
        step = last[1].center - last[0].center if len(last) > 1 else 1.0
        cells = []
        for i in range(layer.after(len(last))):
            taps = [
                i * layer.stride - layer.padding + layer.dilation * k for k in range(layer.kernel)
            ]
            read = [last[t] for t in taps if 0 <= t < len(last)]
            middle = (taps[0] + taps[-1]) / 2
            center = last[0].center + step * middle
            cells.append(Cell(min(c.low for c in read), max(c.high for c in read), center))
        found.append(cells)
    return found


def column(cells: Sequence[Cell], j: int, size: int, placement: str) -> list[float]:
    """How cell j is divided among places: a column of W."""
    centers = drawn_at(cells)
    weights = [0.0] * size
    for p in range(size):
        if cells[j].low <= p <= cells[j].high:
            weights[p] = (_area if placement == "cells" else _hat)(cells, centers, j, p)
    if sum(weights) == 0:  # beside its area
        weights[round(centers[j])] = 1.0
    return [w / math.fsum(weights) for w in weights]


def drawn_at(cells: Sequence[Cell]) -> list[float]:
    """Centers within what is read; at its end where windows hang over the other end alone."""
    start = any(c.center < c.low for c in cells)
    end = any(c.center > c.high for c in cells)
    for one, name in ((start and not end, "high"), (end and not start, "low")):
        last = [float(getattr(c, name)) for c in cells]
        follows = all(
            b - a == d.center - c.center > 0
            for (a, b), (c, d) in zip(pairwise(last), pairwise(cells), strict=True)
        )
        if one and follows:
            return last
    return [min(max(c.center, c.low), c.high) for c in cells]


def _hat(cells: Sequence[Cell], centers: Sequence[float], j: int, p: int) -> float:
    if len(set(centers)) == 1:
        return 1.0
    smaller = [c for c in centers if c < centers[j]]
    larger = [c for c in centers if c > centers[j]]
    left = max(1.0, centers[j] - max(smaller)) if smaller else None
    right = max(1.0, min(larger) - centers[j]) if larger else None
    if p == centers[j]:
        return 1.0
    if p < centers[j]:
        if left is None and p <= cells[j].high - right:
            return 1.0
        return max(0.0, 1 - (centers[j] - p) / (left or right))
    if right is None and p >= cells[j].low + left:
        return 1.0
    return max(0.0, 1 - (p - centers[j]) / (right or left))


def _area(cells: Sequence[Cell], centers: Sequence[float], j: int, p: int) -> float:
    distinct = sorted(set(centers))
    low, high = min(c.low for c in cells), max(c.high for c in cells)
    k, n = distinct.index(centers[j]), len(distinct)
    if n == 1:
        return 1.0
    steps = [b - a for a, b in pairwise(distinct)]
    even = max(steps) - min(steps) < 1e-3 * max(steps)
    if even and distinct[0] - low < max(steps) and high - distinct[-1] < max(steps):
        start = low - 0.5 + k * (high - low + 1) / n
        stop = low - 0.5 + (k + 1) * (high - low + 1) / n
    else:
        start = (distinct[k - 1] + distinct[k]) / 2 if k else distinct[0] - steps[0] / 2
        stop = (distinct[k] + distinct[k + 1]) / 2 if k < n - 1 else distinct[-1] + steps[-1] / 2
    return max(0.0, min(stop, p + 0.5) - max(start, p - 0.5))


def naive_map(d: fullgrad.Decomposition, axes: Sequence[Sequence[Layer]], placement: str) -> Tensor:
    """The map of a chain as :func:`chain` builds it: every cell of every term by itself.

    Args:
        d: its decomposition.
        axes: for each axis of the grid, the layers along it.
        placement: of the map.
    """
    sizes = d.inputs[0].shape[2:]
    total = d.input_terms[0].sum(1, keepdim=True)
    cells = [cells_after(layers, n) for layers, n in zip(axes, sizes, strict=True)]
    for term in d.bias_terms:
        depth = int(term.module) // 2 + 1 if term.module.isdigit() else -1
        if depth < 0 or term.value.dim() == 2:
            continue
        value = term.value.sum(1)
        along = [
            [column(c[depth], j, n, placement) for j in range(len(c[depth]))]
            for c, n in zip(cells, sizes, strict=True)
        ]
        if math.prod(value.shape[1:]) == 1:
            continue  # all there is: elsewhere
        for index in torch.cartesian_prod(*[torch.arange(n) for n in value.shape[1:]]).reshape(
            -1, len(sizes)
        ):
            spread = torch.ones((), dtype=DOUBLE)
            for matrix, j in zip(along, index.tolist(), strict=True):
                spread = spread[..., None] * torch.tensor(matrix[j], dtype=DOUBLE)
            own = value[(slice(None), *index.tolist())]
            total = total + own.reshape(-1, 1, *[1] * len(sizes)) * spread
    return total


def chain(axes: Sequence[Sequence[Layer]], seed: int = 0) -> nn.Sequential:
    """Convolutions and pools with activations between, then a mean and a dense layer."""
    rank = len(axes)
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[rank]
    pool = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}[rank]
    parts: list[nn.Module] = []
    width = 2
    for layers in zip(*axes, strict=True):
        kernel, stride, padding, dilation = (
            tuple(getattr(a, name) for a in layers)
            for name in ("kernel", "stride", "padding", "dilation")
        )
        if layers[0].pool:
            parts += [pool(kernel, stride, padding), nn.GELU()]
        else:
            parts += [conv(width, 3, kernel, stride, padding, dilation), nn.GELU()]
            width = 3
    mean = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[rank](1)
    return seeded(lambda: nn.Sequential(*parts, mean, nn.Flatten(), nn.Linear(width, 3)).double())


class After(nn.Module):
    """A model of a moved input."""

    def __init__(self, move: Callable[[Tensor], Tensor], model: nn.Module) -> None:
        super().__init__()
        self.move, self.model = move, model

    def forward(self, x: Tensor) -> Any:
        return self.model(self.move(x))


def check_sum(found: fullgrad.CompleteMap, tolerance: float = 1e-10) -> None:
    """Maps and elsewhere are the output."""
    total = found.elsewhere + found.positive + found.negative
    size = found.output.double().abs() + found.elsewhere.abs() + found.positive - found.negative
    assert ((total - found.output.double()).abs() <= tolerance * size).all()
    stages = [v for v in found.elsewhere_by_stage.values()]
    assert torch.equal(
        found.elsewhere, torch.stack(stages).sum(0) if stages else found.elsewhere * 0
    )
    for m in found.maps:
        assert m.dtype == found.output.dtype

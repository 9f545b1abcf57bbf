"""Symmetric relevance gain (Blücher, Vielhaben & Strodthoff 2024): what maps know beyond chance.

The explained number with the least salient part removed, less that with the most salient part
removed, averaged over fractions. It is 0 in expectation for random maps that are as often
themselves as their negative, whatever the shape of the holes. Means are divided by the mean over
images of |f(x) - f(all removed)|, which, unlike |f(x)|, cannot vanish.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from fullgrad.evaluation.options import Option
from fullgrad.evaluation.plan import check_fractions
from fullgrad.evaluation.removal import FILLS, ROAD, Fill, count_of, fill_named, order_of
from fullgrad.evaluation.tests.evaluate.measure import Measure, Score
from fullgrad.evaluation.tests.evaluate.subject import Explained
from fullgrad.methods.controls import cells_of

FRACTIONS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75)
CELL = 16


@dataclass(frozen=True)
class RelevanceGain(Measure):
    """Removes the most and the least salient cells and compares what is left.

    Args:
        cell: pixels along a cell's side, 1 for single pixels; a ViT's patch size for its patches.
            Where the image is no multiple of it, cells differ in size by a pixel.
        fills: what removed cells become, of :data:`fullgrad.evaluation.removal.FILLS`.
        fractions: of the cells that are removed, in (0, 1).

    Raises:
        ValueError: an unknown fill, a cell below 1, or fractions out of range or not ascending.
    """

    cell: int = CELL
    fills: tuple[str, ...] = ("mean",)
    fractions: tuple[float, ...] = FRACTIONS

    name = "relevance-gain"
    title = "symmetric relevance gain: least less most salient cells removed"
    chance = 0.0
    random_runs = True
    options: ClassVar[Sequence[Option]] = (
        Option("--cell", "pixels along a removed cell's side", CELL, int),
        Option("--fills", "what removed cells become", ("mean",), choices=tuple(FILLS)),
        Option("--fractions", "shares of the cells that are removed, in (0, 1)", FRACTIONS, float),
    )

    def __post_init__(self) -> None:
        check_fractions(self.fractions)
        if self.fractions[-1] >= 1:
            raise ValueError("relevance gain needs fractions below 1")
        if self.cell < 1:
            raise ValueError(f"a cell has at least one pixel, not {self.cell}")
        unknown = [f for f in self.fills if f not in FILLS]
        if unknown or not self.fills:
            raise ValueError(f"unknown fill {unknown}; known: {', '.join(FILLS)}")

    def scores(self, explained: Explained) -> Iterator[Score]:
        """Yield a score for each image and fill."""
        x, maps = explained.x, explained.maps
        labels = cells_of(x.shape[2:], self.cell).to(x.device)
        sums = cell_sums(maps, labels)
        before = explained.measured(explained.logits)
        for fill in self.fills:
            filling = fill_named(fill, explained.subject.model.preprocessing)
            values = self._values(explained, sums, labels, filling)
            least, most = values[:, 0], values[:, 1]
            make = partial(self._empty, explained, fill, filling)
            empty = explained.shared(("empty", fill, explained.number), make)
            scale = (before - empty).abs()
            gain = (least - most).mean(0)
            drops = [(before - v).mean(0).tolist() for v in (least, most)]
            rows = zip(explained.numbers, gain.tolist(), scale.tolist(), *drops, strict=True)
            for number, value, size, low, high in rows:
                more = {"least": low, "most": high}
                setting = f"{fill}, {self._units()}"
                yield Score(number, value, setting, size, more)

    def _units(self) -> str:
        return "pixels" if self.cell == 1 else f"cells of {self.cell}"

    def _values(self, explained: Explained, sums: Tensor, labels: Tensor, fill: Fill) -> Tensor:
        """Return what is explained after removals, shape (fractions, orders, B)."""
        x = explained.x
        seeds = [g.initial_seed() for g in explained.generators(1)]
        order = order_of(sums[:, None], "most", explained.seed)
        jobs = []
        for fraction in self.fractions:
            count = count_of(fraction, sums.shape[1])
            for chosen in (order[:, -count:], order[:, :count]):
                jobs.append(removed(chosen, labels, len(x)))
        parts, together = [], max(1, 50 // len(x))
        for i in range(0, len(jobs), together):
            images = torch.cat([fill(x, gone, seeds) for gone in jobs[i : i + together]])
            parts.append(explained.subject.outputs(images).view(-1, *explained.logits.shape))
        return explained.measured(torch.cat(parts)).view(len(self.fractions), 2, len(x))

    def _empty(self, explained: Explained, name: str, fill: Fill) -> Tensor:
        """Return what is explained of images of which all is removed, shape (B,).

        ROAD cannot guess such an image; there it is the image's mean color.
        """
        x = explained.x
        if name == ROAD:
            fill = fill_named("mean", explained.subject.model.preprocessing)
        seeds = [g.initial_seed() for g in explained.generators(1)]
        everything = torch.ones(len(x), 1, *x.shape[2:], dtype=torch.bool, device=x.device)
        return explained.measured(explained.subject.outputs(fill(x, everything, seeds)))


def cell_sums(maps: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of each map over each cell, float64 of shape (B, cells).

    Args:
        maps: shape (B, 1, *positions).
        labels: shape (*positions,).
    """
    flat = maps.double().flatten(1)
    count = int(labels.max()) + 1
    index = labels.flatten().expand(len(flat), -1)
    return flat.new_zeros(len(flat), count).scatter_add_(1, index, flat)


def removed(chosen: Tensor, labels: Tensor, samples: int) -> Tensor:
    """Return which positions lie in chosen cells, bool of shape (B, 1, *positions).

    Args:
        chosen: numbers of cells, shape (B, K).
        labels: the cell of each position, shape (*positions,).
        samples: B.
    """
    cells = torch.zeros(samples, int(labels.max()) + 1, dtype=torch.bool, device=chosen.device)
    cells.scatter_(1, chosen, True)
    return cells[:, labels.flatten()].view(samples, 1, *labels.shape)

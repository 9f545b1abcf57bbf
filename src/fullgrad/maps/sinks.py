"""Where the terms of one backward pass go: into a map, or into the mean over noisy copies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from fullgrad.axes.algebra import Axes
from fullgrad.axes.layouts import Grid
from fullgrad.axes.placement import Placement, arranged
from fullgrad.engine.backward import product
from fullgrad.engine.pipeline import Totals, input_term
from fullgrad.engine.request import Traced
from fullgrad.engine.samples import elsewhere
from fullgrad.engine.terms import Term
from fullgrad.errors import CompletenessError, LayoutError
from fullgrad.maps._copies import alike, first_copy
from fullgrad.maps.aggregation import Aggregate, Psi, drawn, reduced
from fullgrad.maps.location import Location, Locator
from fullgrad.maps.selection import Selection

Maps: TypeAlias = tuple[Tensor, ...]


def beside(found: Sequence[Maps]) -> Maps:
    """The maps of several targets side by side, shape (B, targets, *positions) for each input."""
    return tuple(
        torch.cat(maps, 1) if len(maps) > 1 else maps[0] for maps in zip(*found, strict=True)
    )


class MapAccumulator:
    """The maps under way, one for each input's grid.

    A term that lies on the grids of several inputs is shared equally among them.

    Args:
        grids: of the inputs.
        psi: see :func:`fullgrad.maps.aggregation.rescaled_sum`.
    """

    def __init__(self, grids: Sequence[Grid], psi: Psi) -> None:
        self._psi = psi
        self._aggregates = [Aggregate(g.sizes) for g in grids]

    def read(self, value: Tensor, location: Location) -> list[Tensor]:
        """What a map needs of (some samples of) a term, for each grid; its memory may be used."""
        last = len(location) - 1
        return [
            reduced(value, placement, self._psi, overwrite=i == last)
            for i, (_, placement) in enumerate(location)
        ]

    def add(self, location: Location, maps: Sequence[Tensor]) -> None:
        """Count what was read of a term, all samples of it."""
        for (grid, placement), m in zip(location, maps, strict=True):
            self._aggregates[grid].add(m, placement.cells)

    def maps(self) -> Maps:
        """The maps at the inputs' sizes, each of shape (B, 1, *positions)."""
        return Aggregate.maps_of(self._aggregates)


class _Located(ABC):
    """Reads each term where it lies the moment it comes, and lets the term go.

    Args:
        traced: the recorded forward.
        chosen: the terms that count.
        times_bias: whether a term is gradient times bias, or the gradient alone.
    """

    def __init__(self, traced: Traced, chosen: Selection, times_bias: bool = True) -> None:
        self._traced, self._with_input, self._times_bias = traced, chosen.input, times_bias
        shapes = [x.shape for x in traced.prepared.leaves]
        self._locator = Locator(
            traced.layouts, shapes, traced.prepared.names, len(traced.output), chosen
        )

    @abstractmethod
    def _read(self, value: Tensor, location: Location) -> list[Tensor]:
        """What is kept of (some samples of) a term; its memory may be used."""

    @abstractmethod
    def _add(self, name: str, location: Location, read: Sequence[Tensor]) -> None:
        """Count what was kept of a term, all samples of it."""

    def term(self, term: Term) -> Tensor:
        entry = term.entry
        axes, kind, module, op = (
            self._traced.axes_of(entry),
            entry.bias.kind,
            entry.module,
            entry.op,
        )
        location = self._locator.of(axes, kind, module, op, entry.shape)
        if location and term.labels is not None:
            self._check_own(term.labels, axes)
        sums: list[Tensor] = []
        read: list[list[Tensor]] = []
        whole = any(p.by_sample for _, p in location)
        for gradient, bias, samples, own in term.parts(whole=whole):
            value = product(gradient, bias, term.may_be_infinite, overwrite=own)
            sums.append(term.sums(value, samples))
            if location:
                kept = value if self._times_bias else gradient.clone()
                read.append(self._read(kept, location))
        if read:
            together = [torch.cat(m) if len(m) > 1 else m[0] for m in zip(*read, strict=True)]
            self._add(f"{op} in {module}", location, together)
        return torch.cat(sums) if len(sums) > 1 else sums[0]

    def _check_own(self, labels: Tensor, axes: Axes | None) -> None:
        """Refuse numbers at one sample's places that are of another's output.

        Raises:
            CompletenessError: there are some.
        """
        if elsewhere(labels, axes, len(self._traced.output)):
            raise CompletenessError(
                "the terms sum to the output, but not those that lie at each sample's places: the "
                "model reads one sample's numbers as another's. Explain one sample at a time, "
                "with batch_size=1."
            )

    def _finish(self, totals: Totals) -> None:
        """Count the input terms, after all others."""
        self._locator.check()
        if self._with_input:
            for labels, own in zip(totals.input_labels, self._traced.layouts.axes, strict=False):
                self._check_own(labels, own)
            leaves = self._traced.prepared.leaves
            for i, (g, x) in enumerate(zip(totals.input_gradients, leaves, strict=True)):
                location = self._locator.of_input(i)
                self._add(f"input {i}", location, self._read(input_term(g, x), location))


class Draw(_Located):
    """Draws a map for each input.

    Args:
        traced: the recorded forward.
        chosen: the terms that count.
        psi: how they are drawn.
        times_bias: whether a term is gradient times bias, or the gradient alone.
    """

    def __init__(
        self, traced: Traced, chosen: Selection, psi: Psi, times_bias: bool = True
    ) -> None:
        super().__init__(traced, chosen, times_bias)
        self._maps = MapAccumulator(traced.layouts.grids, psi)

    def _read(self, value: Tensor, location: Location) -> list[Tensor]:
        return self._maps.read(value, location)

    def _add(self, name: str, location: Location, read: Sequence[Tensor]) -> None:
        self._maps.add(location, read)

    def result(self, totals: Totals) -> Maps:
        """The maps, each of shape (B, 1, *positions)."""
        self._finish(totals)
        return self._maps.maps()


# The grid, the term's name, and which of that name.
_Key: TypeAlias = tuple[int, str, int]
_Sums: TypeAlias = dict[_Key, tuple[Placement, tuple[int, ...], Tensor]]


def _elsewhere(name: str) -> LayoutError:
    return LayoutError(
        f"smooth_fullgrad averages each term over noisy copies, but the numbers of {name} lie "
        "elsewhere in each copy; use method='fullgrad'"
    )


class TermAverage:
    """Signed terms of copies of the same samples, averaged before anything is drawn of them.

    Args:
        samples: how many there are of each copy.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self._copies = 0
        self._grids: Sequence[Grid] = ()
        self._sums: _Sums = {}

    def include(self, grids: Sequence[Grid], copies: int, sums: _Sums) -> None:
        """Count the terms of some more copies, summed over these copies.

        Raises:
            LayoutError: the numbers of one lie elsewhere than in copies before.
        """
        self._grids = grids
        self._copies += copies
        for key, found in sums.items():
            known = self._sums.setdefault(key, found)
            if known is found:
                continue
            if known[2].shape != found[2].shape or not alike(known[0], found[0]):
                raise _elsewhere(key[1])
            known[2].add_(found[2])

    def maps(self, psi: Psi) -> Maps:
        """The maps of the mean terms, which are let go."""
        aggregates = [Aggregate(g.sizes) for g in self._grids]
        while self._sums:
            key = next(iter(self._sums))
            placement, positions, total = self._sums.pop(key)
            part = drawn(total / self._copies, positions, placement, psi, overwrite=True)
            aggregates[key[0]].add(part, placement.cells)
        return Aggregate.maps_of(aggregates)


class Average(_Located):
    """Hands the terms of some noisy copies to the average of all of them.

    Args:
        traced: the recorded forward of these copies, one round of the samples after the other.
        chosen: the terms that count.
        average: over all passes.
    """

    def __init__(self, traced: Traced, chosen: Selection, average: TermAverage) -> None:
        super().__init__(traced, chosen)
        self._average = average
        self._copies = len(traced.output) // average.samples
        self._seen: Counter[str] = Counter()
        self._sums: _Sums = {}

    def _read(self, value: Tensor, location: Location) -> list[Tensor]:
        return [value]

    def _add(self, name: str, location: Location, read: Sequence[Tensor]) -> None:
        number = self._seen[name]
        self._seen[name] += 1
        for grid, placement in location:
            first = first_copy(placement, self._average.samples)
            if first is None:
                raise _elsewhere(name)
            view, positions = arranged(read[0], placement)
            total = view.unflatten(0, (-1, self._average.samples)).sum(0)
            self._sums[grid, name, number] = (first, positions, total)

    def result(self, totals: Totals) -> None:
        """Count the terms of these copies, now that their sum is proved."""
        self._finish(totals)
        self._average.include(self._traced.layouts.grids, self._copies, self._sums)

"""What one call draws: a map for each explained input, from the terms that are selected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fullgrad.axes.algebra import Axes
from fullgrad.axes.layouts import Layouts
from fullgrad.axes.placement import Placement, arranged
from fullgrad.errors import InputError, LayoutError
from fullgrad.maps.aggregation import Aggregate, Psi, drawn, placements_for, reduced
from fullgrad.maps.selection import Selection
from fullgrad.operations import Kind


class Canvas:
    """The maps under way.

    A term that lies on the grids of several inputs is shared equally among them.

    Args:
        layouts: of the explained inputs.
        shapes: of them.
        batch: number of samples.
        psi: see :func:`fullgrad.maps.aggregation.rescaled_sum`.
        chosen: the terms that count.

    Raises:
        InputError: an input has no positions.
    """

    def __init__(
        self,
        layouts: Layouts,
        shapes: Sequence[Sequence[int]],
        batch: int,
        psi: Psi,
        chosen: Selection,
    ) -> None:
        with_grid = {g.input for g in layouts.grids}
        for i, shape in enumerate(shapes):
            if i not in with_grid or shape[0] != batch:
                raise InputError(
                    f"an input of shape {tuple(shape)} has no map: (batch, channels, "
                    "positions...) with 1 to 3 spatial axes is needed. State its axes with "
                    "layout='BT', or pass it through additional_forward_args"
                )
        self._layouts, self._batch, self._psi, self._chosen = layouts, batch, psi, chosen
        self._aggregates = [Aggregate(g.sizes) for g in layouts.grids]
        self._drawn = 0
        self._nowhere = 0
        self._unknown: LayoutError | None = None

    def places(
        self, axes: Axes | None, kind: Kind, module: str, op: str, shape: Sequence[int]
    ) -> list[tuple[int, Placement]]:
        """On which grids a term is drawn, and how; empty if it does not count or lies nowhere.

        Terms are asked for from the last to the first.
        """
        if not self._chosen.wants(kind, module):
            return []
        try:
            found = placements_for(axes, module, op, shape, self._batch, self._layouts.grids)
        except LayoutError as error:
            self._unknown = error  # terms come last to first: the first is where it was lost
            return []
        drawn = [(i, p) for i, p in enumerate(found) if p is not None]
        if drawn:
            self._drawn += 1
        elif len(shape) > 2:
            self._nowhere += 1
        return drawn

    def reduced(self, value: Tensor, places: Sequence[tuple[int, Placement]]) -> list[Tensor]:
        """What is kept of (some samples of) a term, for each grid; its memory may be used."""
        last = len(places) - 1
        maps = [
            reduced(value, placement, self._psi, overwrite=i == last)
            for i, (_, placement) in enumerate(places)
        ]
        return [m / len(maps) for m in maps] if len(maps) > 1 else maps

    def add(
        self, places: Sequence[tuple[int, Placement]], maps: Sequence[Tensor], name: str
    ) -> None:
        """Count what was kept of a term, all samples of it.

        Args:
            places: of the term.
            maps: from :meth:`reduced`, one for each place.
            name: of the term.
        """
        for (grid, placement), m in zip(places, maps, strict=True):
            self._aggregates[grid].add(m, placement.cells)

    def finished(self, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The maps, at the inputs' sizes.

        Args:
            values: what is drawn of the inputs themselves, in their shapes; not read where the
                input term does not count.

        Returns:
            One for each input, shape (B, 1, *positions).

        Raises:
            LayoutError: it is not known where a term's numbers lie, no term has positions, or so
                few that the layout is in doubt.
        """
        if self._unknown is not None:
            raise self._unknown
        if self._nowhere > self._drawn and not self._layouts.stated:
            raise LayoutError(
                f"{self._nowhere} terms with more than two axes lie nowhere on the input's grid, "
                f"only {self._drawn} do: is the input laid out as (batch, channels, positions...)? "
                "State what its axes hold, as in layout='BTC' (letters: B samples, C channels, "
                "others are positions)"
            )
        if self._chosen.input:
            for i, (value, axes) in enumerate(zip(values, self._layouts.axes, strict=True)):
                grid = self._layouts.grids[i : i + 1]
                placed = placements_for(axes, "", "input", value.shape, self._batch, grid)
                maps = [(i, p) for p in placed if p is not None]
                self.add(maps, self.reduced(value, maps), f"input {i}")
        elif not self._drawn:
            raise LayoutError("no term of this selection has positions, so there is no map")
        return self._map()

    def _map(self) -> tuple[Tensor, ...]:
        return tuple(aggregate.map() for aggregate in self._aggregates)


class Means:
    """Terms of copies of the same samples, summed before anything is drawn of them.

    Args:
        samples: how many there are of each copy.
    """

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._copies = 0
        self.sizes: list[tuple[int, ...]] = []
        self._sums: dict[tuple[Any, ...], tuple[Placement, tuple[int, ...], Tensor]] = {}

    def copies(self, count: int) -> None:
        """That many more copies are coming."""
        self._copies += count

    def add(self, key: tuple[Any, ...], placement: Placement, term: Tensor) -> None:
        """Count a term of some copies, one copy of all samples after the other."""
        view, positions = arranged(term, placement)
        view = view.unflatten(0, (-1, self._samples)).sum(0)
        key = (*key, view.shape)
        known = self._sums.get(key)
        if known is None:
            self._sums[key] = (placement, positions, view)
        else:
            known[2].add_(view)

    def draw(self, psi: Psi) -> tuple[Tensor, ...]:
        """The maps of the mean terms."""
        aggregates = [Aggregate(size) for size in self.sizes]
        while self._sums:
            key = next(iter(self._sums))
            placement, positions, total = self._sums.pop(key)
            grid, sharing = key[:2]
            mean = total / (self._copies * sharing)
            aggregates[grid].add(drawn(mean, positions, placement, psi, overwrite=True), placement.cells)
        return tuple(aggregate.map() for aggregate in aggregates)


class MeanCanvas(Canvas):
    """Hands the terms of noisy copies to their means instead of drawing them.

    Args:
        means: of all passes.
        layouts: see :class:`Canvas`.
        shapes: see :class:`Canvas`.
        batch: number of samples, copies counted.
        chosen: see :class:`Canvas`.
    """

    def __init__(
        self,
        means: Means,
        layouts: Layouts,
        shapes: Sequence[Sequence[int]],
        batch: int,
        chosen: Selection,
    ) -> None:
        super().__init__(layouts, shapes, batch, "signed", chosen)
        self._means = means
        means.sizes = [g.sizes for g in layouts.grids]
        self._seen: Counter[str] = Counter()

    def reduced(self, value: Tensor, places: Sequence[tuple[int, Placement]]) -> list[Tensor]:
        """The term itself."""
        return [value]

    def add(
        self, places: Sequence[tuple[int, Placement]], maps: Sequence[Tensor], name: str
    ) -> None:
        """Sum the term over its copies."""
        number = self._seen[name]
        self._seen[name] += 1
        for grid, placement in places:
            self._means.add((grid, len(places), name, number), placement, maps[0])

    def _map(self) -> tuple[Tensor, ...]:
        return ()

"""Which terms count for a map, and where on the inputs' grids they lie."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

from fullgrad.axes.algebra import Axes
from fullgrad.axes.layouts import USUAL_CHANNELS, Layouts
from fullgrad.axes.placement import CellsAlong, Placement
from fullgrad.axes.reading import doubt
from fullgrad.engine.targets import SQUEEZED
from fullgrad.errors import InputError, LayoutError
from fullgrad.maps.aggregation import placements_for
from fullgrad.maps.selection import Selection
from fullgrad.operations import Kind

# On which grids a term lies, and how it is to be read there.
Location: TypeAlias = Sequence[tuple[int, Placement]]


class Locator:
    """Finds the terms of one call on the grids of its inputs.

    Args:
        layouts: of the explained inputs.
        shapes: of them.
        names: of them, for messages.
        batch: number of samples.
        chosen: the terms that count.
        decomposed: whether the terms are those of a decomposition, for messages.
        along: which cells a grid's axis has; see :func:`fullgrad.axes.placement.placement_of`.
        may_be_empty: whether a selection that puts nothing on a grid has a map: zero.

    Raises:
        InputError: an input has no positions.
        LayoutError: it is not known which of its axes are positions.
    """

    def __init__(
        self,
        layouts: Layouts,
        shapes: Sequence[Sequence[int]],
        names: Sequence[str],
        batch: int,
        chosen: Selection,
        *,
        decomposed: bool = False,
        along: CellsAlong | None = None,
        may_be_empty: bool = False,
    ) -> None:
        with_grid = {g.input for g in layouts.grids}
        for i, shape in enumerate(shapes):
            count = layouts.count(i)
            if i in with_grid and count == 1 != batch:
                raise InputError(
                    f"an input of shape {tuple(shape)} has no map, for the output counts {batch} "
                    f"samples: {SQUEEZED}"
                )
            if i not in with_grid or count != batch:
                raise InputError(
                    f"an input of shape {tuple(shape)} has no map: (batch, channels, "
                    "positions...) with 1 to 3 spatial axes is needed. State its axes with "
                    "layout='BT', or pass it through additional_forward_args"
                )
        self._doubt = partial(
            doubt, layouts, shapes, names, " when you call fullgrad.decompose" * decomposed
        )
        if (unclear := self._doubt()) is not None:
            raise LayoutError(unclear)
        self._layouts, self._shapes, self._batch, self._chosen = layouts, shapes, batch, chosen
        self._decomposed, self._along = decomposed, along
        self._may_be_empty = may_be_empty
        self._located = 0
        self._without = 0
        # Many operations share their axes, as an activation and what it is computed from do.
        self._known: dict[tuple[Any, ...], Location] = {}
        self._unknown: LayoutError | None = None

    def of(
        self, axes: Axes | None, kind: Kind, module: str, op: str, shape: Sequence[int]
    ) -> Location:
        """Where a bias term lies; empty if it does not count or has no spatial position.

        Terms are asked for from the last to the first.
        """
        if not self._chosen.wants(kind, module):
            return []
        location = self._known.get((axes, tuple(shape)))
        if location is None:
            try:
                found = placements_for(
                    axes,
                    module,
                    op,
                    shape,
                    self._batch,
                    self._layouts.grids,
                    decomposed=self._decomposed,
                    along=self._along,
                )
            except LayoutError as error:
                self._unknown = error  # terms come last to first: the first is where it was lost
                return []
            location = self._known[axes, tuple(shape)] = [
                (i, p) for i, p in enumerate(found) if p is not None
            ]
        if location:
            self._located += 1
        elif len(shape) > 2:
            self._without += 1
        return location

    def of_layer(self, axes: Axes, module: str, shape: Sequence[int]) -> Location:
        """Where a module's output lies; empty if that is not known or it has no positions."""
        grids = self._layouts.grids
        try:
            found = placements_for(
                axes, module, "output", shape, self._batch, grids, along=self._along
            )
        except LayoutError:
            return []
        return [(i, p) for i, p in enumerate(found) if p is not None]

    def of_input(self, place: int) -> Location:
        """Where the term of an input lies: on its own grid."""
        grid = self._layouts.grids[place : place + 1]
        axes, shape = self._layouts.axes[place], self._shapes[place]
        (placement,) = placements_for(
            axes, "", "input", shape, self._batch, grid, along=self._along
        )
        assert placement is not None
        return [(place, placement)]

    def _may_be_last(self) -> bool:
        """Whether an input may as well have its channels last, by its shape, and nothing tells."""
        return any(
            known is None and (len(shape) == 3 or shape[-1] in USUAL_CHANNELS)
            for known, shape in zip(self._layouts.known, self._shapes, strict=True)
        )

    def check(self) -> None:
        """Refuse to make a map of terms that are not on the grid.

        Raises:
            LayoutError: it is not known where a term's numbers lie, no term has positions where a
                map of nothing is not wanted, or so few that the layout is in doubt.
        """
        if self._unknown is not None:
            raise self._unknown
        if self._without > self._located and self._may_be_last():
            raise LayoutError(
                f"{self._without} terms with more than two axes have no spatial position, only "
                f"{self._located} have one: {self._doubt(certain=True)}"
            )
        if not (self._chosen.input or self._located or self._may_be_empty):
            raise LayoutError("no term of this selection has positions, so there is no map")

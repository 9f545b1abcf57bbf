"""Where the terms of one backward pass go for the complete map: onto a grid, or elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fullgrad.axes.coordinates import Table
from fullgrad.axes.spread import MassPlacement, box_read, cells_along
from fullgrad.engine import verification
from fullgrad.engine.backward import product, widen
from fullgrad.engine.pipeline import Totals, input_term
from fullgrad.engine.request import Traced
from fullgrad.engine.terms import Term
from fullgrad.errors import CompletenessError
from fullgrad.maps.aggregation import Aggregate
from fullgrad.maps.location import Location, Locator
from fullgrad.maps.mass import Put, put, spread
from fullgrad.maps.selection import Selection

FUSED, LEFT_OUT, REFERENCE = "fused", "left out", "reference"
_REMAINDER = 16  # a box that leaves less than this part of another uncovered at its ends is all


@dataclass(frozen=True, slots=True)
class Explained:
    """What one backward pass makes: see :class:`fullgrad.maps.complete.CompleteMap`."""

    maps: tuple[Tensor, ...]
    stages: dict[str, Tensor]
    output: Tensor
    residual: Tensor
    target: Tensor | None
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _OneCell:
    """A term whose numbers all lie in one cell, kept until it is known whether that is all."""

    stage: str
    location: Location
    parts: tuple[Put, ...]
    boxes: tuple[Table, ...]


class Complete:
    """Puts each term on its grid the moment it comes, and lets the term go.

    Args:
        traced: the recorded forward.
        chosen: the terms that are drawn.
        placement: how cells are divided among places.
        references: where each input's term is split, in its shape; None: at zero.
    """

    def __init__(
        self,
        traced: Traced,
        chosen: Selection,
        placement: MassPlacement,
        references: Sequence[Tensor] | None = None,
    ) -> None:
        self._traced, self._chosen, self._references = traced, chosen, references
        shapes = [x.shape for x in traced.prepared.leaves]
        along = partial(cells_along, placement=placement)
        self._batch = len(traced.output)
        self._locator = Locator(
            traced.layouts, shapes, self._batch, chosen, along=along, may_be_empty=True
        )
        self._sums = [Aggregate(g.sizes, spread) for g in traced.layouts.grids]
        self._stages: dict[str, Tensor] = {}
        self._order: list[str] = []  # of the stages, backward, with repetitions
        self._one_cell: list[_OneCell] = []

    def term(self, term: Term) -> Tensor:
        """Put a term where it lies, and return its sums for each sample, shape (B,), float64."""
        entry = term.entry
        axes, kind = self._traced.axes_of(entry), entry.bias.kind
        stage = entry.module.split(".")[0]
        self._order.append(stage)
        location = self._locator.of(axes, kind, entry.module, entry.op, entry.shape)
        sums: list[Tensor] = []
        read: list[list[Put]] = []
        whole = any(p.by_sample for _, p in location)
        for gradient, bias, samples, own in term.parts(whole=whole):
            value = product(gradient, bias, term.may_be_infinite, overwrite=own)
            sums.append(term.sums(value, samples))
            if location:
                read.append([put(value, p) for _, p in location])
        total = torch.cat(sums) if len(sums) > 1 else sums[0]
        if not location:
            wanted = self._chosen.wants(kind, entry.module)
            self._count(stage if wanted else LEFT_OUT, total)
            return total
        parts = tuple(_together(p) for p in zip(*read, strict=True))
        self._count_outside(stage, total, parts)
        if location[0][1].one_cell:
            assert axes is not None
            grids = self._traced.layouts.grids
            boxes = tuple(box_read(axes, grids[i], self._batch) for i, _ in location)
            self._one_cell.append(_OneCell(stage, location, parts, boxes))
        else:
            self._add(location, parts)
        return total

    def _add(self, location: Location, parts: tuple[Put, ...]) -> None:
        for (grid, placement), part in zip(location, parts, strict=True):
            self._sums[grid].add(part.cells, placement.cells)

    def _count(self, stage: str, sums: Tensor) -> None:
        """Count numbers without a place."""
        known = self._stages.get(stage)
        sums = sums.to(self._traced.output.device)
        self._stages[stage] = sums if known is None else known + sums

    def _count_outside(self, stage: str, total: Tensor, parts: tuple[Put, ...]) -> None:
        """Count what a term has beside its cells: on several grids, or on none."""
        fused = [p.fused for p in parts if p.fused is not None]
        for part in fused:
            self._count(FUSED, part)
        if any(p.nowhere is None for p in parts):
            return
        if len(parts) == 1:
            assert parts[0].nowhere is not None
            self._count(stage, parts[0].nowhere)
            return
        placed = [p.cells.flatten(1).sum(1) for p in parts]
        self._count(stage, total - torch.stack([*placed, *fused]).sum(0))

    def _place_single_cells(self) -> None:
        """Draw the terms of one cell that read a proper part of the grid.

        Proper is what leaves out something that other terms of one cell read: a model that reads
        a part of its input alone has its dense layers elsewhere all the same.
        """
        hulls: dict[int, Table] = {}
        for one in self._one_cell:
            for (grid, _), box in zip(one.location, one.boxes, strict=True):
                hull = hulls.setdefault(grid, box)
                low, high = np.fmin(hull[0], box[0]), np.fmax(hull[1], box[1])
                hulls[grid] = np.stack([low, high])
        for one in self._one_cell:
            for (grid, placement), part, box in zip(
                one.location, one.parts, one.boxes, strict=True
            ):
                proper = torch.from_numpy(_proper(box, hulls[grid])).to(part.cells.device)
                mask = proper.view(-1, *[1] * (part.cells.dim() - 1))
                if bool(proper.any()):
                    self._sums[grid].add(part.cells * mask, placement.cells)
                if not bool(proper.all()):
                    self._count(one.stage, part.cells.flatten(1).sum(1) * ~proper)

    def result(self, totals: Totals) -> Explained:
        """The maps and what is elsewhere, the sum of each sample proved.

        Raises:
            LayoutError: where a term's numbers lie is not known.
            CompletenessError: the numbers at a sample's places are not its own.
        """
        self._locator.check()
        self._place_single_cells()
        leaves = self._traced.prepared.leaves
        if not self._chosen.input:
            self._count(LEFT_OUT, totals.input_sums)
        output = self._traced.output.detach()
        drawn = []
        for i, (grid, sums) in enumerate(zip(self._traced.layouts.grids, self._sums, strict=True)):
            total = sums.map()
            if self._chosen.input:  # last, so that a crop's terms are added in the same order
                ((_, placement),) = self._locator.of_input(i)
                gradient, x = totals.input_gradients[i], leaves[i].detach()
                if self._references is not None:
                    reference = self._references[i]
                    part = put(input_term(gradient, reference), placement).cells
                    self._count(REFERENCE, part.flatten(1).sum(1))
                    x = x - reference
                own = put(input_term(gradient, x), placement).cells
                total = own if total is None else total + own
            if total is None:
                total = output.new_zeros(self._batch, 1, *grid.sizes, dtype=torch.float64)
            drawn.append(total)
        names = dict.fromkeys([*reversed(self._order), FUSED, REFERENCE, LEFT_OUT])
        stages = {name: self._stages[name] for name in names if name in self._stages}
        parts = [*(m.flatten(1).sum(1).to(output.device) for m in drawn), *stages.values()]
        residual, _ = verification.balance(output, parts)
        if not verification.holds(residual, totals.scale, totals.tolerance):
            worst = float((residual.abs() / totals.scale).max())
            raise CompletenessError(
                "the terms sum to the output, but not those that lie at each sample's places "
                f"(relative residual {worst:.1e}): the model reads one sample's numbers as "
                "another's. Explain one sample at a time."
            )
        dtype = widen(output).dtype
        return Explained(
            maps=tuple(m.to(dtype) for m in drawn),
            stages=stages,
            output=output,
            residual=residual,
            target=self._traced.selected.index,
            names=self._traced.prepared.names,
        )


def _proper(box: Table, hull: Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether each sample's box leaves out a part of another, boxes of shape (2, axes, B)."""
    size = hull[1] - hull[0] + 1
    left_out = np.stack([box[0] - hull[0], hull[1] - box[1]])
    return np.asarray((left_out * _REMAINDER >= size).any((0, 1)) & (left_out > 0).any((0, 1)))


def _together(parts: tuple[Put, ...]) -> Put:
    """A term that was read some samples at a time."""
    if len(parts) == 1:
        return parts[0]
    fused = [p.fused for p in parts if p.fused is not None]
    nowhere = [p.nowhere for p in parts if p.nowhere is not None]
    return Put(
        torch.cat([p.cells for p in parts]),
        torch.cat(fused) if fused else None,
        torch.cat(nowhere) if nowhere else None,
    )


def in_order(lists: Sequence[Sequence[str]]) -> list[str]:
    """The names of several backward passes' stages, in order of execution, those without one last.

    Args:
        lists: names of each pass, in its order. A pass may lack some stages.
    """
    merged: list[str] = []
    last = (FUSED, REFERENCE, LEFT_OUT)
    for names in lists:
        place = 0
        for name in names:
            if name in last:
                continue
            if name in merged:
                place = merged.index(name) + 1
            else:
                merged.insert(place, name)
                place += 1
    return [*merged, *(n for n in last if any(n in names for names in lists))]

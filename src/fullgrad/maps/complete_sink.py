"""Where the terms of one backward pass go for the complete map: onto a grid, or elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fullgrad.axes.broadcasting import resolved
from fullgrad.axes.coordinates import Table
from fullgrad.axes.placement import Placement
from fullgrad.axes.spread import MassPlacement, box_read, cells_along
from fullgrad.engine import verification
from fullgrad.engine._cuts import Cut
from fullgrad.engine.backward import product, widen
from fullgrad.engine.pipeline import Totals, input_term
from fullgrad.engine.request import Traced
from fullgrad.engine.terms import Term
from fullgrad.errors import CompletenessError
from fullgrad.maps.aggregation import Aggregate
from fullgrad.maps.location import Location, Locator
from fullgrad.maps.mass import Put, put, spread
from fullgrad.maps.selection import Selection

FUSED, LEFT_OUT, REFERENCE, INPUT = "fused", "left out", "reference", "input"
_REMAINDER = 16  # a box that leaves less than this part of another uncovered at its ends is all


@dataclass(frozen=True, slots=True)
class Explained:
    """What one backward pass makes: see :class:`fullgrad.maps.complete.CompleteMap`.

    Args:
        rounding: in half precision, what its sums may be off, relative to the sizes of the terms.
    """

    maps: tuple[Tensor, ...]
    stages: dict[str, Tensor]
    output: Tensor
    residual: Tensor
    target: Tensor | None
    names: tuple[str, ...]
    layers: tuple[str, ...]
    steps: Tensor
    rounding: float = 0.0


@dataclass(frozen=True, slots=True)
class _OneCell:
    """A term whose numbers all lie in one cell, kept until it is known whether that is all."""

    stage: str
    passed: int
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
        falling: whether the last layer counts once, the one before it 4 times, then 9 times, and
            so on, where the map is a mean over layers; else all count alike.
    """

    def __init__(
        self,
        traced: Traced,
        chosen: Selection,
        placement: MassPlacement,
        references: Sequence[Tensor] | None = None,
        falling: bool = False,
    ) -> None:
        self._traced, self._chosen, self._references = traced, chosen, references
        self._falling = falling
        shapes = [x.shape for x in traced.prepared.leaves]
        along = partial(cells_along, placement=placement)
        self._batch = len(traced.output)
        self._locator = Locator(
            traced.layouts,
            shapes,
            traced.prepared.names,
            self._batch,
            chosen,
            along=along,
            may_be_empty=True,
        )
        self._sums = [Aggregate(g.sizes, spread) for g in traced.layouts.grids]
        self._stages: dict[str, Tensor] = {}
        self._order: list[str] = []  # of the stages, backward, with repetitions
        self._one_cell: list[_OneCell] = []
        self._layers: list[str] = []  # that have counted, see cut()
        self._over = [Aggregate(g.sizes, spread) for g in traced.layouts.grids]  # / their number
        self._over_stages: dict[str, Tensor] = {}
        self._so_far = torch.zeros(self._batch, dtype=torch.float64, device=traced.output.device)
        self._size_so_far = torch.zeros_like(self._so_far)

    def cut(self, cut: Cut, gradient: Tensor) -> None:
        """Count a layer where its numbers and the terms behind it are the output again.

        Layers that something goes around, without positions, or overwritten, do not count.
        """
        if cut.axes is None or cut.overwritten:
            return
        axes = resolved(cut.axes, self._traced.tape.bindings)
        location = self._locator.of_layer(axes, cut.module, cut.value.shape)
        if not location or location[0][1].one_cell:
            return
        gradient, value = widen(gradient), widen(cut.value)
        away = None
        if cut.reference is not None:  # what it returned on the baseline is not on the map
            reference = widen(cut.reference)
            away = _sums([put(product(gradient, reference, False), p) for _, p in location])
            value = value - reference
        parts = tuple(put(product(gradient, value, False), p) for _, p in location)
        rest = [n for p in parts for n in (p.fused, p.nowhere) if n is not None]
        total = _sums(parts) if away is None else _sums(parts) + away
        total = total.to(self._so_far.device)
        output = self._traced.output.detach().double()
        dtypes = {*self._traced.tape.dtypes, self._traced.output.dtype, value.dtype}
        tolerance = verification.tolerance_for(dtypes, output.device)
        gap = output - self._so_far - total
        size = output.abs() + self._size_so_far + total.abs()
        if not verification.holds(gap, size, tolerance):
            return
        self._layers.append(cut.module)
        weight = self._weight(len(self._layers))
        if not self._chosen.input:
            _gather(self._over_stages, LEFT_OUT, total * weight)
            return
        for (grid, placement), part in zip(location, parts, strict=True):
            self._over[grid].add(part.cells * weight, placement.cells)
        if away is not None:
            _gather(self._over_stages, REFERENCE, away * weight)
        if rest:
            name = cut.module.split(".")[0]
            _gather(self._over_stages, name, torch.stack(rest).sum(0) * weight)

    def _weight(self, layer: int) -> int:
        """How often a layer counts, the last one being number 1."""
        return layer**2 if self._falling else 1

    def _weights(self, layers: int) -> int:
        """How often that many layers count together, from the last one on."""
        return sum(self._weight(i) for i in range(1, layers + 1))

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
        self._so_far = self._so_far + total.to(self._so_far.device)
        self._size_so_far = self._size_so_far + total.abs().to(self._so_far.device)
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
            self._one_cell.append(_OneCell(stage, len(self._layers), location, parts, boxes))
        else:
            self._add(location, parts)
        return total

    def _add(self, location: Location, parts: tuple[Put, ...]) -> None:
        for (grid, placement), part in zip(location, parts, strict=True):
            self._draw(grid, part.cells, placement, len(self._layers))

    def _draw(self, grid: int, cells: Tensor, placement: Placement, passed: int) -> None:
        """Count cells: in each layer's map but those of layers that had come before."""
        if passed:
            self._over[grid].add(cells * -self._weights(passed), placement.cells)
        self._sums[grid].add(cells, placement.cells)

    def _count(self, stage: str, sums: Tensor, passed: int | None = None) -> None:
        """Count numbers without a place."""
        sums = sums.to(self._traced.output.device)
        passed = len(self._layers) if passed is None else passed
        if passed:
            _gather(self._over_stages, stage, sums * -self._weights(passed))
        _gather(self._stages, stage, sums)

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
                known = _proper(box, hulls[grid])
                proper = torch.from_numpy(known).to(part.cells.device)
                mask = proper.view(-1, *[1] * (part.cells.dim() - 1))
                if known.any():
                    self._draw(grid, part.cells * mask, placement, one.passed)
                if not known.all():
                    sums = part.cells.flatten(1).sum(1) * ~proper
                    self._count(one.stage, sums, one.passed)

    def _rounding(self) -> float:
        """What sums may be off if the model computes in half precision, else 0."""
        output = self._traced.output
        dtypes = {*self._traced.tape.dtypes, output.dtype}
        half = dtypes & {torch.float16, torch.bfloat16}
        return verification.tolerance_for(dtypes, output.device) if half else 0.0

    def result(self, totals: Totals) -> Explained:
        """The maps and what is elsewhere, the sum of each sample proved.

        Raises:
            LayoutError: where a term's numbers lie is not known.
            CompletenessError: the numbers at a sample's places are not its own.
        """
        self._locator.check()
        self._place_single_cells()
        leaves = self._traced.prepared.leaves
        layers = 1 + len(self._layers)  # the input is the first layer
        weight, count = self._weight(layers), self._weights(layers)
        if not self._chosen.input:
            _gather(self._over_stages, LEFT_OUT, totals.input_sums * weight)
        output = self._traced.output.detach()
        drawn = []
        for i, (grid, sums) in enumerate(zip(self._traced.layouts.grids, self._sums, strict=True)):
            if self._chosen.input:  # last, so that a crop's terms are added in the same order
                ((_, placement),) = self._locator.of_input(i)
                gradient, x = totals.input_gradients[i], leaves[i].detach()
                if self._references is not None:
                    reference = self._references[i]
                    part = put(input_term(gradient, reference), placement).cells
                    _gather(self._over_stages, REFERENCE, part.flatten(1).sum(1) * weight)
                    x = x - reference
                own = put(input_term(gradient, x), placement)
                self._over[i].add(own.cells * weight, placement.cells)
            total, over = sums.map(), self._over[i].map()
            if over is not None:
                over = over / count if count > 1 else over
                total = over if total is None else total + over
            if total is None:
                total = output.new_zeros(self._batch, 1, *grid.sizes, dtype=torch.float64)
            drawn.append(total)
        for name, value in self._over_stages.items():
            _gather(self._stages, name, value.to(output.device) / count)
        names = in_order([[*reversed(self._order), *self._stages]])
        stages = {name: self._stages[name] for name in names if name in self._stages}
        parts = [*(m.flatten(1).sum(1).to(output.device) for m in drawn), *stages.values()]
        residual, _ = verification.balance(output, parts)
        if not verification.holds(residual, totals.scale, totals.tolerance):
            worst = float((residual.abs() / totals.scale).max())
            raise CompletenessError(
                "the terms sum to the output, but not those that lie at each sample's places "
                f"(relative residual {worst:.1e}): the model reads one sample's numbers as "
                "another's. Explain one sample at a time, with batch_size=1."
            )
        dtype = widen(output).dtype
        return Explained(
            maps=tuple(m.to(dtype) for m in drawn),
            stages=stages,
            output=output,
            residual=residual,
            target=self._traced.selected.index,
            names=self._traced.prepared.names,
            layers=(INPUT, *reversed(self._layers)),
            steps=torch.ones(output.shape, dtype=torch.int64, device=output.device),
            rounding=self._rounding(),
        )


def _sums(parts: Sequence[Put]) -> Tensor:
    """Everything that was put, for each sample."""
    beside = [n for p in parts for n in (p.fused, p.nowhere) if n is not None]
    return torch.stack([p.cells.flatten(1).sum(1) for p in parts] + beside).sum(0)


def _gather(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums[name] + value.to(sums[name].device) if name in sums else value


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

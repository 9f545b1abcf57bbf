"""Axes of several operands together: sums with broadcasting, joins, and what they tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fullgrad.axes.algebra import (
    NOWHERE,
    Atom,
    Axes,
    Coordinate,
    Group,
    coordinate,
    fresh,
    merged,
    with_groups,
)


@dataclass(eq=False, slots=True)
class Bindings:
    """What one recording learns of axes on its way.

    Args:
        found: fresh atoms that turned out to be positions, when a sum with positions told so.
        reached: single places (each selection's coordinate) in the order in which something was
            first computed there.
    """

    found: dict[Atom, tuple[Coordinate | None, ...]] = field(default_factory=dict)
    reached: dict[Coordinate, int] = field(default_factory=dict)

    def visit(self, axes: Axes) -> None:
        """Something was computed element by element at the single places of an activation."""
        for c in axes.coordinates:
            if c is not None and not c.atoms:
                self.reached.setdefault(c, len(self.reached))

    def newest(self, there: Sequence[Coordinate]) -> Coordinate:
        """Of the coordinates of one sum's operands, the one that counts.

        A recurrent step puts what it remembers, at earlier places, together with the input that
        it reads: the result lies at the latter, which was reached last or is reached now.
        """
        if len(there) > 1 and all(not c.atoms for c in there):
            return max(there, key=lambda c: self.reached.get(c, len(self.reached)))
        return there[0]


def combined(parts: Sequence[Axes], shape: Sequence[int], bindings: Bindings) -> Axes | None:
    """After an element-wise operation with broadcasting.

    Where one operand's axis holds positions and another's holds something fresh of the same size,
    the fresh one is positions as well.
    """
    dims = len(shape)
    candidates = sorted(parts, key=lambda p: (not p.placed, p.shape != tuple(shape)))
    groups: list[Group] = []
    for d, size in enumerate(shape):
        chosen: Group | None = None
        for p in candidates:
            i = d - (dims - len(p.groups))
            if i < 0 or (p.shape[i] != size):
                continue
            group = p.groups[i]
            if chosen is None:
                chosen = group
            elif chosen and group and chosen != group and not any(a.batch for a in chosen):
                _bind(candidates[0], chosen, group, p, bindings)
        groups.append(fresh(size) if chosen is None else chosen)
    left = {a for g in groups for a in g}
    rank = max(len(p.coordinates) for p in parts)
    coordinates = []
    for k in range(rank):
        there = [p.coordinates[k] for p in candidates]
        whole = [c for c in there if c is not None and all(a in left for a in c.atoms)]
        coordinates.append(bindings.newest(whole) if whole else None)
    return united(Axes(tuple(groups), tuple(coordinates)), candidates)


def united(axes: Axes, others: Sequence[Axes | None], without: int | None = None) -> Axes:
    """Axes that also lie where operands on other grids do, whose axes are of the same sizes.

    Args:
        axes: of the result.
        others: operands, broadcast to the result.
        without: an axis along which the operands are joined.
    """
    coordinates = list(axes.coordinates)
    dims = len(axes.groups)
    for other in others:
        if other is None or not any(
            c is not None and coordinates[k] is None for k, c in enumerate(other.coordinates)
        ):
            continue
        twins: dict[Atom, Atom] = {}
        for d, group in enumerate(axes.groups):
            i = d - (dims - len(other.groups))
            if d != without and i >= 0:
                theirs = other.groups[i]
                if [a.size for a in theirs] == [a.size for a in group]:
                    twins.update(zip(theirs, group, strict=True))
        for k, c in enumerate(other.coordinates):
            if coordinates[k] is None and c is not None and all(a in twins for a in c.atoms):
                atoms = tuple(twins[a] for a in c.atoms)
                coordinates[k] = Coordinate(c.extent, atoms, c.places) if atoms else c
    return replace(axes, coordinates=tuple(coordinates))


def _bind(placed: Axes, known: Group, other: Group, holder: Axes, bindings: Bindings) -> None:
    if holder.placed or not any(c and any(a in known for a in c.atoms) for c in placed.coordinates):
        return
    if len(known) == len(other) and all(
        a.size == b.size for a, b in zip(known, other, strict=True)
    ):
        twins = dict(zip(known, other, strict=True))
    elif len(other) == 1:
        single = merged(Axes((known,), placed.coordinates), 0)
        if single is None:
            return
        placed, twins = single, {single.groups[0][0]: other[0]}
    else:
        return
    found = tuple(
        Coordinate(c.extent, tuple(twins[a] for a in c.atoms), c.places)
        if c is not None and all(a in twins for a in c.atoms)
        else None
        for c in placed.coordinates
    )
    if any(c is not None for c in found):
        for atom in twins.values():
            bindings.found.setdefault(atom, found)


def resolved(axes: Axes, bindings: Bindings) -> Axes:
    """With what later operations told about its atoms."""
    if axes.placed or not bindings.found:
        return axes
    atoms = {a for g in axes.groups for a in g}
    for atom in atoms:
        found = bindings.found.get(atom)
        if found and all(c is None or all(a in atoms for a in c.atoms) for c in found):
            return replace(axes, coordinates=found)
    return axes


# -- joins ------------------------------------------------------------------------------------


def _nowhere(c: Coordinate) -> bool:
    return c.places is not None and not bool((c.places != NOWHERE).any())


def joined(parts: Sequence[Axes | None], sizes: Sequence[int], dim: int) -> Axes | None:
    """After a concatenation along one axis; constants (None) lie nowhere."""
    reference = next((p for p in parts if p is not None and p.placed), None)
    reference = reference or next((p for p in parts if p is not None), None)
    if reference is None:
        return None
    singles = [None if p is None else merged(p, dim) for p in parts]
    whole = Atom(sum(sizes))
    if any(
        p is not None and (s is None or any(a.batch for a in s.groups[dim]))
        for p, s in zip(parts, singles, strict=True)
    ):
        return None
    coordinates: list[Coordinate | None] = []
    for k, kept in enumerate(reference.coordinates):
        along: list[Coordinate | None] = []
        for s in singles:
            c = None if s is None else s.coordinates[k]
            atoms = () if s is None else s.groups[dim]
            if c is not None and (not atoms or atoms[0] not in c.atoms or _nowhere(c)):
                c = None
            along.append(c)
        there = [c for c in along if c is not None]
        if not there:
            coordinates.append(kept)
            continue
        if any(len(c.atoms) > 1 or c.extent != there[0].extent for c in there):
            return None
        pieces = [
            np.full(n, NOWHERE) if c is None else c.values()
            for c, n in zip(along, sizes, strict=True)
        ]
        coordinates.append(coordinate(there[0].extent, (whole,), np.concatenate(pieces)))
    groups = [*reference.groups]
    groups[dim] = (whole,)
    whole_axes = with_groups(Axes(tuple(groups), tuple(coordinates)), groups)
    return united(whole_axes, singles, dim)


def stacked(parts: Sequence[Axes | None], dim: int) -> Axes | None:
    """After stacking along a new axis, which may bring back what ``selected`` took apart."""
    known = [p for p in parts if p is not None]
    if not known:
        return None
    first, new = known[0], Atom(len(parts))
    coordinates: list[Coordinate | None] = []
    for k, c in enumerate(first.coordinates):
        numbers = [None if p is None else p.coordinates[k] for p in parts]
        there = [n for n in numbers if n is not None]
        if there and all(n.atoms == () and n.extent == there[0].extent for n in there):
            values = np.array([NOWHERE if n is None else int(n.values()) for n in numbers])
            coordinates.append(coordinate(there[0].extent, (new,), values))
        else:
            coordinates.append(c)
    groups = (*first.groups[:dim], (new,), *first.groups[dim:])
    apart = [Axes((*p.groups[:dim], (), *p.groups[dim:]), p.coordinates) for p in known]
    return united(Axes(groups, tuple(coordinates)), apart, dim)

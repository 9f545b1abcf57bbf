"""Axes of several operands together: sums with broadcasting, joins, and what they tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fullgrad.axes import coordinates as places
from fullgrad.axes.algebra import Axes, fresh, has_batch, merged, samples
from fullgrad.axes.coordinates import (
    HIGH,
    LOW,
    NOWHERE,
    Atom,
    Coordinate,
    Group,
    Indices,
    Table,
    count,
)
from fullgrad.axes.reading import Reading


@dataclass(eq=False, slots=True)
class Bindings:
    """What one recording learns of axes on its way.

    Args:
        found: fresh atoms that turned out to be places, when a sum with places told so.
        reached: single places (each selection's coordinate) in the order in which something was
            first computed there.
        readings: which axes were read as positions or channels, in order of execution.
    """

    found: dict[Atom, tuple[Coordinate | None, ...]] = field(default_factory=dict)
    reached: dict[Coordinate, int] = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)

    def visit(self, axes: Axes) -> None:
        """Something was computed element by element at the single places of an activation."""
        for c in axes.coordinates:
            if c is not None and not c.atoms:
                self.reached.setdefault(c, len(self.reached))

    def newest(self, there: Sequence[Coordinate]) -> Coordinate:
        """The one that counts among the single places of one sum's operands.

        A recurrent step puts what it remembers, at earlier places, together with the input that
        it reads: the result lies at the latter, which was reached last or is reached now.
        """
        return max(there, key=lambda c: self.reached.get(c, len(self.reached)))


# -- the same axes under other atoms ----------------------------------------------------------


def aligned_with(groups: Sequence[Group], part: Axes, without: int | None = None) -> Axes:
    """An operand whose axes hold the atoms of the result, where their sizes agree.

    Args:
        groups: of the result.
        part: the operand, whose last axes are the result's last axes.
        without: an axis that is left alone.
    """
    ahead = len(groups) - len(part.groups)
    twins: dict[Atom, Atom] = {}
    for d, group in enumerate(groups):
        theirs = part.groups[d - ahead] if d >= ahead else ()
        if d == without or theirs == group or count(theirs) != count(group) or not theirs:
            continue
        if [a.size for a in theirs] != [a.size for a in group]:
            wide, their_wide = ([a for a in g if a.size > 1] for g in (group, theirs))
            if [a.size for a in their_wide] == [a.size for a in wide]:
                twins.update(zip(their_wide, wide, strict=True))
                continue
            if len(group) != 1 or has_batch(theirs):
                continue
            single = merged(part, d - ahead)
            assert single is not None
            part, theirs = single, single.groups[d - ahead]
        twins.update(zip(theirs, group, strict=True))
    return _renamed(part, twins)


def _renamed(axes: Axes, twins: Mapping[Atom, Atom]) -> Axes:
    """The same axes with other atoms of the same sizes."""
    if not twins:
        return axes
    return Axes(
        tuple(tuple(twins.get(a, a) for a in g) for g in axes.groups),
        tuple(c and _with(c, twins) for c in axes.coordinates),
    )


def _with(c: Coordinate, twins: Mapping[Atom, Atom]) -> Coordinate:
    if not any(a in twins for a in c.atoms):
        return c
    return c.now(tuple(twins.get(a, a) for a in c.atoms), c.table, c.pooled, c.line)


def _lined(there: Sequence[Coordinate]) -> Coordinate | None:
    """Places on the same line, together: the same centers, and intervals that hold all."""
    first = there[0]
    if first.line is None or any(c.line != first.line or c.atoms != first.atoms for c in there):
        return None
    table = first.table.copy()
    for c in there[1:]:
        np.minimum(table[LOW], c.table[LOW], out=table[LOW])
        np.maximum(table[HIGH], c.table[HIGH], out=table[HIGH])
    return first.now(first.atoms, table, None, first.line)


def _union(there: Sequence[Coordinate], atoms: Iterable[Atom]) -> Coordinate:
    """Operands' places along one axis of an input, together."""
    there = [c for c in there if not c.pooled] or there
    first = there[0]
    if len(there) == 1 or all(c is first for c in there[1:]):
        return first
    lined = _lined(there)
    if lined is not None:
        return lined
    used = tuple(a for a in atoms if any(a in c.atoms for c in there))
    table = places.summed([places.over(c, used) for c in there])
    return places.simplified(first.now(used, table, first.pooled))


def combined(parts: Sequence[Axes], shape: Sequence[int], bindings: Bindings) -> Axes | None:
    """After an element-wise operation with broadcasting.

    Numbers read what any operand reads there. Where one operand's axis holds places and another's
    holds something fresh of the same size, the fresh one holds places as well.
    """
    dims = len(shape)
    parts = [_evenly_grouped(p, parts, shape) for p in parts]
    candidates = sorted(parts, key=lambda p: (not p.placed, p.shape != tuple(shape)))
    groups: list[Group] = []
    for d, size in enumerate(shape):
        chosen: Group | None = None
        for p in candidates:
            i = d - (dims - len(p.groups))
            if i < 0 or p.shape[i] != size:
                continue
            group = p.groups[i]
            if chosen is None:
                chosen = group
            elif chosen and group and chosen != group and not has_batch(chosen):
                _bind(candidates[0], chosen, group, p, bindings)
        groups.append(fresh(size) if chosen is None else chosen)
    left = [a for g in groups for a in g]
    aligned = [aligned_with(groups, p) for p in candidates]
    coordinates: list[Coordinate | None] = []
    for k in range(max(len(p.coordinates) for p in parts)):
        there = [c for c in (p.coordinates[k] for p in aligned) if c is not None]
        there = [c for c in there if all(a in left for a in c.atoms)]
        single = [c for c in there if not c.atoms]
        if single and len(single) == len(there) > 1:
            own = [c for p in candidates if (c := p.coordinates[k]) is not None]
            there = [bindings.newest(own)]
        coordinates.append(_union(there, left) if there else None)
    return Axes(tuple(groups), tuple(coordinates))


def _evenly_grouped(part: Axes, parts: Sequence[Axes], shape: Sequence[int]) -> Axes:
    """An operand whose axes are single atoms where another operand's are divided otherwise."""
    for d in range(-len(part.groups), 0):
        sizes = {
            tuple(a.size for a in p.groups[d])
            for p in parts
            if len(p.groups) >= -d and p.shape[d] == shape[d] and p.placed
        }
        if len(sizes) > 1 and part.shape[d] == shape[d]:
            part = merged(part, len(part.groups) + d) or part
    return part


def _bind(placed: Axes, known: Group, other: Group, holder: Axes, bindings: Bindings) -> None:
    if holder.placed or not placed.depends(known):
        return
    if [a.size for a in known] == [a.size for a in other]:
        twins = dict(zip(known, other, strict=True))
    elif len(other) == 1:
        single = merged(Axes((known,), placed.coordinates), 0)
        if single is None:
            return
        placed, twins = single, {single.groups[0][0]: other[0]}
    else:
        return
    found = tuple(
        _with(c, twins) if c is not None and all(a in twins for a in c.atoms) else None
        for c in placed.coordinates
    )
    if any(c is not None for c in found):
        for atom in twins.values():
            bindings.found.setdefault(atom, found)


def resolved(axes: Axes, bindings: Bindings) -> Axes:
    """An activation's axes, with what later operations told about its atoms."""
    if axes.placed or not bindings.found:
        return axes
    atoms = {a for g in axes.groups for a in g}
    for atom in atoms:
        found = bindings.found.get(atom)
        if found and all(c is None or all(a in atoms for a in c.atoms) for c in found):
            return replace(axes, coordinates=found)
    return axes


# -- joins ------------------------------------------------------------------------------------


def joined(parts: Sequence[Axes | None], sizes: Sequence[int], dim: int) -> Axes | None:
    """After a concatenation along one axis.

    Args:
        parts: the operands; None for constants, which have no place.
        sizes: of the operands along the axis.
        dim: the axis.

    Returns:
        None if samples are joined with something else, or operands are divided in ways that do
        not fit together.
    """
    known = [p for p in parts if p is not None]
    if not known:
        return None
    if any(has_batch(p.groups[dim]) for p in known):
        found = _batches_joined(parts, dim)
        if found is not None or any(samples(p.groups[dim]) > 1 for p in known):
            return found
    singles = [p and merged(p, dim) for p in parts]
    if any(s is not None and s.depends(s.groups[dim]) for s in singles):
        # One operand's axis may hold what another axis of another operand holds.
        singles = [s and _renamed(s, {a: Atom(a.size) for a in s.groups[dim]}) for s in singles]
    reference = next((s for s in singles if s and s.placed), None) or next(s for s in singles if s)
    whole = Atom(sum(sizes))
    aligned = [s and aligned_with(reference.groups, s, dim) for s in singles]
    atoms = [a for d, g in enumerate(reference.groups) if d != dim for a in g]
    if any(
        c is not None and not {*atoms, *s.groups[dim]}.issuperset(c.atoms)
        for s in aligned
        if s is not None
        for c in s.coordinates
    ):
        return None
    coordinates = []
    for k in range(len(reference.coordinates)):
        coordinates.append(_joined_along(aligned, sizes, dim, k, whole, atoms))
    groups = (*reference.groups[:dim], (whole,), *reference.groups[dim + 1 :])
    return Axes(groups, tuple(coordinates))


def _joined_along(
    parts: Sequence[Axes | None],
    sizes: Sequence[int],
    dim: int,
    k: int,
    whole: Atom,
    atoms: Sequence[Atom],
) -> Coordinate | None:
    """The places of all operands along one axis of an input, one operand after the other."""
    there = [None if p is None else p.coordinates[k] for p in parts]
    found = [c for c in there if c is not None]
    if not found:
        return None
    own = [() if p is None else p.groups[dim] for p in parts]
    along = any(g and g[0] in c.atoms for g, c in zip(own, there, strict=True) if c is not None)
    if not all(c.pooled for c in found):
        # Context beside channels goes with them; in a row of positions a part has its own place.
        there = [
            None if c is not None and c.pooled and not (along and _partial(c)) else c for c in there
        ]
        found = [c for c in there if c is not None]
    spoken_for = all(
        c is not None or p is None or not _elsewhere(p, found[0].input)
        for p, c in zip(parts, there, strict=True)
    )
    lined = _lined(found) if spoken_for else None
    if lined is not None and lined.atoms[0] in atoms:
        return lined  # channels put side by side
    others = tuple(a for a in atoms if any(a in c.atoms for c in found))
    tables: list[Table | None] = []
    for p, c, group, size in zip(parts, there, own, sizes, strict=True):
        shape = (size, *(a.size for a in others))
        if c is not None:
            table = places.over(c, (*group, *others))
            tables.append(np.broadcast_to(table if group else table[:, None], (3, *shape)))
        elif along or (p is not None and _elsewhere(p, found[0].input)):
            tables.append(np.full((3, *shape), np.nan))
        else:
            tables.append(None)  # without a place of its own it goes with the others
    spoken = [t for t in tables if t is not None]
    if not along and all(places.same(t[:, 0], spoken[0][:, 0]) for t in spoken):
        return found[0].now(others, spoken[0][:, 0], found[0].pooled)
    filled = [
        np.broadcast_to(places.united([s[:, :1] for s in spoken]), (3, n, *spoken[0].shape[2:]))
        if t is None
        else t
        for t, n in zip(tables, sizes, strict=True)
    ]
    table = np.concatenate(filled, 1)
    return places.simplified(found[0].now((whole, *others), table))


def _partial(c: Coordinate) -> bool:
    """Whether numbers that were read together are of a window, or of a part of the axis."""
    return c.pooled == "window" or not c.whole


def _elsewhere(axes: Axes, number: int) -> bool:
    """Whether an operand has places, but none on an input."""
    return axes.placed and all(c is None or c.input != number for c in axes.coordinates)


def _batches_joined(parts: Sequence[Axes | None], dim: int) -> Axes | None:
    """Batches put one after the other: a new atom says which."""
    first = parts[0]
    if first is None:
        return None
    tiles: list[int] = []
    prepared: list[Axes] = []
    inner: Group | None = None
    for p in parts:
        if p is None:
            return None
        group = p.groups[dim]
        at = next((i for i, a in enumerate(group) if a.batch), None)
        if at is None:
            return None
        outer, rest = group[:at], group[at:]
        if inner is None:
            inner = rest
        if [a.size for a in rest] != [a.size for a in inner]:
            return None
        tile = (Atom(count(outer)),)
        changed = tuple(
            c and places.merged(c, outer, tile[0]) if outer else c for c in p.coordinates
        )
        apart = Axes((*p.groups[:dim], tile, rest, *p.groups[dim + 1 :]), changed)
        prepared.append(_renamed(apart, dict(zip(rest, inner, strict=True))))
        tiles.append(count(outer))
    together = joined(prepared, tiles, dim)
    if together is None or inner is None:
        return None
    groups = together.groups
    group = (*groups[dim], *groups[dim + 1])
    return Axes((*groups[:dim], group, *groups[dim + 2 :]), together.coordinates)


def overwritten(axes: Axes | None, source: Axes, rows: Indices) -> Axes | None:
    """After some rows were overwritten with rows of something else, such as patches of an image.

    Args:
        axes: before; None of a constant.
        source: whose rows, along all its axes but the last, are written.
        rows: for each row which row of the source it holds now, ``NOWHERE`` for its own.

    Returns:
        None if the samples change places, or numbers that were read together are written.
    """
    lead = tuple(a for g in source.groups[:-1] for a in g)
    batch = next((a for a in lead if a.batch), Atom(1, batch=True))
    if axes is None:
        groups: tuple[Group, ...] = ((batch,), *((Atom(n),) for n in rows.shape[1:]), (Atom(1),))
        groups = (*groups[:-1], source.groups[-1])
        axes = Axes(groups, (None,) * len(source.coordinates))
    old = tuple(a for g in axes.groups[:-1] for a in g)
    flat, written = rows.reshape(-1), rows.reshape(-1) != NOWHERE
    samples_of = [
        np.broadcast_to(
            np.arange(batch.size).reshape([-1 if a.batch else 1 for a in atoms]),
            [a.size for a in atoms],
        ).reshape(-1)
        if any(a.batch for a in atoms)
        else np.zeros(count(atoms), np.int64)
        for atoms in (old, lead)
    ]
    if sum(a.batch for a in lead) > 1 or count([a for a in old if a.batch]) != batch.size:
        return None
    if not np.array_equal(samples_of[0][written], samples_of[1][flat[written]]):
        return None
    coordinates: list[Coordinate | None] = []
    for before, new in zip(axes.coordinates, source.coordinates, strict=True):
        there = [(c, atoms) for c, atoms in ((before, old), (new, lead)) if c is not None]
        if any(c.pooled or not {*atoms}.issuperset(c.atoms) for c, atoms in there):
            return None
        tables = [
            np.full((3, count(atoms)), np.nan)
            if c is None
            else places.over(c, atoms).reshape(3, -1)
            for c, atoms in ((before, old), (new, lead))
        ]
        table = np.where(written, tables[1][:, np.maximum(flat, 0)], tables[0])
        shaped = table.reshape(3, *(a.size for a in old))
        coordinates.append(places.simplified(there[0][0].now(old, shaped)) if there else None)
    return Axes(axes.groups, tuple(coordinates))


def stacked(parts: Sequence[Axes | None], dim: int) -> Axes | None:
    """After stacking along a new axis, which may bring back what ``selected`` took apart."""
    apart = [p and Axes((*p.groups[:dim], (), *p.groups[dim:]), p.coordinates) for p in parts]
    return joined(apart, [1] * len(parts), dim)

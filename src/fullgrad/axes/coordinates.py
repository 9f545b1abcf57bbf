"""Where numbers lie along one axis of an input: which interval each reads, and its center.

An axis of an activation is an ordered product of atoms, slowest first: after ``flatten(2)`` one
axis holds rows and columns, in a window partition one axis holds samples and windows. A coordinate
says, for every combination of the atoms that it depends on, which closed interval of the input's
axis the numbers there read. A 3-wide convolution over 8 places, for example::

    low     0 0 1 2 3 4 5 6      clipped to the input
    high    1 2 3 4 5 6 7 7
    center  0 1 2 3 4 5 6 7      not clipped, so that the grid stays even

Pure functions on small tables; no activation is read.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Indices: TypeAlias = NDArray[np.int64]
Table: TypeAlias = NDArray[np.float64]
NOWHERE = -1  # in an index: a place that is not there (padding, class tokens)
LOW, HIGH, CENTER = 0, 1, 2
_AS_NARROW = 1.1  # intervals up to this many times the narrowest say as well where numbers lie


@dataclass(frozen=True, eq=False, slots=True)
class Atom:
    """A factor of an axis. Two axes hold the same thing if they hold the same atom.

    ``step`` says that it counts the steps of a recurrent layer, each a term of its own to a map.
    """

    size: int
    batch: bool = False
    step: bool = False


Group: TypeAlias = tuple[Atom, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Coordinate:
    """What is read of one axis of an input.

    Args:
        input: which explained input it is.
        size: of that axis of the input.
        atoms: what the place depends on; none for a single place.
        table: shape (3, sizes of the atoms): the first and last place read and the center; NaN
            where nothing is read.
        pooled: whether places were read together so that no number has its own: by a ``mean``,
            or by a ``window`` that has one place only.
        line: of one atom whose centers are even and whose intervals do not turn back, the first
            center and the step (then each number reads something); None otherwise, or where that
            is not known.
    """

    input: int
    size: int
    atoms: Group
    table: Table
    pooled: Literal["mean", "window"] | None = None
    line: tuple[float, float] | None = None

    def now(
        self,
        atoms: Group,
        table: Table,
        pooled: Literal["mean", "window"] | None = None,
        line: tuple[float, float] | None = None,
    ) -> Coordinate:
        """The same axis of the same input, read otherwise."""
        return Coordinate(self.input, self.size, atoms, table, pooled, line)

    @property
    def anywhere(self) -> bool:
        """Whether any number reads anything."""
        return self.line is not None or bool((self.table[LOW] == self.table[LOW]).any())

    @property
    def everywhere(self) -> bool:
        """Whether every number reads something."""
        return self.line is not None or bool((self.table[LOW] == self.table[LOW]).all())

    @property
    def whole(self) -> bool:
        """Whether every number that reads anything reads the whole axis."""
        low, high = self.table[LOW], self.table[HIGH]
        return self.anywhere and not bool((low > 0).any() or (high < self.size - 1).any())

    @property
    def shared(self) -> bool:
        """Whether all numbers that read anything read the whole axis, around one center."""
        if not self.whole:
            return False
        center = self.table[CENTER]
        return bool(np.nanmax(center) - np.nanmin(center) < 1e-6)

    def axis(self, atom: Atom) -> int:
        """Where an atom runs in the table."""
        return 1 + self.atoms.index(atom)


def identity(size: int, atom: Atom, input: int = 0) -> Coordinate:
    """Every place of the input reads itself."""
    table = np.tile(np.arange(size, dtype=np.float64), (3, 1))
    return Coordinate(input, size, (atom,), table, line=(0.0, 1.0))


def evenly(size: int, atom: Atom, input: int = 0) -> Coordinate:
    """Cells of equal length over an axis of the input, as a stated layout means them."""
    edges = np.arange(atom.size + 1) * (size / atom.size)
    low, high = np.floor(edges[:-1]), np.ceil(edges[1:]) - 1
    centers = (edges[:-1] + edges[1:] - 1) / 2
    line = (float(centers[0]), size / atom.size)
    return Coordinate(input, size, (atom,), np.stack([low, high, centers]), line=line)


def _hull(table: Table, over: tuple[int, ...]) -> Table:
    """The smallest interval that holds all along some axes of a table, and the mean center."""
    along = tuple(d - 1 for d in over)
    low, high = np.fmin.reduce(table[LOW], axis=along), np.fmax.reduce(table[HIGH], axis=along)
    there = ~np.isnan(table[CENTER])
    total, count = np.where(there, table[CENTER], 0.0).sum(axis=along), there.sum(axis=along)
    center = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return np.stack([low, high, center])


def _equal_along(table: Table, over: tuple[int, ...]) -> bool:
    """Whether numbers that read anything read the same along some axes of a table."""
    least, most = np.fmin.reduce(table, axis=over), np.fmax.reduce(table, axis=over)
    return bool(((most - least < 1e-6) | np.isnan(least)).all())


def same(first: Table, second: Table) -> bool:
    """Whether two tables are equal, counting NaN as equal."""
    return first.shape == second.shape and np.array_equal(first, second, equal_nan=True)


def simplified(c: Coordinate) -> Coordinate:
    """Without atoms that the places do not depend on; one is left."""
    atoms: Group = c.atoms
    table: Table = c.table
    for i in reversed(range(len(atoms))):
        if len(atoms) > 1 and (
            atoms[i].size == 1 or same(table, np.broadcast_to(table.take([0], i + 1), table.shape))
        ):
            atoms, table = atoms[:i] + atoms[i + 1 :], np.asarray(table.take(0, i + 1))
    return c if atoms is c.atoms else c.now(atoms, table, c.pooled)


def where_read(c: Coordinate, other: Coordinate) -> Coordinate:
    """A coordinate that says nothing where another one of the same input says nothing."""
    atoms = tuple(dict.fromkeys((*c.atoms, *other.atoms)))
    table = np.where(np.isnan(over(other, atoms)[:1]), np.nan, over(c, atoms))
    return simplified(c.now(atoms, table, c.pooled))


def split(c: Coordinate, atom: Atom, parts: Group) -> Coordinate:
    """The same places after an atom was split into several."""
    if atom not in c.atoms:
        return c
    atoms = tuple(p for a in c.atoms for p in (parts if a is atom else (a,)))
    return simplified(c.now(atoms, c.table.reshape(3, *(a.size for a in atoms)), c.pooled))


def over(c: Coordinate, atoms: Group) -> Table:
    """The table with these atoms as its first axes, the others behind; missing ones repeat."""
    others = tuple(a for a in c.atoms if a not in atoms)
    present = [a for a in (*atoms, *others) if a in c.atoms]
    table = c.table.transpose(0, *(c.axis(a) for a in present))
    shape = [a.size if a in c.atoms else 1 for a in (*atoms, *others)]
    return np.broadcast_to(table.reshape(3, *shape), (3, *(a.size for a in (*atoms, *others))))


def merged(c: Coordinate, group: Group, atom: Atom) -> Coordinate:
    """The same places after the atoms of one axis became one."""
    if not any(a in group for a in c.atoms):
        return c
    others = tuple(a for a in c.atoms if a not in group)
    table = over(c, group).reshape(3, atom.size, *(a.size for a in others))
    return simplified(c.now((atom, *others), table, c.pooled))


def restricted(c: Coordinate, left: Collection[Atom]) -> Coordinate | None:
    """What is known when only some atoms are left: those that are gone were read together.

    Returns:
        None if no atom is left and the whole axis was read, or nothing of it.
    """
    gone = tuple(i + 1 for i, a in enumerate(c.atoms) if a not in left)
    if not gone:
        return c
    atoms = tuple(a for a in c.atoms if a in left)
    found = c.now(atoms, _hull(c.table, gone), c.pooled)
    apart = not _equal_along(c.table, gone)
    if not atoms and (not found.anywhere or (found.whole and (apart or not c.pooled))):
        return None
    if apart and (not atoms or found.shared):
        found = c.now(atoms, found.table, "mean")
    return simplified(found)


def taken(c: Coordinate, old: Atom, new: Atom, index: Indices) -> Coordinate:
    """After places of an atom were taken by number; ``NOWHERE`` puts in a place without one."""
    if old not in c.atoms:
        return c
    if c.line is not None and len(index) > 1:
        steps = np.diff(index)
        if steps[0] > 0 and index[0] != NOWHERE and bool((steps == steps[0]).all()):
            line = (c.line[0] + c.line[1] * int(index[0]), c.line[1] * int(steps[0]))
            return c.now((new,), c.table[:, index], None, line)
    axis = c.axis(old)
    table = c.table.take(np.maximum(index, 0), axis)
    if (index == NOWHERE).any():
        missing = (index == NOWHERE).reshape([-1 if d == axis else 1 for d in range(table.ndim)])
        table = np.where(missing, np.nan, table)
    return simplified(c.now(tuple(new if a is old else a for a in c.atoms), table, c.pooled))


def chosen(c: Coordinate, atom: Atom, place: int) -> Coordinate:
    """After one place of an atom was chosen; the atom is gone."""
    if atom not in c.atoms:
        return c
    atoms = tuple(a for a in c.atoms if a is not atom)
    return c.now(atoms, np.asarray(c.table.take(place, c.axis(atom))), c.pooled)


@dataclass(frozen=True, eq=False)
class Taps:
    """Which places of an axis each place after a sliding window reads.

    Args:
        index: shape (places after, window), ``NOWHERE`` where the window reads nothing.
        middle: shape (places after,): the middle of each window, not clipped.
    """

    index: Indices
    middle: Table

    @cached_property
    def nothing_moves(self) -> bool:
        """Whether every place reads itself alone."""
        places = np.arange(len(self.index))
        return self.index.shape[1] == 1 and bool((self.index[:, 0] == places).all())

    @cached_property
    def ends(self) -> tuple[Indices, Indices] | None:
        """The first and the last place that each window reads; None if one reads nothing."""
        there = self.index != NOWHERE
        if not bool(there.any(1).all()):
            return None
        first = np.where(there, self.index, np.iinfo(np.int64).max).min(1)
        return first, self.index.max(1)

    @cached_property
    def line(self) -> tuple[float, float] | None:
        """The middle of the first window and the step from one to the next, if that is even."""
        steps = np.diff(self.middle)
        if len(steps) and (steps[0] <= 0 or float(np.ptp(steps)) > 1e-9):
            return None
        return float(self.middle[0]), float(steps[0]) if len(steps) else 1.0


def windowed(c: Coordinate, old: Atom, new: Atom, taps: Taps) -> Coordinate:
    """After a window slid along an atom."""
    if old not in c.atoms:
        return c
    if c.line is not None and taps.line is not None and taps.ends is not None:
        (start, step), (first, last) = c.line, taps.ends
        line = (start + step * taps.line[0], step * taps.line[1])
        even = np.empty((3, len(first)))
        even[LOW], even[HIGH] = c.table[LOW, first], c.table[HIGH, last]
        even[CENTER] = start + step * taps.middle
        straight = bool((even[:CENTER, 1:] >= even[:CENTER, :-1]).all())
        return c.now((new,), even, None, line if straight else None)
    axis = c.axis(old)
    table = np.moveaxis(c.table, axis, 1)
    missing = (taps.index == NOWHERE).reshape(1, *taps.index.shape, *[1] * (table.ndim - 2))
    read = table[:, np.maximum(taps.index, 0)]  # (3, places after, window, others)
    read = np.where(missing, np.nan, read)
    hull = _hull(read, (2,))
    hull[CENTER] = _centers(table[CENTER], taps, hull, read)
    atoms = tuple(new if a is old else a for a in c.atoms)
    return simplified(c.now(atoms, np.moveaxis(hull, 1, axis), c.pooled))


def gathered(c: Coordinate, old: Atom, new: Atom, taps: Taps) -> Coordinate:
    """After a window that has a single place, whose atom vanishes."""
    if old not in c.atoms:
        return c
    one = chosen(windowed(c, old, new, taps), new, 0)
    return c.now(one.atoms, one.table, c.pooled or ("window" if one.whole else None))


def _centers(before: Table, taps: Taps, hull: Table, read: Table) -> Table:
    """Centers of windows: on an even axis those of whole windows, beyond its ends too.

    Where several axes are put together that are not the same line (halves, windows, inputs of
    different sizes), there is no even grid to keep, and no center lies outside what is read.

    Args:
        before: shape (places, others).
        taps: of the window.
        hull: what the window reads, with the mean center of what is there.
        read: what it is made of, shape (3, places after, window, others).
    """
    places = len(before)
    if places < 2:
        return np.asarray(hull[CENTER])
    there = ~np.isnan(before)
    first = there.argmax(0)
    last = places - 1 - there[::-1].argmax(0)
    others = before.shape[1:]
    start = np.take_along_axis(before, first[None], 0)[0]
    stop = np.take_along_axis(before, last[None], 0)[0]
    slope = (stop - start) / np.maximum(last - first, 1)
    number = np.arange(places).reshape(-1, *[1] * len(others))
    line = start + slope * (number - first)
    even = (there & (np.abs(before - line) < 1e-6)) | ~there
    straight = even.all(0) & (last > first)
    middle = taps.middle.reshape(-1, *[1] * len(others))
    whole = start + slope * (middle - first)
    some = there.any(0)
    low, high = hull[LOW], hull[HIGH]
    if (straight | ~some).all() and _equal_along(
        np.where(some, line, np.nan), tuple(range(1, before.ndim))
    ):
        return np.asarray(np.where(np.isnan(low), np.nan, whole))
    inside = _hull(np.stack([*read[:CENTER], np.clip(read[CENTER], *read[:CENTER])]), (2,))[CENTER]
    kept = straight & (whole >= low) & (whole <= high)
    return np.asarray(np.where(kept, whole, inside))


def refined(c: Coordinate, cell: Atom, part: Atom) -> Coordinate:
    """After each place of an atom became several, whose centers share out the cell evenly."""
    if cell not in c.atoms or part in c.atoms or cell.size < 2:
        return c
    axis = c.axis(cell)
    steps = np.diff(c.table[CENTER], axis=axis - 1)
    step = 0.0 if np.isnan(steps).all() else np.nanmedian(steps)
    table = np.repeat(np.expand_dims(c.table, axis + 1), part.size, axis + 1)
    shift = ((np.arange(part.size) + 0.5) / part.size - 0.5) * step
    table[CENTER] += shift.reshape([-1 if d == axis else 1 for d in range(table.ndim - 1)])
    return c.now((*c.atoms[:axis], part, *c.atoms[axis:]), table)


def united(tables: Sequence[Table]) -> Table:
    """The intervals that hold those of several operands at the same places, and mean centers."""
    if len(tables) == 1 or all(same(t, tables[0]) for t in tables[1:]):
        return tables[0]
    return _hull(np.stack(np.broadcast_arrays(*tables), 1), (1,))


def summed(tables: Sequence[Table]) -> Table:
    """The intervals that hold those of several operands of a sum at the same places.

    The centers are those of the operands that tell the most places apart, and of these, of those
    that read the least, such as what went around a residual branch.
    """
    hull = united(tables)
    if hull is tables[0]:
        return hull
    apart = np.array([len(np.unique(np.round(t[CENTER], 6))) for t in tables])
    stacked = np.stack(np.broadcast_arrays(*tables), 1)
    sizes = (stacked[HIGH] - stacked[LOW] + 1).reshape(len(tables), -1)
    known = np.count_nonzero(~np.isnan(sizes), 1)
    fine = (apart == apart.max()) & (known > 0)
    size = np.where(fine, np.nansum(sizes, 1) / np.maximum(known, 1), np.inf)
    best = _hull(stacked[:, size <= _AS_NARROW * size.min()], (1,))[CENTER]
    hull[CENTER] = np.where(np.isnan(best), hull[CENTER], best)
    return hull


def count(atoms: Sequence[Atom]) -> int:
    """How many numbers atoms make."""
    return math.prod(a.size for a in atoms)


def read_at(c: Coordinate, old: Group, new: Group, index: Sequence[Indices]) -> Coordinate:
    """After some atoms were read at places that differ by sample.

    Args:
        c: before.
        old: the samples' atom, then the atoms that are read.
        new: the samples' atom, then those of the numbers after.
        index: for each atom that is read, the places that each number reads together with those of
            the others, shape (sizes of the new atoms, places); ``NOWHERE`` in all for none.
    """
    if not any(a in old[1:] for a in c.atoms):
        return c
    samples = np.arange(old[0].size).reshape(-1, *[1] * len(new))
    picked = (samples, *(np.maximum(i, 0) for i in index))
    table = np.moveaxis(over(c, old), 0, -1)[picked]
    table = np.moveaxis(table, -1, 0)
    others = tuple(a for a in c.atoms if a not in old)
    missing = (index[0] == NOWHERE).reshape(*index[0].shape, *[1] * len(others))
    table = np.where(missing, np.nan, table)
    return simplified(c.now((*new, *others), _hull(table, (len(new) + 1,))))

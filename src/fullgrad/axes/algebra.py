"""What the axes of an activation hold: samples, positions of the input's grid, or neither.

An axis is an ordered product of atoms, slowest first: after ``flatten(2)`` one axis holds rows and
columns, in a window partition one axis holds samples and windows. Each axis of the input's grid
has a coordinate: for the positions along the atoms that it depends on, where they lie. Following
is pure bookkeeping on sizes; it reads no activation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Indices: TypeAlias = NDArray[np.int64]
NOWHERE = -1  # padding, class tokens: a place that is not on the grid


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
    """Where positions lie along one axis of a grid.

    Args:
        extent: number of places.
        atoms: what the place depends on.
        places: shape (sizes of the atoms), ``NOWHERE`` for what is not on the grid; None if they
            run from 0 to extent - 1.
    """

    extent: int
    atoms: Group
    places: Indices | None = None

    def values(self) -> Indices:
        """The places as an array."""
        if self.places is not None:
            return self.places
        return np.arange(self.extent).reshape([a.size for a in self.atoms])


@dataclass(frozen=True, eq=False)
class Axes:
    """The axes of one activation.

    Args:
        groups: the atoms of each axis.
        coordinates: for each axis of the input's grid, where positions lie along it; None where
            nothing depends on it.
    """

    groups: tuple[Group, ...]
    coordinates: tuple[Coordinate | None, ...]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return tuple(
            [g[0].size if len(g) == 1 else math.prod([a.size for a in g]) for g in self.groups]
        )

    @cached_property
    def placed(self) -> bool:
        """Whether any of its numbers lies at a position."""
        return any(c is not None for c in self.coordinates)

    def along(self, group: Group) -> list[int]:
        """The axes of the grids that exactly this group of atoms runs along, padded or not."""
        found = []
        for k, c in enumerate(self.coordinates):
            if c is not None and c.atoms == group and group:
                if c.places is None:
                    found.append(k)
                    continue
                places = c.places.ravel()
                inside = places[places != NOWHERE]
                if bool((inside == np.arange(c.extent)[: len(inside)]).all()) and len(inside):
                    found.append(k)
        return found


def neutral(group: Group) -> Group:
    """Atoms of the same sizes that hold nothing known."""
    return tuple(Atom(a.size) for a in group)


def fresh(size: int) -> Group:
    """An axis about which nothing is known."""
    return (Atom(size),) if size > 1 else ()


def as_steps(axes: Axes, dim: int) -> Axes:
    """The same axes, one of which counts the steps of a recurrent layer."""
    twins = {a: Atom(a.size, step=True) for a in axes.groups[dim]}
    groups = [*axes.groups]
    groups[dim] = tuple(twins.values())
    return Axes(
        tuple(groups),
        tuple(
            None if c is None else replace(c, atoms=tuple(twins.get(a, a) for a in c.atoms))
            for c in axes.coordinates
        ),
    )


# -- coordinates ------------------------------------------------------------------------------


def _split_atom(c: Coordinate | None, atom: Atom, parts: Group) -> Coordinate | None:
    if c is None or atom not in c.atoms:
        return c
    atoms = tuple(p for a in c.atoms for p in (parts if a is atom else (a,)))
    if c.places is None:
        return Coordinate(c.extent, atoms)
    return coordinate(c.extent, atoms, c.places.reshape([a.size for a in atoms]))


def _ranked(values: Indices) -> tuple[int, Indices]:
    """Number the places anew, without gaps: a coarser grid."""
    known = np.unique(values[values != NOWHERE])
    ranks = np.searchsorted(known, values)
    return len(known), np.where(values == NOWHERE, NOWHERE, ranks)


def coordinate(extent: int, atoms: Group, values: Indices) -> Coordinate:
    """A coordinate in its simplest form: without atoms that the places do not depend on."""
    for i in reversed(range(len(atoms))):
        if len(atoms) > 1 and bool((values == values.take([0], axis=i)).all()):
            atoms, values = atoms[:i] + atoms[i + 1 :], np.asarray(values.take(0, axis=i))
    identity = values.size == extent and bool((values.ravel() == np.arange(extent)).all())
    return Coordinate(extent, atoms, None if identity else values)


def _restricted(c: Coordinate | None, left: set[Atom]) -> Coordinate | None:
    """What remains of a coordinate when only some atoms do."""
    if c is None or all(a in left for a in c.atoms):
        return c
    gone = tuple(i for i, a in enumerate(c.atoms) if a not in left)
    atoms = tuple(a for a in c.atoms if a in left)
    if not atoms:
        return None
    values = c.values()
    first = np.where(values == NOWHERE, np.iinfo(np.int64).max, values).min(axis=gone)
    first = np.where(first == np.iinfo(np.int64).max, NOWHERE, first)
    extent, ranks = _ranked(first)
    return coordinate(extent, atoms, ranks)


def with_groups(axes: Axes, groups: Sequence[Group]) -> Axes:
    """The same atoms in other axes; coordinates of atoms that are gone become coarser."""
    left = {a for g in groups for a in g}
    return Axes(tuple(groups), tuple(_restricted(c, left) for c in axes.coordinates))


# -- rearranging ------------------------------------------------------------------------------


def regrouped(axes: Axes, shape: Sequence[int]) -> Axes | None:
    """After a reshape; None if it cuts across what is known."""
    found = _filled(axes, shape)
    if found is None:  # windows of 7 put together, to be cut into windows of 8
        for d, group in enumerate(axes.groups):
            if len(group) > 1 and not any(a.batch for a in group):
                axes = merged(axes, d) or axes
        found = _filled(axes, shape)
    return found


def _filled(axes: Axes, shape: Sequence[int]) -> Axes | None:
    left = [a for g in axes.groups for a in g if a.size > 1]
    coordinates = list(axes.coordinates)
    left.reverse()
    groups: list[Group] = []
    for size in shape:
        group: list[Atom] = []
        filled = 1
        while filled < size:
            if not left or size % filled:
                return None
            atom = left.pop()
            need = size // filled
            if need % atom.size:
                if atom.size % need:
                    return None
                parts = (Atom(need, atom.batch), Atom(atom.size // need, atom.batch))
                coordinates = [_split_atom(c, atom, parts) for c in coordinates]
                left.append(parts[1])
                atom = parts[0]
            group.append(atom)
            filled *= atom.size
        groups.append(tuple(group))
    if left:
        return None
    return with_groups(replace(axes, coordinates=tuple(coordinates)), groups)


def permuted(axes: Axes, order: Sequence[int]) -> Axes:
    """After a permutation of the axes."""
    return replace(axes, groups=tuple(axes.groups[i] for i in order))


def merged(axes: Axes, dim: int) -> Axes | None:
    """One axis as a single atom; None if it mixes samples with something else."""
    group = axes.groups[dim]
    if len(group) == 1:
        return axes
    if any(a.batch for a in group):
        return None
    whole = Atom(math.prod(a.size for a in group))
    coordinates: list[Coordinate | None] = []
    for c in axes.coordinates:
        if c is None or not any(a in group for a in c.atoms):
            coordinates.append(c)
            continue
        others = tuple(a for a in c.atoms if a not in group)
        present = tuple(a for a in group if a in c.atoms)
        order = [c.atoms.index(a) for a in (*present, *others)]
        values = c.values().transpose(order)
        full = values.reshape(
            [a.size if a in present else 1 for a in group] + [a.size for a in others]
        )
        full = np.broadcast_to(full, [a.size for a in (*group, *others)])
        atoms = (whole, *others)
        coordinates.append(coordinate(c.extent, atoms, full.reshape([a.size for a in atoms])))
    groups = [*axes.groups]
    groups[dim] = (whole,)
    return Axes(tuple(groups), tuple(coordinates))


def taken(axes: Axes, dim: int, index: Indices, *, coarser: bool = False) -> Axes | None:
    """After taking places along one axis (slices, rolls, pads: ``NOWHERE`` is a new place).

    Args:
        axes: before.
        dim: the axis.
        index: which places are taken, shape (new size,).
        coarser: the grid becomes as coarse as what was taken (strided slices).
    """
    if len(index) == axes.shape[dim] and bool((index == np.arange(len(index))).all()):
        return axes
    single = merged(axes, dim)
    if single is None or single.groups[dim][0].batch:
        return None
    (old,), new = single.groups[dim], Atom(len(index))
    coordinates: list[Coordinate | None] = []
    for c in single.coordinates:
        if c is None or old not in c.atoms:
            coordinates.append(c)
            continue
        axis = c.atoms.index(old)
        values = np.take(c.values(), np.maximum(index, 0), axis=axis)
        outside = (index == NOWHERE).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
        values = np.where(outside, NOWHERE, values)
        extent = c.extent
        if coarser:
            extent, values = _ranked(values)
        atoms = tuple(new if a is old else a for a in c.atoms)
        coordinates.append(coordinate(extent, atoms, values))
    groups = [*single.groups]
    groups[dim] = (new,)
    return Axes(tuple(groups), tuple(coordinates))


def selected(axes: Axes, dim: int, place: int) -> Axes | None:
    """After choosing one place of an axis, which vanishes; its coordinate stays as a number."""
    one = taken(axes, dim, np.array([place]))
    if one is None:
        return None
    group = one.groups[dim]
    atom = group[0] if group else None
    coordinates = tuple(
        Coordinate(
            c.extent,
            tuple(a for a in c.atoms if a is not atom),
            np.asarray(c.values().take(0, axis=c.atoms.index(atom))),
        )
        if c is not None and atom in c.atoms
        else c
        for c in one.coordinates
    )
    return Axes((*one.groups[:dim], *one.groups[dim + 1 :]), coordinates)

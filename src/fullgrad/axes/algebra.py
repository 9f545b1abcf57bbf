"""What the axes of an activation hold: samples, places of the inputs, or neither.

An axis is an ordered product of atoms, slowest first. For each axis of each input that has places
there may be a :class:`~fullgrad.axes.coordinates.Coordinate`: which interval of it the numbers
read. Axis propagation is bookkeeping on sizes and small tables; it reads no activation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fullgrad.axes import coordinates as places
from fullgrad.axes.coordinates import NOWHERE, Atom, Coordinate, Group, Indices, Taps, count


@dataclass(frozen=True, eq=False)
class Axes:
    """The axes of one activation.

    Args:
        groups: the atoms of each axis.
        coordinates: for each axis of the inputs' grids, what is read of it; None where the numbers
            have no place along it.
    """

    groups: tuple[Group, ...]
    coordinates: tuple[Coordinate | None, ...]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return tuple([g[0].size if len(g) == 1 else count(g) for g in self.groups])

    @cached_property
    def placed(self) -> bool:
        """Whether any of its numbers has a place."""
        return any(c is not None for c in self.coordinates)

    def depends(self, group: Group) -> bool:
        """Whether any place depends on these atoms."""
        return any(c is not None and any(a in group for a in c.atoms) for c in self.coordinates)


def neutral(group: Group) -> Group:
    """Atoms of the same sizes that hold nothing known."""
    return tuple(Atom(a.size) for a in group)


def fresh(size: int) -> Group:
    """An axis that holds no places."""
    return (Atom(size),) if size > 1 else ()


def as_steps(axes: Axes, dim: int) -> Axes:
    """The same axes, one of which counts the steps of a recurrent layer."""
    twins = {a: Atom(a.size, step=True) for a in axes.groups[dim]}
    groups = [*axes.groups]
    groups[dim] = tuple(twins.values())
    return Axes(
        tuple(groups),
        tuple(
            c and c.now(tuple(twins.get(a, a) for a in c.atoms), c.table, c.pooled, c.line)
            for c in axes.coordinates
        ),
    )


def has_batch(group: Group) -> bool:
    """Whether samples run along an axis, alone or with something else."""
    return any(a.batch for a in group)


def samples(group: Group) -> int:
    """How many samples run along an axis."""
    return count([a for a in group if a.batch])


def with_groups(axes: Axes, groups: Sequence[Group]) -> Axes:
    """The same atoms in other axes; what ran along atoms that are gone was read together."""
    left = {a for g in groups for a in g}
    read = _owned(axes, {a for g in axes.groups for a in g} - left)
    return Axes(tuple(groups), tuple(c and places.restricted(c, left) for c in read))


def _owned(axes: Axes, gone: set[Atom]) -> tuple[Coordinate | None, ...]:
    """The coordinates before some atoms are read together.

    A number that reads nothing along one axis of an input reads nothing of that input. Where that
    depends on atoms that are read together, it must be known along the other axes first.
    """
    found = list(axes.coordinates)
    for k, c in enumerate(axes.coordinates):
        if c is None or not gone.intersection(c.atoms) or c.everywhere:
            continue
        for j, other in enumerate(found):
            if j != k and other is not None and other.input == c.input:
                if gone.intersection(other.atoms):
                    found[j] = places.where_read(other, c)
    return tuple(found)


# -- rearranging ------------------------------------------------------------------------------


def regrouped(axes: Axes, shape: Sequence[int]) -> Axes | None:
    """After a reshape; None if it cuts across what is known."""
    found = _filled(axes, shape)
    if found is None:  # windows of 7 put together, to be cut into windows of 8
        for d, group in enumerate(axes.groups):
            if len(group) > 1:
                axes = merged(axes, d) or axes
        found = _filled(axes, shape)
    return found


def _filled(axes: Axes, shape: Sequence[int]) -> Axes | None:
    left = [a for g in axes.groups for a in g if a.size > 1 or a.batch]
    coordinates = list(axes.coordinates)
    left.reverse()
    groups: list[Group] = []
    for size in shape:
        group: list[Atom] = []
        filled = 1
        while left and left[-1].batch and left[-1].size == 1:
            group.append(left.pop())
        while filled < size:
            if not left or size % filled:
                return None
            atom = left.pop()
            need = size // filled
            if need % atom.size:
                if atom.size % need or atom.batch:
                    return None
                parts = (Atom(need), Atom(atom.size // need))
                coordinates = [c and places.split(c, atom, parts) for c in coordinates]
                left.append(parts[1])
                atom = parts[0]
            group.append(atom)
            filled *= atom.size
        groups.append(tuple(group))
    if groups and all(a.size == 1 for a in left):  # a batch of one, behind everything else
        groups[-1] = (*groups[-1], *reversed(left))
    elif left:
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
    if samples(group) > 1:
        return None
    whole = Atom(count(group))
    changed = tuple(c and places.merged(c, group, whole) for c in axes.coordinates)
    return Axes((*axes.groups[:dim], (whole,), *axes.groups[dim + 1 :]), changed)


def taken(axes: Axes, dim: int, index: Indices) -> Axes | None:
    """After places of one axis were taken by number: slices, rolls, flips, pads, tables.

    Args:
        axes: before.
        dim: the axis.
        index: which places are taken, shape (size after,); ``NOWHERE`` is a place that was not
            there.

    Returns:
        None if samples were taken apart.
    """
    size = axes.shape[dim]
    if len(index) == size and bool((index == np.arange(size)).all()):
        return axes
    if samples(axes.groups[dim]) > 1 or (has_batch(axes.groups[dim]) and size > 1):
        blocks = _blocks_taken(axes, dim, index)
        if blocks is not None or samples(axes.groups[dim]) > 1:
            return blocks
    single = merged(axes, dim)
    assert single is not None
    (old,), new = single.groups[dim], Atom(len(index))
    changed = tuple(c and places.taken(c, old, new, index) for c in single.coordinates)
    return Axes((*single.groups[:dim], (new,), *single.groups[dim + 1 :]), changed)


def _blocks_taken(axes: Axes, dim: int, index: Indices) -> Axes | None:
    """After whole batches were taken of an axis on which several stand one after the other."""
    group = axes.groups[dim]
    at = next(i for i, a in enumerate(group) if a.batch)
    outer, inner = group[:at], group[at:]
    block = count(inner)
    if not outer or len(index) % block or (index == NOWHERE).any():
        return None
    rows = index.reshape(-1, block)
    numbers = rows[:, 0] // block
    if not bool((rows == numbers[:, None] * block + np.arange(block)).all()):
        return None
    tile, new = Atom(count(outer)), Atom(len(numbers))
    tiled = tuple(c and places.merged(c, outer, tile) for c in axes.coordinates)
    if len(numbers) == 1:
        changed = tuple(c and places.chosen(c, tile, int(numbers[0])) for c in tiled)
        return Axes((*axes.groups[:dim], inner, *axes.groups[dim + 1 :]), changed)
    changed = tuple(c and places.taken(c, tile, new, numbers) for c in tiled)
    return Axes((*axes.groups[:dim], (new, *inner), *axes.groups[dim + 1 :]), changed)


def selected(axes: Axes, dim: int, place: int) -> Axes | None:
    """After choosing one place of an axis, which vanishes; its place stays known."""
    group = axes.groups[dim]
    single = merged(axes, dim)
    if single is None or samples(group) > 1:
        if any(axes.coordinates):
            return None
        # One sample of several, none of whose numbers has a place.
        return Axes((*axes.groups[:dim], *axes.groups[dim + 1 :]), axes.coordinates)
    changed = single.coordinates
    if single.groups[dim]:
        atom = single.groups[dim][0]
        changed = tuple(c and places.chosen(c, atom, place) for c in changed)
    return Axes((*single.groups[:dim], *single.groups[dim + 1 :]), changed)


def windowed(axes: Axes, taps: Mapping[int, Taps]) -> Axes | None:
    """After windows slid over some axes.

    Args:
        axes: before.
        taps: for each axis that a window slides over, what it reads.

    Returns:
        None if a window slides over samples.
    """
    for dim, window in taps.items():
        size, after = axes.shape[dim], len(window.index)
        if window.nothing_moves and size == after:
            continue
        if samples(axes.groups[dim]) > 1:
            return None
        single = axes if size == 1 else merged(axes, dim)
        assert single is not None
        old = single.groups[dim][0] if single.groups[dim] else None
        if after == 1 and old is not None:  # one place is left, of all that the window reads
            new = Atom(1)
            one = tuple(c and places.gathered(c, old, new, window) for c in single.coordinates)
            axes = Axes((*single.groups[:dim], (), *single.groups[dim + 1 :]), one)
            continue
        new = old if old is not None and old.size == after else Atom(after)
        changed = single.coordinates
        if old is not None:
            owned = _owned(single, {old})
            changed = tuple(c and places.windowed(c, old, new, window) for c in owned)
            empty = (window.index == NOWHERE).all(1)
            if empty.any():
                changed = _nothing_read(changed, new, empty)
        axes = Axes((*single.groups[:dim], (new,), *single.groups[dim + 1 :]), changed)
    return axes


def _nothing_read(
    coordinates: Sequence[Coordinate | None], atom: Atom, empty: NDArray[np.bool_]
) -> tuple[Coordinate | None, ...]:
    """After windows of which some read nothing: so it is along one axis of each input at least."""
    found = list(coordinates)
    told = {c.input for c in found if c is not None and atom in c.atoms}
    for k, c in enumerate(found):
        if c is not None and c.input not in told:
            told.add(c.input)
            table = np.where(empty.reshape(-1, *[1] * len(c.atoms)), np.nan, c.table[:, None])
            found[k] = c.now((atom, *c.atoms), table, c.pooled)
    return tuple(found)


def refined(axes: Axes, inside: Mapping[int, int]) -> Axes:
    """After numbers of one place were put side by side: each gets a part of the cell as center.

    Args:
        axes: after they were put there.
        inside: from an axis to the axis that numbers the parts of its cells.
    """
    for dim, part in inside.items():
        if len(axes.groups[dim]) == len(axes.groups[part]) == 1:
            cell, fine = axes.groups[dim][0], axes.groups[part][0]
            changed = tuple(c and places.refined(c, cell, fine) for c in axes.coordinates)
            axes = replace(axes, coordinates=changed)
    return axes


def read_at(
    axes: Axes, dims: Sequence[int], sizes: Sequence[int], index: Sequence[Indices]
) -> Axes | None:
    """After neighboring axes were read at places that differ by sample.

    Args:
        axes: before, samples first.
        dims: the axes that are read.
        sizes: of the axes that take their place.
        index: for each axis that is read, the places that each number after reads together with
            those of the others: shape (B, *sizes, places), ``NOWHERE`` in all for none.

    Returns:
        None if the samples are not the first axis, or share an axis that is read.
    """
    batch = axes.groups[0]
    if len(batch) != 1 or not batch[0].batch:
        return None
    for d in dims:
        whole = merged(axes, d)
        if whole is None or has_batch(axes.groups[d]):
            return None
        if not whole.groups[d]:  # of size 1, whose only place is read
            whole = replace(whole, groups=(*whole.groups[:d], (Atom(1),), *whole.groups[d + 1 :]))
        axes = whole
    old = (batch[0], *(axes.groups[d][0] for d in dims))
    new = (batch[0], *(Atom(n) for n in sizes))
    groups = (*axes.groups[: dims[0]], *((a,) for a in new[1:]), *axes.groups[dims[-1] + 1 :])
    return Axes(groups, tuple(c and places.read_at(c, old, new, index) for c in axes.coordinates))

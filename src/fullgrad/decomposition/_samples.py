"""Some samples of a decomposition: its terms cut where their axes hold the samples."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fullgrad._results import mapped
from fullgrad.axes.algebra import Axes
from fullgrad.axes.coordinates import Atom, Coordinate
from fullgrad.axes.layouts import Layouts
from fullgrad.engine.samples import Along, along, sums_along
from fullgrad.errors import LayoutError, OptionError


def of_samples(d: Any, numbers: Tensor) -> Any:
    """The decomposition of some samples.

    Args:
        d: a :class:`~fullgrad.Decomposition`. Its class is not imported here, as it calls this.
        numbers: of the samples, shape (chosen,).

    Raises:
        OptionError: the sums are over the whole batch.
        LayoutError: it is not known which numbers of a term belong to which sample.
    """
    count = len(d.output)
    if len(d.residual) != count:
        raise OptionError(
            "the sums are over the whole batch (per_sample=False), so samples cannot be taken "
            "apart; decompose with per_sample=True, or one sample at a time"
        )
    if torch.equal(numbers, torch.arange(count)):
        return d
    atoms: dict[Atom, Atom] = {}
    cut = {
        name: tuple(
            t.index_select(d.layouts.batch_axis(i), numbers.to(t.device))
            for i, t in enumerate(getattr(d, name))
        )
        for name in ("inputs", "input_gradients")
    }
    terms = tuple(_term(t, count, numbers, atoms, d.tolerance) for t in d.bias_terms)
    axes = tuple(_axes(a, count, numbers, atoms) for a in d.layouts.axes)
    layouts = Layouts(axes, d.layouts.grids, d.layouts.known)  # type: ignore[arg-type]
    rest = mapped(
        replace(d, inputs=(), input_gradients=(), bias_terms=()),
        lambda t, _: t[numbers.to(t.device)],
    )
    return replace(rest, **cut, bias_terms=terms, layouts=layouts)


def _term(term: Any, count: int, numbers: Tensor, atoms: dict[Atom, Atom], tolerance: float) -> Any:
    where = _where(term, count)
    unknown = LayoutError(
        f"it is not known which numbers of {term.op} in {term.module or 'the model'} (shape "
        f"{tuple(term.shape)}) belong to which of the {count} samples; decompose the wanted "
        "samples alone: decompose(model, inputs[i : i + 1])"
    )
    if where is None:
        raise unknown
    gradient, bias = term.gradient, term.bias
    dim = where.dim - gradient.dim() + bias.dim()  # a bias broadcasts to the gradient's shape
    if dim >= 0 and bias.shape[dim] == gradient.shape[where.dim]:
        bias = _cut(bias, where._replace(dim=dim), numbers)
    elif dim >= 0 and bias.shape[dim] != 1:
        raise unknown
    gradient = _cut(gradient, where, numbers)
    found = replace(
        term,
        gradient=gradient,
        bias=bias,
        sums=term.sums[numbers.to(term.sums.device)],
        axes=None if term.axes is None else _axes(term.axes, count, numbers, atoms),
    )
    value = found.value
    sums = sums_along(value, where, len(numbers))
    size = value.abs().sum(dtype=torch.float64)
    if bool(((sums - found.sums).abs() > tolerance * size).any()):
        raise unknown
    return found


def _where(term: Any, count: int) -> Along | None:
    """Where the samples lie in a term; the sums prove it where the axes do not tell."""
    if count == 1:
        return Along(0, 1, math.prod(term.shape[:1]))
    found = along(term.axes, count)
    if found is not None:
        return found
    if term.batch_axis is not None:
        return Along(term.batch_axis, 1, 1)
    first = term.shape[0] if term.shape else 0
    return Along(0, 1, first // count) if first and first % count == 0 else None


def _cut(t: Tensor, where: Along, numbers: Tensor) -> Tensor:
    if not t.dim():
        return t
    count = t.shape[where.dim] // (where.before * where.after)
    apart = t.unflatten(where.dim, (where.before, count, where.after))
    chosen: Tensor = apart.index_select(where.dim + 1, numbers.to(t.device))
    return chosen.flatten(where.dim, where.dim + 2)


def _axes(axes: Axes, count: int, numbers: Tensor, atoms: dict[Atom, Atom]) -> Axes | None:
    """Axes for the chosen samples, None if they hold others than the batch's."""
    old = {a for g in axes.groups for a in g} | {
        a for c in axes.coordinates if c is not None for a in c.atoms
    }
    for atom in old:
        if atom.batch and atom.size != count:
            return None
        if atom.batch:
            atoms.setdefault(atom, Atom(len(numbers), batch=True, step=atom.step))
    groups = tuple(tuple(atoms.get(a, a) for a in g) for g in axes.groups)
    return Axes(groups, tuple(c and _coordinate(c, numbers, atoms) for c in axes.coordinates))


def _coordinate(c: Coordinate, numbers: Tensor, atoms: dict[Atom, Atom]) -> Coordinate:
    if not any(a in atoms for a in c.atoms):
        return c
    table = c.table
    for atom in c.atoms:
        if atom in atoms:
            table = table.take(numbers.numpy(), axis=c.axis(atom))
    line = None if len(c.atoms) == 1 else c.line
    return c.now(tuple(atoms.get(a, a) for a in c.atoms), table, c.pooled, line)

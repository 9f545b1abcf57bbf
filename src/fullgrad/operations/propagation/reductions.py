"""Reductions: axes vanish, and what depended on them becomes coarser."""

from __future__ import annotations

from typing import Any

from fullgrad.axes.algebra import with_groups
from fullgrad.operations.propagation.elementwise import elementwise
from fullgrad.operations.propagation.operation import Answer, Operation, dims_of, rule


@rule(
    "mean",
    "sum",
    "amax",
    "amin",
    "var",
    "std",
    "logsumexp",
    "prod",
    "norm",
    "max",
    "min",
    "linalg_vector_norm",
    "var_mean",
    "std_mean",
    "median",
    "nansum",
)
def _reduce(operation: Operation) -> Answer:
    axes = operation.first()
    if axes is None:
        return None
    if len(operation.outputs) == 1 and operation.shape == axes.shape:
        return elementwise(operation)
    dims = len(axes.groups)
    given: Any = next((a for a in operation.args[1:] if isinstance(a, (list, tuple))), None)
    if given is None:
        given = next((a for a in operation.args[1:] if type(a) is int), None)
    gone = set(dims_of(given, dims))
    keeps = len(operation.shape) == dims
    groups = [() if d in gone else g for d, g in enumerate(axes.groups) if keeps or d not in gone]
    if len(groups) != len(operation.shape):
        return None
    return [with_groups(axes, groups)] * len(operation.outputs)

"""What is compared with the definition of a bias: an operation, and how its bias is recorded."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad.engine.backward import bias_of
from fullgrad.engine.module_path import ModulePath
from fullgrad.engine.recorder import Recorder, recording
from fullgrad.engine.tape import resolve_general

Make = Callable[[torch.Generator], Tensor]


def n(*shape: int, scale: float = 2.0) -> Make:
    return lambda g: scale * torch.randn(shape, generator=g, dtype=torch.float64)


def pos(*shape: int) -> Make:
    return lambda g: 0.3 + torch.rand(shape, generator=g, dtype=torch.float64)


def cplx(*shape: int) -> Make:
    return lambda g: torch.randn(shape, generator=g, dtype=torch.complex128)


class Case:
    """An operation, its float arguments, and which of them may depend on the input."""

    def __init__(
        self,
        op: Callable[..., Any],
        *args: Make,
        vary: tuple[int, ...] | None = None,
        note: str = "",
    ) -> None:
        self.op = op
        self.args = args
        self.vary = tuple(range(len(args))) if vary is None else vary
        self.note = note


def outputs_of(value: Any) -> tuple[Tensor, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def recorded_biases(case: Case, values: list[Tensor], depend: tuple[int, ...]) -> list[Tensor]:
    """The recorded bias of each output, where operations before the last have none."""
    leaves = [
        v.clone().requires_grad_() if i in depend else v.clone() for i, v in enumerate(values)
    ]
    given = [v.clone() if v.requires_grad else v for v in leaves]
    roots = [v.grad_fn for v in given if v.grad_fn is not None]
    recorder = Recorder(roots, ModulePath(nn.Module()), lambda t: None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with recording(recorder):
            result = outputs_of(case.op(*given))
    resolve_general(recorder.tape)
    places = {(id(o.grad_fn), o.output_nr): i for i, o in enumerate(result) if o.requires_grad}
    biases = [torch.zeros_like(o) for o in result]
    for entry in recorder.tape.entries:
        place = places.get((id(entry.node), entry.slot))
        if place is None:
            assert entry.slot > 0, f"{entry.op} is not the last operation"
            continue
        biases[place] = biases[place] + bias_of(entry).expand(entry.shape)
    return biases


def defined_biases(case: Case, values: list[Tensor], depend: tuple[int, ...]) -> list[Tensor]:
    """y - jvp(op, u, u) for the arguments that depend."""

    def of_dependent(*u: Tensor) -> tuple[Tensor, ...]:
        given = [v.clone() for v in values]
        for place, value in zip(depend, u, strict=True):
            given[place] = value
        return outputs_of(case.op(*given))

    u = tuple(values[i] for i in depend)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ys, tangents = torch.func.jvp(of_dependent, u, u)
    return [y - t for y, t in zip(ys, tangents, strict=True)]


def subsets(vary: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [s for k in range(1, len(vary) + 1) for s in itertools.combinations(vary, k)]

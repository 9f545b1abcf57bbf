"""What numbers decide in a call, noted while the call is traced into a graph.

A graph holds operations on tensors, not the branches that the numbers of its first inputs took. So
every question that the library asks of numbers goes through this module. Outside a trace it is
answered, and that is all. While a call is traced, the condition is kept too: the graph returns it,
and who runs the graph compares it with the answer that the trace built upon.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fullgrad._compat import outside_modes

_noted: ContextVar[Decisions | None] = ContextVar("_noted", default=None)


@dataclass(slots=True, eq=False)
class Decisions:
    """The conditions of a traced call, tensors of one truth value each, and their answers."""

    conditions: list[Tensor] = field(default_factory=list)
    answers: list[bool] = field(default_factory=list)
    proofs: list[bool] = field(default_factory=list)  # whether nothing but an error hangs on it


@contextmanager
def noting_decisions() -> Iterator[Decisions]:
    """Note what is decided inside, in this thread."""
    noted = Decisions()
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


def tracing() -> bool:
    """Whether the call is traced into a graph."""
    return _noted.get() is not None


def decided(condition: Tensor, *, proof: bool = False) -> bool:
    """Whether a condition holds.

    Args:
        condition: one truth value.
        proof: the call goes on in one way alone, and fails in the other.
    """
    noted = _noted.get()
    if noted is None:
        return bool(condition)
    with outside_modes():
        answer = bool(condition)
    noted.conditions.append(condition.reshape(()))
    noted.answers.append(answer)
    noted.proofs.append(proof)
    return answer


def numbers_of(t: Tensor) -> Tensor:
    """A tensor outside the graph, whose numbers decide how the graph looks.

    While a call is traced it is a copy on the CPU that the graph does not hold, and the condition
    that the numbers are still the same is noted.
    """
    if _noted.get() is None:
        return t.detach()
    with outside_modes(), torch.no_grad():
        known = t.detach().clone()
    decided((t.detach() == known).all())
    with outside_modes():
        return known.cpu()  # here, or the trace would take it for a tensor of the graph

"""Recurrent layers, and their terms beside those of the unrolled steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fullgrad.engine import pipeline
from snippets import Snippet, assert_exact, batch

INPUTS, HIDDEN, STEPS, SAMPLES = 5, 4, 6, 3
KINDS = {
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "tanh": nn.RNN,
    "relu": lambda *a, **o: nn.RNN(*a, nonlinearity="relu", **o),
}
kinds = pytest.mark.parametrize("kind", KINDS)
# Of the values that one step makes, in order of execution.
ROLES = {
    "LSTM": ["hidden", "sigmoid", "sigmoid", "tanh", "sigmoid", "mul", "mul", "tanh", "mul"],
    "GRU": ["hidden", "sigmoid", "sigmoid", "mul", "tanh", "sub", "mul"],
    "tanh": ["hidden", "tanh"],
    "relu": ["hidden"],
}


@contextmanager
def unrolled() -> Iterator[None]:
    """Recurrent layers step by step, as PyTorch unrolls them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "Recurrence", lambda recorder: nullcontext())
        yield


def layer(kind: str, **options: Any) -> nn.Module:
    torch.manual_seed(3)
    return KINDS[kind](INPUTS, HIDDEN, **options)


def model(run: Callable[..., Any], recurrent: nn.Module, **parts: Any) -> Snippet:
    width = (getattr(recurrent, "proj_size", 0) or HIDDEN) * (1 + recurrent.bidirectional)
    return Snippet(run, width, l=recurrent, **parts)


def series() -> Tensor:
    return batch(SAMPLES, STEPS, INPUTS)


def mean(m: Any, x: Tensor) -> Tensor:
    y = m.l(x if m.l.batch_first else x.transpose(0, 1))[0]
    return m.fc((y if m.l.batch_first else y.transpose(0, 1)).cumsum(1).mean(1))


def directions(d: Any) -> list[list[Any]]:
    """The terms of each layer and direction; each begins with its input's projection."""
    samples = len(d.output)
    found: list[list[Any]] = []
    for term in d.select("l"):
        if term.op == "add" or (len(term.shape) == 2 and term.shape[0] > samples):
            found.append([])
        found[-1].append(term)
    return found


def role(op: str) -> str:
    op = op.removesuffix("_")
    return "hidden" if op in ("add", "addmm") else op


def steps_of(terms: list[Any], reverse: bool) -> list[dict[str, list[Tensor]]]:
    """The unrolled terms of each step by role, in the order of the sequence."""
    steps: list[dict[str, list[Tensor]]] = [{}]
    for term in terms:
        if term.op == "addmm" and steps[-1]:
            steps.append({})
        steps[-1].setdefault(role(term.op), []).append(term.value)
    return steps[::-1] if reverse else steps


def assert_same_terms(kind: str, ours: list[Any], theirs: list[Any], reverse: bool) -> None:
    """Terms of one layer and direction: a slice of ours is the unrolled step's term."""
    first, other = ours[0].value, theirs[0].value
    shape = ours[1].shape[:2]
    torch.testing.assert_close(first.view(*shape, -1), other.view(*shape, -1), rtol=0, atol=1e-10)
    steps = steps_of(theirs[1:], reverse)
    assert len(steps) == shape[0]
    for t, step in enumerate(steps):
        start = t == (len(steps) - 1 if reverse else 0)
        mine: dict[str, list[Tensor]] = {}
        for term in ours[1:]:
            mine.setdefault(role(term.op), []).append(term.value[t])
        for name in {*mine, *step}:
            here, there = mine.get(name, []), step.get(name, [])
            if name == "hidden" and len(there) > 1:  # one for each gate, the last one constant
                rest = torch.zeros_like(there[0])
                there = [torch.cat([*there, rest], 1)]
            if len(here) != len(there):  # where a constant state starts, a product has no bias
                assert start or name == "sub", (t, name)
                here = [v for v in here if v.any()]
                there = [v for v in there if v.any()]
            assert len(here) == len(there), (t, name)
            for a, b in zip(here, there, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def compare(kind: str, m: nn.Module, x: Tensor, **options: Any) -> tuple[Any, Any]:
    ours = assert_exact(m, x, **options)
    with unrolled():
        theirs = assert_exact(m, x, **options)
    mine, reference = directions(ours), directions(theirs)
    assert len(mine) == len(reference) == m.l.num_layers * (1 + m.l.bidirectional)
    for k, (a, b) in enumerate(zip(mine, reference, strict=True)):
        assert_same_terms(kind, a, b, m.l.bidirectional and k % 2 == 1)
    torch.testing.assert_close(ours.input_gradients, theirs.input_gradients, rtol=0, atol=1e-10)
    return ours, theirs

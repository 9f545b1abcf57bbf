"""What a call leaves in memory: nothing that waits for the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import fullgrad


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = self.first(x)
        u[:, :2] = u[:, :2].sigmoid()
        with torch.no_grad():
            u.detach().mean()  # a value outside the graph
        return self.last(nn.functional.silu(u, inplace=True).mean((2, 3)))


class SequenceFirst(nn.Module):
    """The samples lie on the second axis, inside a transformer layer without a name for them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = x.flatten(2).permute(2, 0, 1)[..., :3].repeat(1, 1, 3)[..., :8]
        return self.layer(u).mean(0)


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(5),
    )


CALLS: dict[str, Callable[[nn.Module, torch.Tensor], Any]] = {
    "decompose": lambda m, x: fullgrad.decompose(m, x),
    "saliency": lambda m, x: fullgrad.saliency(m, x),
    "smooth": lambda m, x: fullgrad.saliency(
        m, x, method="smooth_fullgrad", noise=fullgrad.Noise(samples=2)
    ),
}


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


@pytest.mark.parametrize(
    ("make", "call"),
    [(cnn, "decompose"), (cnn, "smooth"), (InPlace, "saliency"), (SequenceFirst, "saliency")],
)
def test_nothing_waits_for_the_garbage_collector(
    make: Callable[[], nn.Module], call: str, no_collector: None
) -> None:
    model, x = make(), torch.randn(2, 3, 10, 10)
    model(x)  # lazy weights
    CALLS[call](model, x)  # what is made once and kept
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    CALLS[call](model, x)
    gc.collect()
    assert [type(o).__name__ for o in gc.garbage if isinstance(o, torch.Tensor)] == []


def test_what_biases_are_computed_from_is_freed_with_the_graph() -> None:
    """Not only when the call ends: the last layers' activations make room for the first ones'."""
    from fullgrad.engine import pipeline as explanation
    from fullgrad.engine.backward import product
    from fullgrad.engine.terms import Term

    held = []

    class Watching:
        def __init__(self, traced: explanation.Traced) -> None:
            self.entries = traced.tape.entries

        def term(self, term: Term) -> torch.Tensor:
            held.append(sum(len(e.held) + len(e.bias.held) for e in self.entries))  # type: ignore[union-attr]
            parts = term.parts()
            return torch.cat([term.sums(product(g, bias, False), n) for g, bias, n, _ in parts])

        def result(self, totals: explanation.Totals) -> None:
            pass

    model = nn.Sequential(
        nn.Flatten(), *[m for _ in range(4) for m in (nn.Linear(12, 12), nn.SiLU())]
    )
    request = explanation.Request(model, torch.randn(2, 3, 2, 2))
    explanation.explain(request, Watching)
    assert held == sorted(held, reverse=True)
    assert held[0] > held[-1] > 0
    assert held[-1] <= 4

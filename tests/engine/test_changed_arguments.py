"""Models that change their arguments: each pass sees them as given, and the user's stay."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad import methods
from fullgrad.errors import InputError
from snippets import batch

X = batch(2, 3, 8, 8)


class Scaled(nn.Module):
    """Changes a scale, a counter and what a container holds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 5))
        self.double()

    def forward(self, x: Tensor, scale: Tensor, kept: Any = None) -> Tensor:
        scale *= 2
        if kept is not None:
            kept["seen"].append(scale)
            x = x * len(kept["seen"])
        return self.net(x * scale)


class Cache:
    """Grows in every pass, as the caches of language models do."""

    def __init__(self) -> None:
        self.held: list[Tensor] = [torch.ones(1, dtype=torch.float64)]


class Cached(nn.Module):
    """Reads a cache that it makes longer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2).double()

    def forward(self, x: Tensor, cache: Any) -> Tensor:
        cache.held.append(torch.ones(1, dtype=x.dtype))
        return self.fc(x) * torch.cat(cache.held)[0] * len(cache.held)


def scale() -> Tensor:
    return torch.ones(2, 1, 1, 1, dtype=torch.float64)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"baseline": "mean", "linearization": "difference"},
        {
            "baseline": "mean",
            "terms": "input",
            "linearization": "quotient",
            "depth": "mean",
            "steps": 3,
        },
    ],
    ids=["plain", "difference", "path"],
)
@pytest.mark.parametrize("by_keyword", [False, True])
def test_complete_map(options: Any, by_keyword: bool) -> None:
    model, given = Scaled(), scale()
    true = model(X, scale())[:, 1]
    how: Any = {"additional_forward_args": (given,)}
    if by_keyword:
        how = {"forward_kwargs": {"scale": given}}
    found = fullgrad.complete_map(model, X, 1, **how, **options)
    torch.testing.assert_close(found.output, true, check_dtype=False)
    assert torch.equal(given, scale())


@pytest.mark.parametrize(
    "method",
    [
        "input_gradient",
        "integrated_gradients",
        "smoothgrad",
        "occlusion",
        "grad_cam",
        "combined_fullgrad",
    ],
)
def test_methods_see_the_given_values(method: str) -> None:
    model = Scaled()
    held = Scaled()
    held.forward = lambda x, scale: held.net(x * scale * 2)  # type: ignore[method-assign]
    given = scale()
    options: Any = {"additional_forward_args": (given,)}
    found = methods.attribute(method, model, X, 1, **options)
    assert torch.equal(given, scale())
    torch.testing.assert_close(found, methods.attribute(method, held, X, 1, **options))


def test_containers_and_integer_inputs() -> None:
    model, kept = Scaled(), {"seen": []}
    found = fullgrad.decompose(model, X, 1, additional_forward_args=(scale(), kept))
    assert kept == {"seen": []}
    torch.testing.assert_close(found.output, model(X, scale(), {"seen": []})[:, 1])

    class Counting(nn.Module):
        def forward(self, x: Tensor, count: Tensor) -> Tensor:
            count += 1
            return x.flatten(1) * count[:, None]

    count = torch.tensor([1, 2])
    found = fullgrad.decompose(Counting(), (X, count), 0)
    assert count.tolist() == [1, 2]
    torch.testing.assert_close(found.output, X[:, 0, 0, 0] * torch.tensor([2, 3]))


@pytest.mark.parametrize("in_graph", [False, True])
def test_a_cache_stays_as_it_was(in_graph: bool) -> None:
    model, cache, x = Cached(), Cache(), batch(1, 4)
    if in_graph:
        cache.held[0] = (cache.held[0].requires_grad_() * 1).clone()
    options: Any = {"layout": "BT", "linearization": "difference", "baseline": 0.0}
    found = fullgrad.complete_map(model, x, 0, forward_kwargs={"cache": cache}, **options)
    assert len(cache.held) == 1
    torch.testing.assert_close(found.output, model(x, Cache())[:, 0].detach())


def test_what_occurs_twice_is_one_thing() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
            a *= 2
            return x * b

    one = torch.ones(1, 4, dtype=torch.float64)
    x = batch(1, 4)
    found = fullgrad.decompose(
        Twice(), x, 0, additional_forward_args=(one,), forward_kwargs={"b": one}
    )
    torch.testing.assert_close(found.output, 2 * x[:, 0])
    assert torch.equal(one, torch.ones_like(one))


def test_what_cannot_be_copied_is_refused() -> None:
    with pytest.raises(InputError, match=r"cannot be copied.*attribute of the model"):
        fullgrad.decompose(Cached(), batch(1, 4), 0, forward_kwargs={"cache": threading.Lock()})


def test_a_generator_draws_the_same_in_each_pass() -> None:
    class Drawing(nn.Module):
        def forward(self, x: Tensor, drawn: torch.Generator) -> Tensor:
            return x * torch.rand(x.shape, generator=drawn, dtype=x.dtype)

    drawn = torch.Generator().manual_seed(3)
    first = fullgrad.decompose(Drawing(), batch(1, 4), 0, forward_kwargs={"drawn": drawn})
    again = fullgrad.decompose(Drawing(), batch(1, 4), 0, forward_kwargs={"drawn": drawn})
    assert torch.equal(first.output, again.output)


def test_modules_are_passed_on() -> None:
    class Headed(nn.Module):
        def forward(self, x: Tensor, head: nn.Module) -> Tensor:
            out: Tensor = head(x)
            return out

    head = nn.Linear(4, 2).double()
    found = fullgrad.decompose(Headed(), batch(1, 4), 0, forward_kwargs={"head": head})
    torch.testing.assert_close(found.output, head(batch(1, 4))[:, 0].detach())


def test_arrays_of_a_model_are_restored() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = np.zeros(1)
            self.more = {"fixed": np.ones(2), "kept": [np.arange(3)]}
            self.more["fixed"].flags.writeable = False

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.more["kept"][0][1] = 7
            return x * float(self.calls[0])

    model, x = Counting(), batch(1, 4)
    for _ in range(2):
        torch.testing.assert_close(fullgrad.decompose(model, x, 0).output, x[:, 0])
    assert model.calls.tolist() == [0] and model.more["kept"][0].tolist() == [0, 1, 2]

"""The mean of complete maps over the layers where the sum can be stopped."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad import methods


def pointwise(*, inplace: bool = False) -> nn.Sequential:
    """Layers of which each number lies at its own position, in float64."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 1),
        nn.GELU(),
        nn.Conv2d(5, 6, 1),
        nn.ReLU(inplace=inplace),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    ).double()


def images(count: int = 3, size: int = 4) -> Tensor:
    return torch.randn(
        count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


class Residual(nn.Module):
    """A block that something goes around."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.act(self.inner(x))


class Transformer(nn.Module):
    """Patches with a class token, two encoder layers, and a head on the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.Sequential(
            *(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2))
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        out: Tensor = self.head(self.blocks(tokens)[:, 0])
        return out


def stopped_by_hand(model: nn.Sequential, x: Tensor, target: int) -> list[Tensor]:
    """The map of each layer with positions, the model cut in two there."""
    found = []
    for cut in range(5):
        rest = model[cut:] if cut else model
        with torch.no_grad():
            a = model[:cut](x) if cut else x
        if a.shape[2:] != x.shape[2:]:
            break
        d = fullgrad.decompose(rest, a, target)
        maps = d.input_terms[0].sum(1, keepdim=True)
        for term in d.bias_terms:
            if term.value.shape[2:] == x.shape[2:]:
                maps = maps + term.value.sum(1, keepdim=True)
        found.append(maps)
    return found


@pytest.mark.parametrize("linearization", ["jacobian", "balanced"])
def test_it_is_the_mean_of_maps_of_the_model_cut_in_two(linearization: str) -> None:
    model, x = pointwise(), images()
    found = fullgrad.complete_map(model, x, 1, depth="mean", linearization=linearization)
    assert found.layers == ("input", "0", "1", "2", "3")
    if linearization == "jacobian":
        by_hand = stopped_by_hand(model, x, 1)
        assert len(by_hand) == 5
        torch.testing.assert_close(found.map, torch.stack(by_hand).mean(0), rtol=1e-10, atol=1e-12)
    total = found.map.sum((1, 2, 3)) + found.elsewhere
    torch.testing.assert_close(total, found.output, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("linearization", ["jacobian", "balanced"])
@pytest.mark.parametrize("kind", ["residual", "transformer", "two"])
def test_layers_that_something_goes_around_do_not_count(kind: str, linearization: str) -> None:
    torch.manual_seed(0)
    x = images(2, 8)
    model: nn.Module
    if kind == "residual":
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
        model, layers = nn.Sequential(Residual(), Residual(), *head), ("input", "0", "1")
    elif kind == "transformer":  # its class token is a constant, and goes around nothing
        norms = [f"blocks.{i}.norm{j}" for i in (0, 1) for j in (1, 2)]
        model, layers = Transformer(), ("input", "patches", *norms)
    else:
        model, layers = Parallel(), ("input", "after")
    model.double()
    found = fullgrad.complete_map(model, x, 1, depth="mean", linearization=linearization)
    assert found.layers == layers
    total = found.map.sum((1, 2, 3)) + found.elsewhere
    torch.testing.assert_close(total, found.output, rtol=1e-10, atol=1e-12)
    assert float(found.residual.abs().max()) < 1e-12


class Parallel(nn.Module):
    """Two branches side by side, then a layer that both pass through."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 5, padding=2)
        self.after = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(self.left(x).tanh() + self.right(x).relu())
        scores: Tensor = self.head(out.mean((2, 3)))
        return scores


def test_overwritten_outputs_do_not_count() -> None:
    x = images()
    model = pointwise(inplace=True)
    found = fullgrad.complete_map(model, x, 1, depth="mean")
    assert found.layers == ("input", "0", "1", "3")  # the output of 2 was overwritten by 3
    total = found.map.sum((1, 2, 3)) + found.elsewhere
    torch.testing.assert_close(total, found.output, rtol=1e-10, atol=1e-12)


def test_parts_of_the_terms() -> None:
    model, x = pointwise(), images()
    whole = fullgrad.complete_map(model, x, 1, depth="mean")
    layers = fullgrad.complete_map(model, x, 1, depth="mean", terms="input")
    biases = fullgrad.complete_map(model, x, 1, depth="mean", terms="bias")
    torch.testing.assert_close(layers.map + biases.map, whole.map, rtol=1e-10, atol=1e-12)
    for found in (layers, biases):
        assert "left out" in found.elsewhere_by_stage
        total = found.map.sum((1, 2, 3)) + found.elsewhere
        torch.testing.assert_close(total, found.output, rtol=1e-10, atol=1e-12)


def test_minibatches_and_methods_give_the_same() -> None:
    model, x = pointwise(), images(5)
    whole = fullgrad.complete_map(model, x, depth="mean", linearization="balanced")
    parts = fullgrad.complete_map(model, x, depth="mean", linearization="balanced", batch_size=2)
    assert parts.layers == whole.layers
    torch.testing.assert_close(parts.map, whole.map, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        methods.attribute("balanced_fullgrad", model, x, depth="mean"), whole.map
    )


def test_the_model_keeps_its_hooks_and_gets_none() -> None:
    model, x = pointwise(), images()
    calls: list[str] = []
    handle = model[1].register_forward_hook(lambda *_: calls.append("mine"))
    fullgrad.complete_map(model, x, 1, depth="mean")
    assert calls == ["mine"]
    assert [len(m._forward_hooks) for m in model] == [0, 1, 0, 0, 0, 0, 0]
    with pytest.raises(fullgrad.FullGradError):
        fullgrad.complete_map(model, x, 99, depth="mean")
    assert [len(m._forward_hooks) for m in model] == [0, 1, 0, 0, 0, 0, 0]
    handle.remove()


def test_unknown_depth() -> None:
    with pytest.raises(ValueError, match="depth must be 'input', 'mean' or 'early', not 'middle'"):
        fullgrad.complete_map(pointwise(), images(), depth="middle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="depth must be 'input', 'mean' or 'early', not 'middle'"):
        methods.attribute("difference_fullgrad", pointwise(), images(), depth="middle")


def test_no_depth_is_one_layer() -> None:
    found = fullgrad.complete_map(pointwise(), images(), 1)
    assert found.layers == ("input",)

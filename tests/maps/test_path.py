"""Complete maps in steps from a baseline to the input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad import methods
from fullgrad.errors import ModelError, OptionError
from fullgrad.maps.combined import combined_map
from fullgrad.targets import log_probability


class Gated(nn.Module):
    """Attention, a norm, GELU, a gate and a residual sum, on 16 positions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mix = nn.Linear(8, 8)
        self.gate = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        n = self.norm(tokens)
        tokens = tokens + self.attention(n, n, n, need_weights=False)[0]
        tokens = nn.functional.gelu(self.mix(tokens)) * self.gate(tokens).sigmoid()
        out: Tensor = self.head(tokens.mean(1))
        return out


def rectified() -> nn.Sequential:
    """Linear layers and ReLU alone."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(5, 6, 3, stride=2),
        nn.LeakyReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    ).double()


def images(count: int = 3, size: int = 8) -> Tensor:
    seed = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=seed)


def mean_of(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True).expand_as(x).contiguous()


WAY = {"baseline": "mean", "terms": "input", "linearization": "quotient"}


def sums(found: fullgrad.CompleteMap) -> Tensor:
    return found.map.flatten(2).sum(2).view(found.output.shape)


@pytest.mark.parametrize("depth", ["input", "mean", "early"])
def test_steps_are_the_calls_one_by_one(depth: str) -> None:
    model, x = Gated().double(), images()
    target = model(x).argmax(1)
    found = fullgrad.complete_map(model, x, steps=3, depth=depth, **WAY)
    assert found.steps.tolist() == [3, 3, 3]
    start, total, before = mean_of(x), torch.zeros_like(found.map), mean_of(x)
    for step in (1, 2, 3):
        here = start + (x - start) * (step / 3)
        part = fullgrad.complete_map(
            model, here, target, depth=depth, **{**WAY, "baseline": before}
        )
        assert part.layers == found.layers
        total, before = total + part.map, here
    torch.testing.assert_close(found.map, total, rtol=1e-10, atol=1e-12)
    assert found.target is not None
    assert found.target.tolist() == target.tolist()
    torch.testing.assert_close(found.output, model(x).amax(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(sums(found) + found.elsewhere, found.output, rtol=1e-9, atol=1e-10)
    assert float(found.residual.abs().max()) < 1e-10


def test_with_difference_quotients_alone_a_layer_has_the_whole_difference() -> None:
    model, x = rectified(), images()
    whole = (model(x) - model(mean_of(x)))[:, 2]
    for depth in ("input", "early"):
        for steps in (1, 2, 5):
            found = fullgrad.complete_map(model, x, 2, depth=depth, steps=steps, **WAY)
            torch.testing.assert_close(sums(found), whole.detach(), rtol=1e-6, atol=1e-7)
            if steps > 1:
                assert list(found.elsewhere_by_stage) == ["reference"]
                at_baseline = model(mean_of(x))[:, 2].detach()
                torch.testing.assert_close(found.elsewhere, at_baseline, rtol=1e-6, atol=1e-7)


def test_many_steps_come_to_integrated_gradients() -> None:
    model, x = Gated().double(), images(2)
    many = methods.attribute(
        "integrated_gradients", model, x, 1, signed=True, baseline="mean", n_steps=200
    )
    gaps = []
    for steps in (4, 64):
        found = fullgrad.complete_map(model, x, 1, steps=steps, **WAY)
        gaps.append(float((found.map - many).abs().max() / many.abs().max()))
    assert gaps[1] < 0.02 < gaps[0] < 0.5
    whole = (model(x) - model(mean_of(x)))[:, 1]
    torch.testing.assert_close(sums(found), whole.detach(), rtol=0.02, atol=1e-3)


def test_early_layers_count_more() -> None:
    model, x = rectified(), images()
    common = {"baseline": "mean", "terms": "input"}
    found = fullgrad.complete_map(model, x, 1, depth="early", **common)
    layers = len(found.layers)
    # The model from each layer on: its map is the layer's own.
    maps = [fullgrad.complete_map(model, x, 1, **common).map]
    for cut in range(1, layers):
        with torch.no_grad():
            a, there = model[:cut](x), model[:cut](mean_of(x))
        own = fullgrad.decompose(model[cut:], a, 1).input_gradients[0] * (a - there)
        maps.append(own)
    weights = torch.arange(layers, 0, -1, dtype=torch.float64) ** 2
    weights = (weights / weights.sum()).tolist()
    expected = sum(w * m.flatten(1).sum(1) for w, m in zip(weights, maps, strict=True))
    torch.testing.assert_close(sums(found), expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(sums(found) + found.elsewhere, found.output, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("terms", ["all", "bias"])
def test_bias_terms_are_in_the_maps_of_the_layers_before_them(terms: str) -> None:
    model, x = rectified(), images()
    found = fullgrad.complete_map(model, x, 1, depth="early", terms=terms)
    torch.testing.assert_close(sums(found) + found.elsewhere, found.output, rtol=1e-9, atol=1e-10)


def test_several_targets_and_minibatches() -> None:
    model, x = Gated().double(), images()
    options = {"steps": 2, "depth": "early", **WAY}
    two = fullgrad.complete_map(model, x, [[1, 3]], **options)
    top = fullgrad.complete_map(model, x, top=2, **options)
    assert two.map.shape[:2] == top.map.shape[:2] == (3, 2)
    for i, c in enumerate((1, 3)):
        one = fullgrad.complete_map(model, x, c, **options)
        torch.testing.assert_close(two.map[:, i : i + 1], one.map, rtol=1e-10, atol=1e-12)
    assert torch.equal(top.target, model(x).topk(2).indices)
    cut = fullgrad.complete_map(model, x, top=2, batch_size=2, **options)
    torch.testing.assert_close(cut.map, top.map, rtol=1e-10, atol=1e-12)
    likely = fullgrad.complete_map(model, x, log_probability(), **options)
    expected = model(x).log_softmax(1).amax(1).detach()
    torch.testing.assert_close(likely.output, expected, rtol=1e-12, atol=0)


def test_other_inputs_go_along() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, scale: Tensor, index: Tensor) -> Tensor:
            return (x.tanh() * scale).sum((1, 2))[:, None] * (1 + index[:, None])

    x = images()[:, 0]
    scale, index = torch.rand(3, 1, 8, dtype=torch.float64), torch.tensor([0, 1, 2])
    start = torch.zeros_like(scale)
    found = fullgrad.complete_map(
        Two(),
        (x, scale, index),
        0,
        steps=3,
        layout=("BHW", "BAH"),
        **{**WAY, "baseline": (0, start)},
    )
    total = sum(m.flatten(1).sum(1) for m in found.maps) + found.elsewhere
    torch.testing.assert_close(total, found.output, rtol=1e-9, atol=1e-10)


def test_the_model_is_left_alone() -> None:
    model, x = Gated().train().double(), images()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    kept = x.clone()
    state = torch.get_rng_state()
    fullgrad.complete_map(model, x, 0, steps=2, depth="early", **WAY)
    assert model.training
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


def test_random_numbers_are_the_same_at_each_step() -> None:
    model = nn.Sequential(nn.Dropout(0.5), *rectified()).train()
    x = images()
    found = fullgrad.complete_map(model, x, 1, mode="as_is", steps=3, **WAY)
    torch.testing.assert_close(sums(found) + found.elsewhere, found.output, rtol=1e-9, atol=1e-10)


def test_a_model_that_does_something_else_on_the_way() -> None:
    class Turns(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x.tanh() if float(x.detach().abs().mean()) > 0.3 else x
            return x.relu().mean((2, 3))

    with pytest.raises(ModelError, match="does not do the same on the baseline as on the input"):
        fullgrad.complete_map(Turns(), images(), 1, steps=4, **{**WAY, "baseline": 0.0})


def test_steps_need_a_baseline_and_input_terms() -> None:
    model, x = rectified(), images()
    with pytest.raises(OptionError, match="steps=3 lead from a baseline to the input: give "):
        fullgrad.complete_map(model, x, 1, steps=3, terms="input")
    with pytest.raises(OptionError, match="bias terms do not: give terms='input', or steps=1"):
        fullgrad.complete_map(model, x, 1, steps=3, baseline="mean")
    for way_out in ({"baseline": "mean", "terms": "input"}, {"baseline": 0.0, "terms": "input"}):
        fullgrad.complete_map(model, x, 1, steps=3, **way_out)
    fullgrad.complete_map(model, x, 1, steps=1, baseline="mean")
    with pytest.raises(OptionError, match="steps='auto' lead from a baseline to the input: give "):
        fullgrad.complete_map(model, x, 1, steps="auto", terms="input")
    for wrong in (0, 2.0, True, "some"):
        with pytest.raises(
            ValueError, match="steps must be a positive whole number or 'auto', not"
        ):
            fullgrad.complete_map(model, x, 1, steps=wrong)


def test_quotients_need_a_baseline() -> None:
    message = "linearization='quotient' compares with a baseline: call fullgrad.complete_map with"
    with pytest.raises(ValueError, match=message):
        fullgrad.decompose(rectified(), images(), 1, linearization="quotient")


def test_one_step_where_it_is_enough() -> None:
    one = fullgrad.complete_map(rectified(), images(), steps="auto", **WAY)
    assert one.steps.tolist() == [1, 1, 1]
    assert list(one.elsewhere_by_stage) == ["reference"]
    plain = fullgrad.complete_map(rectified(), images(), **WAY)
    assert torch.equal(one.map, plain.map)
    torch.testing.assert_close(one.elsewhere, plain.elsewhere, rtol=1e-10, atol=1e-12)
    model, x = Gated().double(), images()
    found = fullgrad.complete_map(model, x, steps="auto", **WAY)
    eight = fullgrad.complete_map(model, x, steps=8, **WAY)
    assert found.steps.tolist() == [8, 8, 8]
    assert torch.equal(found.map, eight.map)
    torch.testing.assert_close(sums(found) + found.elsewhere, found.output, rtol=1e-9, atol=1e-10)


class Mixed(nn.Module):
    """A product of two activations where the first channel is large, else its parts alone."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, 0].relu() * x[:, 1]).mean((1, 2))[:, None] + x.mean((1, 2, 3))[:, None]


def test_each_sample_has_its_own_number_of_steps() -> None:
    x = images()
    x[0, 0] = -x[0, 0].abs() - 1  # nothing is left of the product
    for target in (None, [[0, 0]]):
        found = fullgrad.complete_map(Mixed(), x, target, steps="auto", **{**WAY, "baseline": 0.0})
        assert found.steps.flatten().tolist() == (
            [1, 8, 8] if target is None else [1, 1, 8, 8, 8, 8]
        )
        for i in range(3):
            alone = fullgrad.complete_map(
                Mixed(), x[i : i + 1], target, steps="auto", **{**WAY, "baseline": 0.0}
            )
            torch.testing.assert_close(alone.map, found.map[i : i + 1], rtol=1e-12, atol=1e-14)
        total = sums(found) + found.elsewhere
        torch.testing.assert_close(total, found.output, rtol=1e-9, atol=1e-10)


def test_as_a_method() -> None:
    model, x = Gated().double(), images()
    found = fullgrad.complete_map(model, x, 1, steps="auto", depth="early", **WAY)
    own = methods.attribute("path_fullgrad", model, x, 1, signed=True)
    assert torch.equal(own, found.map)
    with pytest.raises(OptionError, match="give terms='input', or steps=1"):
        methods.attribute("path_fullgrad", model, x, 1, terms="all")
    methods.attribute("path_fullgrad", model, x, 1, terms="all", steps=1)


# -- the mean of three ways ---------------------------------------------------------------------

ONE_STEP = {"baseline": "mean", "terms": "input", "depth": "mean"}


@pytest.mark.parametrize(
    ("net", "steps"), [(Gated().double(), "auto"), (rectified(), 1), (rectified(), 3)]
)
def test_the_combined_map_is_the_mean_of_its_three_maps(net: nn.Module, steps: Any) -> None:
    x = images()
    found = combined_map(net, x, 2, steps=steps)
    parts = [
        fullgrad.complete_map(net, x, 2, steps=steps, depth="early", **WAY),
        fullgrad.complete_map(net, x, 2, linearization="difference", **ONE_STEP),
        fullgrad.complete_map(net, x, 2, linearization="balanced", **ONE_STEP),
    ]
    for name in ("map", "elsewhere", "residual"):
        own = [getattr(part, name) for part in parts]
        mean = own[0] / 2 + own[1] / 4 + own[2] / 4
        torch.testing.assert_close(getattr(found, name), mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.output, net(x)[:, 2].detach(), rtol=1e-12, atol=0)
    total = sums(found) + found.elsewhere + found.residual
    torch.testing.assert_close(total, found.output, rtol=1e-12, atol=1e-13)
    assert float(found.residual.abs().max()) < 1e-10
    stages = torch.stack([*found.elsewhere_by_stage.values()]).sum(0)
    torch.testing.assert_close(stages, found.elsewhere, rtol=1e-12, atol=1e-14)
    assert torch.equal(found.steps, parts[0].steps)
    assert set(found.layers) == {name for part in parts for name in part.layers}
    assert found.linearization == "quotient, difference, balanced"
    assert found.zero == parts[0].zero


@pytest.mark.parametrize("target", [None, [[0, 0]]])
def test_the_map_of_one_exact_step_is_not_mixed_with_others(target: Any) -> None:
    x = images()
    exact = combined_map(rectified(), x, 1)
    alone = fullgrad.complete_map(rectified(), x, 1, depth="early", **WAY)
    assert torch.equal(exact.map, alone.map)
    assert exact.linearization == "quotient"
    x[0, 0] = -x[0, 0].abs() - 1
    found = combined_map(Mixed(), x, target, baseline=0.0)
    first, one, end = (
        fullgrad.complete_map(Mixed(), x, target, terms="input", baseline=0.0, **options)
        for options in (
            {"steps": "auto", "depth": "early", "linearization": "quotient"},
            {"depth": "mean", "linearization": "difference"},
            {"depth": "mean", "linearization": "balanced"},
        )
    )
    assert (found.steps[0] == 1).all()
    assert torch.equal(found.map[0], first.map[0])
    mean = first.map / 2 + one.map / 4 + end.map / 4
    torch.testing.assert_close(found.map[1:], mean[1:], rtol=1e-12, atol=1e-14)
    assert not torch.allclose(found.map[1:], first.map[1:], rtol=1e-3)
    total = sums(found) + found.elsewhere + found.residual
    torch.testing.assert_close(total, found.output, rtol=1e-9, atol=1e-10)


def test_the_combined_map_of_several_targets_inputs_and_minibatches() -> None:
    model, x = Gated().double(), images()
    two = combined_map(model, x, [[1, 3]], batch_size=2)
    for i, c in enumerate((1, 3)):
        one = combined_map(model, x, c)
        torch.testing.assert_close(two.map[:, i : i + 1], one.map, rtol=1e-10, atol=1e-12)
    assert combined_map(model, x, top=2).map.shape[:2] == (3, 2)

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = Gated(), Gated()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            out: Tensor = self.one(a) + self.two(b)
            return out

    both = combined_map(Sum().double(), (x, 2 * x), 1, steps=2)
    assert [m.shape for m in both.maps] == [(3, 1, 8, 8)] * 2
    total = sum(m.flatten(1).sum(1) for m in both.maps) + both.elsewhere
    torch.testing.assert_close(total, both.output, rtol=1e-9, atol=1e-10)


def test_combined_as_a_method() -> None:
    model, x = Gated().double(), images()
    own = methods.attribute("combined_fullgrad", model, x, 1, signed=True, baseline=0.5)
    assert torch.equal(own, combined_map(model, x, 1, baseline=0.5).map)
    with pytest.raises(OptionError, match="what sets the input apart from a baseline: give base"):
        combined_map(model, x, 1, baseline=None)
    combined_map(model, x, 1, baseline="mean")
    with pytest.raises(ValueError, match="baseline must be a number, a tensor or 'mean', not None"):
        methods.attribute("combined_fullgrad", model, x, 1, baseline=None)
    with pytest.raises(OptionError, match="linearization"):
        methods.attribute("combined_fullgrad", model, x, 1, linearization="jacobian")

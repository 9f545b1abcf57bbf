"""What sets the input apart from a baseline: difference quotients, layer by layer."""

from __future__ import annotations

import warnings
from typing import Any

import captum.attr
import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad import methods
from fullgrad.errors import InputError, ModelError


def images(count: int = 3, size: int = 4, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=generator)


def pointwise(act: type[nn.Module] = nn.ReLU, **options: Any) -> nn.Sequential:
    """Layers of which each number lies at its own position."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 1),
        act(**options),
        nn.Conv2d(5, 6, 1),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    ).double()


class Gated(nn.Module):
    """Convolutions with a residual sum, a squeeze-and-excitation gate and a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.gate = nn.Conv2d(6, 6, 1)
        self.norm = nn.GroupNorm(2, 6)
        self.head = nn.Linear(6, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.stem(x))
        x = x + x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        x = nn.functional.gelu(self.norm(x))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def sum_of(found: fullgrad.CompleteMap) -> Tensor:
    return found.map.sum((1, 2, 3)) + found.elsewhere


@pytest.mark.parametrize("depth", ["input", "mean"])
@pytest.mark.parametrize("terms", ["all", "input"])
@pytest.mark.parametrize("baseline", ["mean", 0.0, 0.3])
def test_it_sums_to_the_output(baseline: Any, terms: str, depth: Any) -> None:
    x = images(size=6)
    for model in (pointwise(), pointwise(nn.GELU), pointwise(nn.ReLU, inplace=True), Gated()):
        found = fullgrad.complete_map(
            model, x, 1, linearization="difference", baseline=baseline, terms=terms, depth=depth
        )
        torch.testing.assert_close(sum_of(found), found.output, rtol=1e-10, atol=1e-12)
        assert "reference" in found.elsewhere_by_stage


@pytest.mark.parametrize("act", [nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Softplus])
@pytest.mark.parametrize("depth", ["input", "mean"])
def test_element_wise_networks_leave_nothing_beside(act: type[nn.Module], depth: Any) -> None:
    model, x = pointwise(act), images()
    zero = torch.full_like(x, 0.25)
    found = fullgrad.complete_map(
        model, x, 1, linearization="difference", baseline=0.25, terms="input", depth=depth
    )
    with torch.no_grad():
        apart = (model(x) - model(zero))[:, 1]
    torch.testing.assert_close(found.map.sum((1, 2, 3)), apart, rtol=1e-6, atol=1e-7)
    assert len(found.layers) == (5 if depth == "mean" else 1)


def test_it_is_deeplift_where_that_applies() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)
    ).double()
    x, zero = images(size=6), images(size=6, seed=5)
    found = fullgrad.complete_map(
        model, x, 1, linearization="difference", baseline=zero, terms="input"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = captum.attr.DeepLift(model).attribute(x, zero, target=1)
    torch.testing.assert_close(found.map, own.sum(1, keepdim=True), rtol=1e-6, atol=1e-9)


def test_it_is_the_mean_over_the_model_cut_in_two() -> None:
    model, x = pointwise(nn.GELU), images()
    zero = x.mean((2, 3), keepdim=True).expand_as(x)
    options: dict[str, Any] = {"linearization": "difference", "terms": "input"}
    whole = fullgrad.complete_map(model, x, 1, baseline="mean", depth="mean", **options)
    by_hand = []
    for cut in range(5):
        a, a0 = (model[:cut](v).detach() for v in (x, zero))
        part = fullgrad.complete_map(model[cut:], a, 1, baseline=a0, layout="BCHW", **options)
        by_hand.append(part.map)
    assert whole.layers == ("input", "0", "1", "2", "3")
    torch.testing.assert_close(whole.map, torch.stack(by_hand).mean(0), rtol=1e-9, atol=1e-11)


def test_the_baseline_by_word_number_and_tensor() -> None:
    model, x = Gated(), images(4, 6)
    options: dict[str, Any] = {"linearization": "difference", "depth": "mean"}
    word = fullgrad.complete_map(model, x, 1, baseline="mean", **options)
    mean = x.mean((2, 3), keepdim=True).expand_as(x)
    given = fullgrad.complete_map(model, x, 1, baseline=mean, **options)
    torch.testing.assert_close(word.map, given.map, rtol=1e-10, atol=1e-12)
    assert word.zero == "the mean over positions of each sample and channel"
    parts = fullgrad.complete_map(model, x, 1, baseline=mean, batch_size=3, **options)
    torch.testing.assert_close(parts.map, given.map, rtol=1e-10, atol=1e-12)
    auto = fullgrad.complete_map(model, x, 1, baseline="mean", batch_size="auto", **options)
    torch.testing.assert_close(auto.map, given.map, rtol=1e-10, atol=1e-12)
    same = fullgrad.complete_map(model, mean, 1, baseline="mean", terms="input", **options)
    assert float(same.map.abs().max()) < 1e-12
    map_of = methods.attribute("difference_fullgrad", model, x, 1)
    plain = fullgrad.complete_map(model, x, 1, baseline="mean", terms="input", **options)
    torch.testing.assert_close(map_of, plain.map)


def test_positions_are_averaged_whatever_the_layout() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Flatten(), nn.Linear(20, 2)).double()
    x = images()[..., 0].mT.contiguous()  # (B, T, C)
    mean = x.mean(1, keepdim=True).expand_as(x)
    options: dict[str, Any] = {"linearization": "difference", "layout": "BTC"}
    word = fullgrad.complete_map(model, x, 1, baseline="mean", **options)
    given = fullgrad.complete_map(model, x, 1, baseline=mean, **options)
    torch.testing.assert_close(word.map, given.map)
    for method, more in (("integrated_gradients", {"n_steps": 4}), ("occlusion", {"cell": 1})):
        found = [
            methods.attribute(method, model, x, 1, layout="BTC", baseline=b, signed=True, **more)
            for b in ("mean", mean)
        ]
        torch.testing.assert_close(*found)


def test_several_inputs_and_several_targets() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.stack([(x.relu() * 2).sum((1, 2, 3)), y.tanh().sum((1, 2, 3))], 1)

    x, y = images(), images(seed=4)
    options: dict[str, Any] = {"linearization": "difference", "terms": "input"}
    found = fullgrad.complete_map(Two(), (x, y), [[0, 1]], baseline=["mean", 0.1], **options)
    first, second = found.maps
    assert first.shape == second.shape == (3, 2, 4, 4)
    mean = x.mean((2, 3), keepdim=True)
    own = (2 * x.relu() - 2 * mean.relu()).sum(1)
    torch.testing.assert_close(first[:, 0], own, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        second[:, 1],
        (y.tanh() - 0.1 * 0 - torch.tensor(0.1).double().tanh()).sum(1),
        rtol=1e-6,
        atol=1e-7,
    )
    assert float(first[:, 1].abs().max()) == float(second[:, 0].abs().max()) == 0


class Choosing(nn.Module):
    """Does something else where the numbers are small."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(48, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu() if float(x.detach().std()) > 0.5 else x.tanh()
        out: Tensor = self.head(x.flatten(1))
        return out


def test_a_model_that_does_something_else_on_the_baseline() -> None:
    x = images()
    with pytest.raises(ModelError, match=r"does not do the same on the baseline .*'balanced'"):
        methods.attribute("difference_fullgrad", Choosing(), x, 1)
    found = methods.attribute(  # the way out, in the same call
        "difference_fullgrad", Choosing(), x, 1, linearization="balanced", depth="input"
    )
    assert found.shape == (3, 1, 4, 4)


def test_calls_without_a_baseline_refuse_it() -> None:
    model, x = pointwise(), images()
    message = "linearization='difference' compares with a baseline: call fullgrad.complete_map"
    for call in (fullgrad.decompose, fullgrad.saliency, fullgrad.complete_map):
        with pytest.raises(ValueError, match=message):
            call(model, x, 1, linearization="difference")  # type: ignore[operator]
    fullgrad.complete_map(model, x, 1, linearization="difference", baseline="mean")
    with pytest.raises(
        ValueError, match="baseline must be a number, a tensor or 'mean', not 'median'"
    ):
        fullgrad.complete_map(model, x, 1, baseline="median")
    with pytest.raises(InputError, match="2 baselines were given for 1 inputs"):
        fullgrad.complete_map(model, x, 1, baseline=[0.0, 0.0])


def test_random_draws_are_the_same_on_both() -> None:
    model = nn.Sequential(nn.Dropout(0.5), *pointwise())
    model.train()
    x = images().abs() + 1
    torch.manual_seed(7)
    before = torch.get_rng_state()
    found = fullgrad.complete_map(
        model, x, 1, linearization="difference", baseline=x.clone(), depth="mean", mode="as_is"
    )
    assert float(found.map.abs().max()) == 0 or "left out" not in found.elsewhere_by_stage
    torch.testing.assert_close(sum_of(found), found.output, rtol=1e-10, atol=1e-12)
    torch.manual_seed(7)
    same = fullgrad.complete_map(
        model,
        x,
        1,
        linearization="difference",
        baseline=x.clone(),
        terms="input",
        depth="mean",
        mode="as_is",
    )
    assert float(same.map.abs().max()) == 0  # with other draws there would be a difference
    assert torch.equal(before, torch.get_rng_state())


class Broadcasting(nn.Module):
    """An element-wise operation whose output is larger than its argument, and one that is complex."""

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.hypot(x[..., :1], torch.ones(4, dtype=x.dtype))
        turned = torch.polar(x.abs() + 1, torch.ones_like(x)).abs()
        return torch.stack([wide.sum((1, 2, 3)), turned.sum((1, 2, 3))], 1)


@pytest.mark.parametrize("target", [0, 1])
def test_operations_whose_numbers_do_not_pair_up(target: int) -> None:
    found = fullgrad.complete_map(
        Broadcasting(), images(), target, linearization="difference", baseline="mean"
    )
    torch.testing.assert_close(sum_of(found), found.output, rtol=1e-10, atol=1e-12)


def test_a_mean_over_no_positions_is_refused() -> None:
    model, x = nn.Linear(3, 2).double(), images()[..., 0, 0]
    with pytest.raises(InputError, match=r"the mean over positions, .*\(3, 3\) has none: give a"):
        fullgrad.complete_map(model, x, 1, linearization="difference", baseline="mean")

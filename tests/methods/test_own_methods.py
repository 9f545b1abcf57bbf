"""The registry, methods of users, and what a call leaves behind."""

from __future__ import annotations

import random as python_random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad import methods
from fullgrad.errors import MethodError
from fullgrad.methods import attribute
from networks import Weighted
from networks import dropout_net as net
from networks import small_images as images
from snippets import state_of as state

QUICK = {
    "integrated_gradients": {"n_steps": 3},
    "smoothgrad": {"samples": 2},
    "smooth_fullgrad": {"samples": 2},
}


# -- the registry and methods of users -----------------------------------------------------------


def test_registry() -> None:
    with pytest.raises(
        ValueError,
        match=r"unknown method 'grad-cam'; did you mean 'grad_cam'.*known: fullgrad, simple",
    ):
        methods.get("grad-cam")
    with pytest.raises(ValueError, match="unknown method 7; known: fullgrad, "):
        attribute(7, net(), images())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown method 'mine'"):
        methods.unregister("mine")

    def mine(model: nn.Module, inputs: Tensor, target: Any, power: float = 2.0) -> Tensor:
        return inputs**power

    method = methods.register("mine", mine, about="A power.", reference="None")
    assert methods.get("mine") is method
    assert methods.names()[-1] == "mine"
    with pytest.raises(ValueError, match="method 'mine' is registered already; pass replace=True"):
        methods.register("mine", mine)
    again = methods.register("mine", mine, replace=True)
    assert methods.unregister("mine") is again
    assert "mine" not in methods.names()
    for wrong, match in (
        ({"name": ""}, "a method's name must be a string that is not empty, not ''"),
        ({"function": 3}, "the function of method 'mine' must be callable, not 3"),
        (
            {"options": dict},
            "options of method 'mine' must be a dataclass type, not <class 'dict'>",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            methods.register(**({"name": "mine", "function": mine} | wrong))  # type: ignore[arg-type]

    def clash(model: nn.Module, inputs: Tensor, target: Any, batch_size: int = 1) -> Tensor:
        return inputs

    with pytest.raises(ValueError, match="cannot have an option 'batch_size': attribute"):
        methods.register("clash", clash)


def test_a_users_function_is_called_as_documented() -> None:
    model, x = net(), images(3)
    x.requires_grad_(True)
    calls: list[Any] = []

    def mine(m: nn.Module, inputs: Tensor, target: Tensor, power: float = 2.0) -> Tensor:
        assert m is model
        assert not any(part.training for part in m.modules())
        assert torch.is_grad_enabled()
        assert not inputs.requires_grad
        assert target.dtype == torch.long
        calls.append((len(inputs), target.tolist(), power))
        inputs.requires_grad_(True)
        g = torch.autograd.grad(m(inputs).gather(1, target[:, None]).sum(), inputs)[0]
        with torch.no_grad():
            inputs.mul_(0)
        return g.abs() ** power

    predicted = net().eval()(x).argmax(1).tolist()
    found = attribute(mine, model, x)
    expected = attribute("input_gradient", model, x)
    assert found.shape == expected.shape
    linear = attribute(mine, model, x, predicted, power=1.0, batch_size=2)
    torch.testing.assert_close(linear, expected)
    assert calls == [(3, predicted, 2.0), (2, predicted[:2], 1.0), (1, predicted[2:], 1.0)]
    attribute(mine, model, x, 5)
    assert calls[-1] == (3, [5, 5, 5], 2.0)
    assert float(x.detach().abs().max()) > 0
    with pytest.raises(ValueError, match="method 'mine' has no option 'pow'; its options: power"):
        attribute(mine, model, x, pow=3)

    def needs(m: nn.Module, inputs: Tensor, target: Any, *, power: float) -> Tensor:
        return inputs**power

    with pytest.raises(ValueError, match="method 'needs' needs the option 'power'"):
        attribute(needs, model, x, 1)
    torch.testing.assert_close(
        attribute(needs, model, x, 1, power=2.0), (x.detach() ** 2).sum(1, keepdim=True)
    )


def test_options_of_a_users_own_dataclass() -> None:
    @dataclass(frozen=True)
    class Options:
        scale: float = 2.0
        offset: Any = 0.0

        def __post_init__(self) -> None:
            if self.scale <= 0:
                raise ValueError("scale must be positive")

    def mine(m: nn.Module, inputs: Tensor, target: Any, scale: float, offset: Any) -> Tensor:
        return inputs * scale + offset

    methods.register("mine", mine, options=Options)
    x, offset = images(3), images(3) ** 2
    torch.testing.assert_close(
        attribute("mine", net(), x, 1, offset=offset, batch_size=2, signed=True),
        (2 * x + offset).sum(1, keepdim=True),
    )
    with pytest.raises(ValueError, match="scale must be positive"):
        attribute("mine", net(), x, 1, scale=0)


def test_shapes_that_a_function_may_return() -> None:
    model, x = net(), images()
    for function, signed, unsigned in (
        (lambda m, a, t: a, x.sum(1, keepdim=True), x.abs().sum(1, keepdim=True)),
        (lambda m, a, t: a[:, :1], x[:, :1], x[:, :1].abs()),
        (lambda m, a, t: a[:, 0], x[:, :1], x[:, :1].abs()),
    ):
        torch.testing.assert_close(attribute(function, model, x, 1, signed=True), signed)
        torch.testing.assert_close(attribute(function, model, x, 1), unsigned)
    for function, match in (
        (
            lambda m, a, t: a[:, :2],
            r"'<lambda>' returned shape \(2, 2, 8, 8\) for an input of shape \(2, 3, 8, 8\); accepted: \(2, 3, 8, 8\), \(2, 1, 8, 8\), \(2, 8, 8\)",
        ),
        (lambda m, a, t: a.numpy(), r"'<lambda>' must return a floating tensor, not ndarray"),
        (lambda m, a, t: a.long(), r"must return a floating tensor, not a torch.int64 tensor"),
        (lambda m, a, t: a / 0, r"'<lambda>' returned NaN or infinite values"),
    ):
        with pytest.raises(MethodError, match=match):
            attribute(function, model, x, 1)


def test_additional_arguments_of_a_users_function() -> None:
    def takes(m: nn.Module, a: Tensor, t: Any, additional_forward_args: Any = None) -> Tensor:
        weight = additional_forward_args[0]
        return a * weight.mul_(2).reshape(-1, 1, 1, 1)

    model, x, weight = Weighted(), images(3), torch.tensor([1.0, -2.0, 0.5]).double()
    extra = (weight, {"table": torch.ones(2, 2)})
    found = attribute(takes, model, x, additional_forward_args=extra, batch_size=2, signed=True)
    torch.testing.assert_close(found, (x * 2 * weight.reshape(-1, 1, 1, 1)).sum(1, keepdim=True))
    assert weight.tolist() == [1.0, -2.0, 0.5]
    with pytest.raises(MethodError, match="'<lambda>' does not take additional_forward_args: give"):
        attribute(lambda m, a, t: a, model, x, 1, additional_forward_args=extra)


def vandal(fails: bool) -> Any:
    def spoil(m: Any, a: Tensor, t: Any) -> Tensor:
        torch.manual_seed(torch.randint(9, ()).item())
        np.random.rand()
        python_random.random()
        m.note = "seen"
        m.train()
        m[2].inplace = True
        m[0].register_forward_hook(lambda *_: None)
        m[0].weight.requires_grad_(False)
        m[0].bias.grad = torch.ones(4).double()
        m(a)
        with torch.no_grad():
            m[1].running_mean.add_(1)
            m[8].weight.mul_(2)
        m[5].weight = nn.Parameter(torch.zeros(5, 4, 3, 3).double())
        if fails:
            raise KeyError("on purpose")
        return m.eval()(a).sum() + torch.rand(a.shape, dtype=a.dtype)

    return spoil


@pytest.mark.parametrize("fails", [True, False])
def test_what_a_users_function_does_to_the_model_is_undone(fails: bool) -> None:
    methods.register("vandal", vandal(fails))
    model, x = net(), images()
    before = state(model, x)
    if fails:
        with pytest.raises(KeyError, match="on purpose"):
            attribute("vandal", model, x, 1)
    else:
        first = attribute("vandal", model, x, 1)
    assert state(model, x) == before
    if not fails:
        assert torch.equal(first, attribute("vandal", model, x, 1))
        assert state(model, x) == before


class Restless(nn.Module):
    """Counts its calls, in a buffer, and grows with them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(x) * self.calls


@pytest.mark.parametrize("name", ["input_gradient", "smoothgrad", "grad_cam", "fullgrad"])
def test_buffers_that_a_forward_writes_are_put_back(name: str) -> None:
    model, x, options = Restless(), images(3), QUICK.get(name, {})
    found = attribute(name, model, x, **options)
    assert float(model.calls) == 0
    torch.testing.assert_close(attribute(name, model, x, batch_size=1, **options), found)
    assert float(model.calls) == 0


def test_failures_inside_captum_leave_nothing_behind() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            if y.requires_grad:
                raise KeyError("on purpose")
            return y

    for name in ("input_gradient", "smoothgrad", "guided_backprop", "deeplift", "grad_cam"):
        model, x = Fails(), images()
        before = state(model, x)
        with pytest.raises(KeyError, match="on purpose"):
            attribute(name, model, x)
        assert state(model, x) == before


def test_a_users_function_may_call_the_library() -> None:
    model, x = net(), images()
    torch.testing.assert_close(
        attribute(lambda m, a, t: fullgrad.saliency(m, a, t), model, x, 1),
        fullgrad.saliency(model, x, 1),
    )


def test_wrapped_models() -> None:
    model, x = net(), images()
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        torch.testing.assert_close(
            attribute("input_gradient", wrapped, x, 1), attribute("input_gradient", model, x, 1)
        )


def test_an_input_that_the_model_overwrites() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), *net().eval())
    x = images()
    kept = x.clone()
    for name in ("input_gradient", "deeplift", "guided_backprop", "grad_cam", "smoothgrad"):
        plain = nn.Sequential(nn.ReLU(), *net().eval())
        torch.testing.assert_close(attribute(name, model, x, 1), attribute(name, plain, x, 1))
        assert torch.equal(x, kept)

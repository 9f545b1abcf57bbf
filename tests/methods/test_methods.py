"""Methods by name: the registry, the one call for all of them, and what it leaves behind."""

from __future__ import annotations

import random as python_random
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad import methods
from fullgrad.errors import InputError, MethodError, MissingDependencyError, TargetError
from fullgrad.methods import attribute
from networks import seeded, vgg_like

BUILT_IN = [
    "fullgrad",
    "simple_fullgrad",
    "smooth_fullgrad",
    "input_gradient",
    "input_x_gradient",
    "integrated_gradients",
    "smoothgrad",
    "guided_backprop",
    "deeplift",
    "grad_cam",
    "random",
    "random_blobs",
    "sobel",
]
QUICK = {
    "integrated_gradients": {"n_steps": 3},
    "smoothgrad": {"samples": 2},
    "smooth_fullgrad": {"samples": 2},
}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(20, 6),
    )
    seeded(lambda: model.double())
    with torch.no_grad():
        model[8].weight.mul_(10)  # so that not all samples are of one class
    return model.train()


def images(count: int = 2) -> Tensor:
    drawn = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 8, 8, dtype=torch.float64, generator=drawn)


@pytest.fixture(autouse=True)
def registry_as_it_was() -> Iterator[None]:
    before = {name: methods.get(name) for name in methods.names()}
    yield
    for name in methods.names():
        if name not in before:
            methods.unregister(name)
    assert {name: methods.get(name) for name in methods.names()} == before


def state(model: nn.Module, *tensors: Tensor) -> Any:
    return (
        [
            (n, id(t), t.requires_grad, id(t.grad), t.detach().flatten().tolist())
            for n, t in model.state_dict(keep_vars=True).items()
        ],
        [
            (
                n,
                m.training,
                sorted(m.__dict__),
                len(m._forward_hooks),
                len(m._backward_hooks),
                len(m._forward_pre_hooks),
                getattr(m, "inplace", None),
            )
            for n, m in model.named_modules()
        ],
        [(t.requires_grad, t.grad is None, t.detach().flatten().tolist()) for t in tensors],
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        python_random.getstate(),
        torch.is_grad_enabled(),
    )


# -- what every method does -------------------------------------------------------------------


def test_the_built_in_methods() -> None:
    assert methods.names() == BUILT_IN
    for name in BUILT_IN:
        method = methods.get(name)
        assert method.name == name
        assert method.about.endswith(".")
        assert method.about.count(". ") == 0
        assert bool(method.reference) == (not name.startswith("random"))
        with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
            method.options().anything = 1  # type: ignore[attr-defined]
    with pytest.raises(FrozenInstanceError):
        methods.get("sobel").name = "x"  # type: ignore[misc]


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_call_leaves_nothing_behind_and_repeats(name: str) -> None:
    model, x = net(), images()
    x.requires_grad_(True)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    model[0].bias.requires_grad_(False)
    before = state(model, x)
    found = attribute(name, model, x, **QUICK.get(name, {}))
    assert state(model, x) == before
    assert found.shape == (2, 1, 8, 8)
    assert found.device == x.device
    assert not found.requires_grad
    assert float(found.std()) > 0
    assert float(found.min()) >= 0
    torch.rand(3)
    assert torch.equal(found, attribute(name, model, x, **QUICK.get(name, {})))


@pytest.mark.parametrize("name", BUILT_IN)
def test_without_a_target_the_prediction_on_the_input_is_explained(name: str) -> None:
    model, x = net(), images(3)
    predicted = net().eval()(x).argmax(1)
    assert len(set(predicted.tolist())) > 1
    options = QUICK.get(name, {})
    found = attribute(name, model, x, **options)
    for target in (predicted, predicted.tolist(), predicted.numpy(), predicted.int()):
        torch.testing.assert_close(found, attribute(name, model, x, target, **options))
    torch.testing.assert_close(found, attribute(name, model, x, batch_size=2, **options))
    with torch.no_grad():
        torch.testing.assert_close(found, attribute(name, model, x, **options))
    with torch.inference_mode():
        torch.testing.assert_close(found, attribute(name, model, x.clone(), **options))


@pytest.mark.parametrize("name", ["input_gradient", "integrated_gradients", "deeplift", "grad_cam"])
def test_targets_of_other_kinds(name: str) -> None:
    model, x, options = net(), images(), QUICK.get(name, {})
    expected = attribute(name, model, x, 4, **options)
    torch.testing.assert_close(
        expected, attribute(name, model, x, lambda out: out[:, 4], **options)
    )
    torch.testing.assert_close(expected, attribute(name, model, x, torch.tensor(4), **options))
    single = nn.Sequential(*net(), nn.Linear(6, 1), nn.Flatten(0)).double()
    assert attribute(name, single, x, **options).shape == (2, 1, 8, 8)
    with pytest.raises(TargetError, match="target 6 is out of range for an output of size 6"):
        attribute(name, model, x, 6, **options)
    for target, match in (
        (-1, "a target must not be negative: -1"),
        ([1, 2, 3], "3 targets for a batch of 2"),
        (1.5, "a target index must be an integer, not 1.5"),
    ):
        with pytest.raises(TargetError, match=match):
            attribute(name, model, x, target, **options)


class Weighted(nn.Module):
    """Takes a weight for each sample, and a table that only looks as if it did."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, x: Tensor, weight: Tensor, more: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.inner(x) * weight[:, None] + more["table"].sum()}


@pytest.mark.parametrize(
    "name", [n for n in BUILT_IN if n not in ("random", "random_blobs", "sobel")]
)
def test_additional_arguments_go_with_their_samples(name: str) -> None:
    model, x, options = Weighted(), images(3), QUICK.get(name, {})
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    extra = (weight, {"table": torch.ones(2, 2, dtype=torch.float64)})
    if name == "deeplift":
        options = {"baseline": 0.1}
    whole = attribute(name, model, x, 1, additional_forward_args=extra, **options)
    cut = attribute(name, model, x, 1, additional_forward_args=extra, batch_size=2, **options)
    torch.testing.assert_close(whole, cut)
    for i in range(3):
        alone = (weight[i : i + 1], extra[1])
        one = attribute(name, model, x[i : i + 1], 1, additional_forward_args=alone, **options)
        torch.testing.assert_close(one, whole[i : i + 1])


def test_fullgrad_is_the_librarys() -> None:
    model, x = net(), images()
    for psi in ("layer", "channel", "signed"):
        torch.testing.assert_close(
            attribute("fullgrad", model, x, 1, psi=psi, terms="bias"),
            fullgrad.saliency(model, x, 1, psi=psi, terms="bias"),
        )
    for terms in ("5", ["0", "input"]):
        torch.testing.assert_close(
            attribute("fullgrad", model, x, 1, terms=terms),
            fullgrad.saliency(model, x, 1, terms=terms),
        )
    with pytest.raises(ValueError, match="nowhere"):
        attribute("fullgrad", model, x, 1, terms="nowhere")
    torch.testing.assert_close(
        attribute("simple_fullgrad", model, x, 1),
        fullgrad.saliency(model, x, 1, method="simple_fullgrad"),
    )
    signed = fullgrad.saliency(model, x, 1, psi="signed")
    assert float(signed.min()) < 0
    torch.testing.assert_close(attribute("fullgrad", model, x, 1, signed=True), signed)
    torch.testing.assert_close(
        attribute("fullgrad", model, x, 1, signed=True, psi="signed"), signed
    )
    torch.testing.assert_close(
        attribute("smooth_fullgrad", model, x, 1, samples=3, scale=0.1, seed=5),
        fullgrad.saliency(model, x, 1, method="smooth_fullgrad", noise=fullgrad.Noise(3, 0.1, 5)),
    )


def test_signs_that_are_not_there_are_refused() -> None:
    model, x = net(), images()
    for name, options, match in (
        ("random", {}, r"method 'random' has no sign; leave signed=False"),
        ("random_blobs", {}, r"method 'random_blobs' has no sign; leave signed=False"),
        ("sobel", {}, r"method 'sobel' has no sign; leave signed=False"),
        ("grad_cam", {}, r"'grad_cam' has no sign with layer=None, relu=True; leave signed=False"),
        ("fullgrad", {"psi": "layer"}, r"'fullgrad' has no sign with psi='layer', terms='all'"),
        ("smooth_fullgrad", {"psi": "channel"}, r"has no sign with psi='channel'"),
    ):
        with pytest.raises(MethodError, match=match):
            attribute(name, model, x, 1, signed=True, **options)
    assert float(attribute("grad_cam", model, x, 1, signed=True, relu=False, layer="0").min()) < 0


def test_options_are_checked() -> None:
    model, x = net(), images()
    for name, options, match in (
        (
            "smoothgrad",
            {"sample": 3},
            "'smoothgrad' has no option 'sample'; its options: samples, scale, seed",
        ),
        ("sobel", {"seed": 3}, "'sobel' has no option 'seed'; it has no options"),
        ("smoothgrad", {"samples": 0}, "Noise.samples must be a positive integer, not 0"),
        ("smooth_fullgrad", {"scale": -1.0}, "Noise.scale must not be negative, not -1.0"),
        ("integrated_gradients", {"n_steps": 0}, "n_steps must be a positive integer, not 0"),
        ("fullgrad", {"psi": "abs"}, "psi must be one of layer, channel, signed, not 'abs'"),
        ("grad_cam", {"relu": 1}, "relu must be True or False, not 1"),
        ("grad_cam", {"layer": 3}, "layer must be a module's path or None, not 3"),
        ("random", {"seed": "a"}, "seed must be an integer, not 'a'"),
        ("random_blobs", {"seed": 0.5}, "seed must be an integer, not 0.5"),
        ("random_blobs", {"grid": 1}, "grid must be an integer of at least 2, not 1"),
        ("random", {"batch_size": 0}, "batch_size must be a positive integer or None, not 0"),
        (
            "random",
            {"batch_size": "auto"},
            "batch_size must be a positive integer or None, not 'auto'",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            attribute(name, model, x, 1, **options)


def test_inputs_are_checked() -> None:
    for wrong, match in (
        (torch.zeros(2, 3), r"1 to 3 spatial axes, not shape \(2, 3\)"),
        ((images(), images()), "1 to 3 spatial axes, not <class 'tuple'>"),
        (images() * float("nan"), "NaN or infinite"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.long), "no input is a float tensor"),
    ):
        with pytest.raises(InputError, match=match):
            attribute("input_gradient", net(), wrong, 1)


def test_a_model_that_does_not_depend_on_the_input() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight.expand(len(x), 4)

    with pytest.raises(MethodError, match="its output does not depend on the input through autogr"):
        attribute("input_gradient", Constant(), images().float(), 1)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    method = methods.register("needy", lambda m, x, t: x, package="no_such_package.inside")
    with pytest.raises(MissingDependencyError, match=r"pip install 'fullgrad\[baselines\]'"):
        attribute(method, net(), images())


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


def test_float32_and_vgg() -> None:
    model, x = seeded(vgg_like).float(), torch.randn(2, 3, 32, 32)
    for name in BUILT_IN:
        assert attribute(name, model, x, **QUICK.get(name, {})).dtype == torch.float32

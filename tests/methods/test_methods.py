"""Methods by name: the registry, the one call for all of them, and what it leaves behind."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad import methods
from fullgrad.errors import (
    InputError,
    MethodError,
    MissingDependencyError,
    OptionError,
    TargetError,
)
from fullgrad.methods import attribute
from networks import Weighted, seeded, vgg_like
from networks import dropout_net as net
from networks import small_images as images
from snippets import state_of as state

SIGNED = {  # by nature
    "complete_fullgrad",
    "balanced_fullgrad",
    "balanced_input",
    "difference_fullgrad",
    "path_fullgrad",
    "combined_fullgrad",
    "random_phase",
}
BUILT_IN = [
    "fullgrad",
    "simple_fullgrad",
    "smooth_fullgrad",
    "complete_fullgrad",
    "balanced_fullgrad",
    "balanced_input",
    "difference_fullgrad",
    "path_fullgrad",
    "combined_fullgrad",
    "fullgrad_plus",
    "input_gradient",
    "input_x_gradient",
    "integrated_gradients",
    "smoothgrad",
    "guided_backprop",
    "deeplift",
    "occlusion",
    "grad_cam",
    "layer_cam",
    "attention_rollout",
    "gradient_x_attention",
    "random",
    "random_blobs",
    "sobel",
    "center",
    "contrast",
    "random_phase",
]
BLIND = ["random", "random_blobs", "sobel", "center", "contrast"]
UNPUBLISHED = {"random", "random_blobs", "random_phase", "center", "contrast"}
# Those that apply to convolutional nets.
CONVOLUTIONAL = [n for n in BUILT_IN if "attention" not in n]
QUICK = {
    "fullgrad_plus": {"blocks": "5"},
    "integrated_gradients": {"n_steps": 3},
    "smoothgrad": {"samples": 2},
    "smooth_fullgrad": {"samples": 2},
    "contrast": {"cell": 3},
}


# -- what every method does -------------------------------------------------------------------


def test_the_built_in_methods() -> None:
    assert methods.names() == BUILT_IN
    for name in BUILT_IN:
        method = methods.get(name)
        assert method.name == name
        assert method.about.endswith(".")
        assert method.about.count(". ") == 0
        assert bool(method.reference) == (name not in UNPUBLISHED)
        with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
            method.options().anything = 1  # type: ignore[attr-defined]
    with pytest.raises(FrozenInstanceError):
        methods.get("sobel").name = "x"  # type: ignore[misc]


@pytest.mark.parametrize("name", CONVOLUTIONAL)
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
    assert (float(found.min()) < 0) == (name in SIGNED)
    torch.rand(3)
    assert torch.equal(found, attribute(name, model, x, **QUICK.get(name, {})))


@pytest.mark.parametrize("name", CONVOLUTIONAL)
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


@pytest.mark.parametrize("name", [n for n in CONVOLUTIONAL if n not in (*BLIND, "random_phase")])
def test_additional_arguments_go_with_their_samples(name: str) -> None:
    model, x, options = Weighted(), images(3), QUICK.get(name, {})
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    extra = (weight, {"table": torch.ones(2, 2, dtype=torch.float64)})
    if name == "deeplift":
        options = {"baseline": 0.1}
    if name == "fullgrad_plus":
        options = {"blocks": "inner.5"}
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


def test_the_complete_map_is_the_librarys() -> None:
    model, x = net(), images()
    for placement in ("receptive_field", "cells"):
        whole = fullgrad.complete_map(model, x, 1, placement=placement)
        for signed in (False, True):
            found = attribute("complete_fullgrad", model, x, 1, signed=signed, placement=placement)
            assert torch.equal(found, whole.map)
    some = fullgrad.complete_map(model, x, 1, terms="bias").map
    assert torch.equal(attribute("complete_fullgrad", model, x, 1, terms="bias"), some)
    with pytest.raises(ValueError, match="placement must be 'receptive_field' or 'cells', not 'x'"):
        attribute("complete_fullgrad", model, x, 1, placement="x")
    with pytest.raises(OptionError, match="'complete_fullgrad' has no option 'per_sample'"):
        attribute("complete_fullgrad", model, x, 1, per_sample=False)


def test_signs_that_are_not_there_are_refused() -> None:
    model, x = net(), images()
    for name, options, match in (
        ("random", {}, r"method 'random' has no sign; leave signed=False"),
        ("random_blobs", {}, r"method 'random_blobs' has no sign; leave signed=False"),
        ("sobel", {}, r"method 'sobel' has no sign; leave signed=False"),
        ("center", {}, r"method 'center' has no sign; leave signed=False"),
        ("contrast", {}, r"method 'contrast' has no sign; leave signed=False"),
        ("random_phase", {}, r"method 'random_phase' has no sign; leave signed=False"),
        (
            "grad_cam",
            {},
            r"'grad_cam' has no sign with layer=None, relu=True, activation_layouts=None",
        ),
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
        ("contrast", {"cell": 0}, "cell must be a positive integer, not 0"),
        ("random_phase", {"seed": 0.5}, "seed must be an integer, not 0.5"),
        ("random_phase", {"of": 3}, "of must be METHOD or METHOD:OPTION=VALUE;OPTION=VALUE, not 3"),
        ("random_phase", {"of": "random"}, "a method that is not noise itself, not 'random'"),
        ("random_phase", {"of": "magic"}, "unknown method 'magic'"),
        ("random_phase", {"of": "sobel:x=1"}, "'sobel' has no option 'x'"),
        ("random_phase", {"of": "sobel;x=1"}, "unknown method 'sobel,x=1'"),
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


def test_float32_and_vgg() -> None:
    model, x = seeded(vgg_like).float(), torch.randn(2, 3, 32, 32)
    for name in CONVOLUTIONAL:
        assert attribute(name, model, x, **QUICK.get(name, {})).dtype == torch.float32

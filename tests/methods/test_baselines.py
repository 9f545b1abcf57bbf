"""Captum's methods by name: the same numbers as Captum called directly, and loud refusals."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullgrad.errors import InputError, MethodError
from fullgrad.methods import attribute
from networks import ResNetLike, seeded, vgg_like

EXACT = {"rtol": 1e-12, "atol": 1e-12}


@contextmanager
def captum_speaks() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def net() -> nn.Module:
    return seeded(vgg_like).eval()


def images(count: int = 2, size: int = 32) -> Tensor:
    return torch.randn(
        count,
        3,
        size,
        size,
        dtype=torch.float64,
        generator=torch.Generator(torch.get_default_device()).manual_seed(5),
    )


def assert_map(got: Tensor, numbers: Tensor, signed: bool) -> None:
    expected = (numbers if signed else numbers.abs()).sum(1, keepdim=True).detach()
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(got, expected, **EXACT)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("name", "direct", "call", "options"),
    [
        ("input_gradient", captum.attr.Saliency, {"abs": False}, {}),
        ("input_x_gradient", captum.attr.InputXGradient, {}, {}),
        ("integrated_gradients", captum.attr.IntegratedGradients, {}, {}),
        (
            "integrated_gradients",
            captum.attr.IntegratedGradients,
            {"n_steps": 7, "baselines": 0.5},
            {"n_steps": 7, "baseline": 0.5},
        ),
        ("guided_backprop", captum.attr.GuidedBackprop, {}, {}),
    ],
)
def test_numbers_are_captums(
    name: str, direct: Any, call: dict[str, Any], options: dict[str, Any], signed: bool
) -> None:
    model, x = net(), images()
    with captum_speaks():
        expected = direct(model).attribute(
            x.clone().requires_grad_(), target=torch.tensor([3, 1]), **call
        )
    assert_map(attribute(name, model, x, [3, 1], signed=signed, **options), expected, signed)


def test_batches_give_the_same_numbers() -> None:
    model, x = net(), images(5)
    start = images(5) / 2
    for name, options in (
        ("input_gradient", {}),
        ("integrated_gradients", {"n_steps": 4, "baseline": start}),
        ("smoothgrad", {"samples": 3}),
        ("grad_cam", {}),
        ("deeplift", {"baseline": start[:1]}),
        ("guided_backprop", {}),
        ("random", {"seed": 3}),
        ("random_blobs", {"seed": 3, "grid": 4}),
        ("sobel", {}),
        ("center", {}),
        ("contrast", {"cell": 3}),
        ("random_phase", {"of": "grad_cam:relu=False", "seed": 3}),
        ("fullgrad", {}),
    ):
        whole = attribute(name, model, x, [0, 1, 2, 3, 4], **options)
        parts = attribute(name, model, x, [0, 1, 2, 3, 4], batch_size=2, **options)
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-9)


def test_integrated_gradients_take_a_baseline_for_each_sample_and_sum_to_the_difference() -> None:
    model, x = net(), images()
    start = images() * 0.3
    with captum_speaks():
        expected = captum.attr.IntegratedGradients(model).attribute(x, baselines=start, target=2)
    got = attribute("integrated_gradients", model, x, 2, baseline=start, signed=True)
    assert_map(got, expected, True)
    difference = (model(x) - model(start))[:, 2].detach()
    many = attribute("integrated_gradients", model, x, 2, baseline=start, signed=True, n_steps=400)
    torch.testing.assert_close(many.sum((1, 2, 3)), difference, rtol=1e-2, atol=1e-2)


def test_integrated_gradients_never_hold_more_than_a_batch() -> None:
    sizes: list[int] = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            return self.inner(x)

    attribute("integrated_gradients", Counting(), images(3), 1, n_steps=5)
    assert sizes == [3] * 5
    sizes.clear()
    attribute("smoothgrad", Counting(), images(3), 1, samples=4)
    assert sizes == [3] * 4


def test_smoothgrad_is_the_mean_gradient_at_its_own_noise() -> None:
    model, x = net(), images(3) * torch.tensor([1.0, 5.0, 0.1]).reshape(3, 1, 1, 1).double()
    expected = torch.zeros_like(x)
    drawn = torch.Generator(torch.get_default_device()).manual_seed(9)
    for _ in range(6):
        noise = torch.randn(x.shape[1:], generator=drawn, dtype=torch.float64)
        for i in range(3):
            at = x[i : i + 1] + 0.2 * (x[i].max() - x[i].min()) * noise
            at.requires_grad_(True)
            expected[i] += torch.autograd.grad(model(at)[0, 4], at)[0][0] / 6
    got = attribute("smoothgrad", model, x, 4, samples=6, scale=0.2, seed=9)
    assert_map(got, expected, False)
    assert not torch.equal(got, attribute("smoothgrad", model, x, 4, samples=6, scale=0.2, seed=1))


# -- Grad-CAM ---------------------------------------------------------------------------------


def upsampled(coarse: Tensor, size: Any, mode: str = "bilinear") -> Tensor:
    return F.interpolate(coarse, size=tuple(size), mode=mode, align_corners=False)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("layer", ["0", "5", "6"])
def test_grad_cam_is_captums(layer: str, relu: bool) -> None:
    model, x = net(), images()
    expected = captum.attr.LayerGradCam(model, model.get_submodule(layer)).attribute(
        x, target=3, relu_attributions=relu
    )
    got = attribute("grad_cam", model, x, 3, layer=layer, relu=relu, signed=not relu)
    assert_map(got, upsampled(expected, x.shape[2:]), True)


@pytest.mark.parametrize(
    ("build", "layer"), [(vgg_like, "7"), (ResNetLike, "block2")], ids=["vgg", "resnet"]
)
def test_grad_cam_finds_the_last_layer_with_positions(build: Any, layer: str) -> None:
    model, x = seeded(build), images()
    found = attribute("grad_cam", model, x, 3)
    torch.testing.assert_close(found, attribute("grad_cam", model, x, 3, layer=layer))
    assert not any(m._forward_hooks for m in model.modules())


def test_grad_cam_takes_the_outermost_of_modules_with_the_same_output() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(inplace=True))
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.pool(self.features(x)).flatten(1))

    model, x = Named().double(), images(2, 9)
    torch.testing.assert_close(
        attribute("grad_cam", model, x, 1), attribute("grad_cam", model, x, 1, layer="features.1")
    )


class NormOverChannels(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def test_grad_cam_reads_blocks_that_move_axes_inside() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    model = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4),
        Block(),
        nn.AdaptiveAvgPool2d(1),
        NormOverChannels(8),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).double()
    x = images()
    torch.testing.assert_close(
        attribute("grad_cam", model, x, 1), attribute("grad_cam", model, x, 1, layer="1")
    )


@pytest.mark.parametrize("rank", [1, 3])
def test_grad_cam_in_other_dimensions(rank: int) -> None:
    torch.manual_seed(3)  # with other numbers no position may speak for the class
    conv = {1: nn.Conv1d, 3: nn.Conv3d}[rank]
    model = nn.Sequential(conv(2, 4, 3, stride=2), nn.ReLU(), nn.Flatten()).double()
    x = torch.randn(2, 2, *(9, 8, 7)[:rank], dtype=torch.float64)
    model.append(nn.Linear(model(x).shape[1], 3).double())
    expected = captum.attr.LayerGradCam(model, model[1]).attribute(
        x, target=1, relu_attributions=True
    )
    expected = upsampled(expected, x.shape[2:], {1: "linear", 3: "trilinear"}[rank])
    assert_map(attribute("grad_cam", model, x, 1), expected, True)


class PatchTransformer(nn.Module):
    """One convolution that cuts patches, and tokens ever after."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 8, 4, 4)
        self.mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        t = self.cut(x).flatten(2).transpose(1, 2)
        t = t + self.mlp(t)
        return self.head(self.norm(t).mean(1))


class ChannelsLast(nn.Module):
    """As many channels as rows, so that shapes alone say nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x).permute(0, 2, 3, 1)).mean((1, 2)))


def test_grad_cam_reads_tokens_and_channels_last() -> None:
    x = images()
    for build in (PatchTransformer, ChannelsLast):
        model = seeded(lambda b=build: b().double())
        kept: list[Tensor] = []
        hook = model.norm.register_forward_hook(lambda m, a, out: kept.append(out))
        out = model(x)
        hook.remove()
        (gradient,) = torch.autograd.grad(out[:, 1].sum(), kept)
        over = (1,) if build is PatchTransformer else (1, 2)
        coarse = (gradient.mean(over, keepdim=True) * kept[0]).sum(-1).relu()
        expected = upsampled(coarse.reshape(2, 1, 8, 8), x.shape[2:])
        assert_map(attribute("grad_cam", model, x, 1), expected, True)
        assert_map(attribute("grad_cam", model, x, 1, layer="norm"), expected, True)


def test_grad_cam_refuses_what_it_cannot_read() -> None:
    x = images()
    dense = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3)).double()
    with pytest.raises(MethodError, match="found no module whose output has channels and posi"):
        attribute("grad_cam", dense, x, 1)
    with pytest.raises(
        MethodError, match=r"more than one position of the input's grid; 1 returns \(2, 3\) wit"
    ):
        attribute("grad_cam", dense, x, 1, layer="1")
    with pytest.raises(
        MethodError, match=r"the model has no layer 'blok2'; did you mean 'block2'.*known: stem"
    ):
        attribute("grad_cam", seeded(ResNetLike), x, 1, layer="blok2")
    twice = nn.Sequential(conv := nn.Conv2d(3, 3, 3), conv, nn.Flatten(), nn.Linear(2352, 2))
    with pytest.raises(MethodError, match="a layer that is called once; 0 is called 2 times"):
        attribute("grad_cam", twice.double(), x, 1, layer="0")


# -- guided back-propagation and DeepLIFT -------------------------------------------------------


class Residual(nn.Module):
    """A ReLU module that is called twice, in place, with functions where they are asked for."""

    def __init__(self, last: str = "module", inplace: bool = True, shared: bool = True) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=inplace)
        self.relu2 = self.relu if shared else nn.ReLU(inplace=inplace)
        self.head = nn.Linear(4, 3)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        u = self.relu(self.a(x))
        v = self.b(u) + u
        v = self.relu2(v) if self.last == "module" else getattr(F, self.last)(v)
        return self.head(v.mean((2, 3)))


def test_guided_backprop_cuts_negative_gradients_at_every_relu() -> None:
    model, x = seeded(lambda: Residual().double()), images(2, 8)
    leaf = x.clone().requires_grad_()
    u0 = model.a(leaf)
    u = u0.relu()
    v0 = model.b(u) + u
    down = torch.autograd.grad(model.head(v0.relu().mean((2, 3)))[:, 1].sum(), v0)[0].relu()
    down = torch.autograd.grad(v0, u0, down)[0].relu()
    expected = torch.autograd.grad(u0, leaf, down)[0]
    assert_map(attribute("guided_backprop", model, x, 1), expected, False)
    assert model.relu.inplace is True


def test_guided_backprop_refuses_what_it_does_not_see() -> None:
    x = images(2, 8)
    for last, match in (
        ("relu", r"nn.ReLU modules only, which made 1 of the 2 ReLU operations; the others \(func"),
        ("gelu", "nn.ReLU only, and the model also uses gelu, which would keep the plain gradient"),
        ("relu6", "nn.ReLU only, and the model also uses hardtanh"),
    ):
        with pytest.raises(MethodError, match=match):
            attribute("guided_backprop", Residual(last).double(), x, 1)
    with pytest.raises(
        MethodError, match=r"replaces the gradient of nn.ReLU modules, and there ar"
    ):
        attribute("guided_backprop", seeded(ResNetLike), x, 1)

    class Unused(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.a(x).mean((2, 3)))

    with pytest.raises(MethodError, match="and the model called none of its own"):
        attribute("guided_backprop", Unused().double(), x, 1)


class NeedsInPlace(nn.Module):
    """What was overwritten is read again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 3), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        u = self.conv(x)
        return (self.relu(u) + u).mean((2, 3))


@pytest.mark.parametrize("name", ["guided_backprop", "deeplift"])
def test_activations_that_must_work_in_place_are_refused(name: str) -> None:
    model = NeedsInPlace().double()
    with pytest.raises(MethodError, match=r"the output changes without inplace=True of relu"):
        attribute(name, model, images(), 1)
    assert model.relu.inplace is True


@pytest.mark.parametrize("baseline", [0.0, 0.25])
def test_deeplift_is_captums(baseline: float) -> None:
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(4, 5, 3),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Linear(5, 4),
            nn.Softplus(),
            nn.Linear(4, 3),
        ).double()
    )
    x = images(2, 8)
    with captum_speaks():
        expected = captum.attr.DeepLift(model).attribute(
            x, baselines=baseline, target=torch.tensor([0, 2])
        )
    for signed in (False, True):
        got = attribute("deeplift", model, x, [0, 2], baseline=baseline, signed=signed)
        assert_map(got, expected, signed)


def naive_deeplift(model: nn.Sequential, x: Tensor, start: Tensor, target: int) -> Tensor:
    """Multipliers by hand, from the last layer to the first, of Linear, ReLU and MaxPool1d(2)."""
    ins = [(x, start)]
    for layer in model:
        ins.append((layer(ins[-1][0]), layer(ins[-1][1])))
    m = torch.zeros_like(ins[-1][0])
    m[:, target] = 1
    for layer, (a, b), (c, d) in zip(reversed(model), ins[-2::-1], ins[:0:-1], strict=True):
        if isinstance(layer, nn.Linear):
            m = m @ layer.weight
        elif isinstance(layer, nn.ReLU):
            m = m * (c - d) / (a - b)
        elif isinstance(layer, nn.Flatten):
            m = m.reshape(a.shape)
        else:
            above = torch.maximum(c, d)
            new = torch.zeros_like(a)
            for i, j, k in np.ndindex(*c.shape):
                window = slice(2 * k, 2 * k + 2)
                p, q = (2 * k + int(t[i, j, window].argmax()) for t in (a, b))
                new[i, j, p] += m[i, j, k] * (above - d)[i, j, k]
                new[i, j, q] += m[i, j, k] * (c - above)[i, j, k]
            m = torch.where((a - b).abs() > 1e-9, new / (a - b), torch.zeros_like(new))
    return m * (x - start)


def test_deeplift_of_a_relu_before_a_max_pool() -> None:
    """Captum alone loses the pool's multipliers there: its hooks share one tensor."""
    model = seeded(
        lambda: nn.Sequential(
            nn.Linear(8, 8), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(12, 4)
        ).double()
    )
    x, start = images(2, 8)[:, :, 0], images(2, 8)[:, :, 1]
    got = attribute("deeplift", model, x, 2, baseline=start, signed=True, layout="BCT")
    expected = naive_deeplift(model, x, start, 2).sum(1, keepdim=True).detach()
    torch.testing.assert_close(got, expected)
    with captum_speaks():
        _, off = captum.attr.DeepLift(model).attribute(
            x, baselines=start, target=2, return_convergence_delta=True
        )
    assert float(off.abs().max()) > 1e-3


def test_deeplift_sums_to_the_difference() -> None:
    model = seeded(lambda: Residual(shared=False).double())
    x, start = images(2, 8), images(2, 8) * 0.1
    got = attribute("deeplift", model, x, 1, baseline=start, signed=True)
    difference = (model(x) - model(start))[:, 1].detach()
    torch.testing.assert_close(got.sum((1, 2, 3)), difference)
    single = attribute("deeplift", model.float(), x.float(), 1, baseline=start, signed=True)
    torch.testing.assert_close(single.double(), got, rtol=1e-3, atol=1e-4)


def test_deeplift_refuses_a_small_fault_in_a_large_output() -> None:
    model = seeded(lambda: Residual("relu").double())
    with torch.no_grad():
        model.head.bias.add_(1e6)
    with pytest.raises(MethodError, match="do not sum to the difference of the outputs"):
        attribute("deeplift", model, images(2, 8), 1)


def test_deeplift_refuses_max_pools_that_overlap() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(36, 3)
    )
    seeded(lambda: model.double())
    with pytest.raises(MethodError, match="max-pools whose windows overlap"):
        attribute("deeplift", model, images(2, 9), 1)


@pytest.mark.parametrize("last", ["relu", "gelu", "sigmoid"])
def test_deeplift_refuses_functions_it_does_not_see(last: str) -> None:
    model = seeded(lambda: Residual(last).double())
    with pytest.raises(
        MethodError,
        match=r"do not sum to the difference of the outputs: off by .* DeepLIFT needs "
        r"every non-linearity to be a module of its own that is called once",
    ):
        attribute("deeplift", model, images(2, 8), 1)


def test_deeplift_refuses_a_module_that_is_called_twice() -> None:
    model = seeded(lambda: Residual().double())
    with pytest.raises(MethodError, match=r"DeepLIFT needs every non-linearity to be a module of"):
        attribute("deeplift", model, images(2, 8), 1)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not hasattr(model.relu, "input")


@pytest.mark.parametrize("name", ["integrated_gradients", "deeplift"])
def test_baselines_that_do_not_fit(name: str) -> None:
    model, x = net(), images()
    for wrong in ("black", True, None):
        with pytest.raises(
            ValueError, match=f"baseline must be a number, a tensor or 'mean', not {wrong!r}"
        ):
            attribute(name, model, x, 1, baseline=wrong)
    for shape in ((3, 32, 32), (5, 3, 32, 32), (1, 3, 8, 8)):
        with pytest.raises(InputError, match=r"a baseline must have shape \(2, 3, 32, 32\) or \(1"):
            attribute(name, model, x, 1, baseline=torch.zeros(shape))

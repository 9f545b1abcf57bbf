"""Grad-CAM and LayerCAM on every kind of layout, against closed forms and other packages."""

from __future__ import annotations

import warnings
from typing import Any

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_networks import Patches, images
from fullgrad import methods
from fullgrad.engine.lending import lent
from fullgrad.errors import LayoutError, MethodError
from fullgrad.methods import attribute
from fullgrad.methods.activations import Recording
from fullgrad.methods.layer_choice import default_layer
from networks import ResNetLike, seeded, vgg_like

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def chosen(model: nn.Module, x: Tensor) -> str:
    with lent(model):
        return default_layer(Recording("grad_cam", model, x, None, None, None), 1)[0]


def read(model: nn.Module, layer: str, x: Tensor, target: int = 1) -> tuple[Tensor, Tensor]:
    """What a layer returns, and its gradient."""
    kept: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(lambda m, a, out: kept.append(out))
    out = model.eval()(x)
    hook.remove()
    (gradient,) = torch.autograd.grad(out[:, target].sum(), kept)
    return kept[0].detach(), gradient


def by_hand(name: str, value: Tensor, gradient: Tensor, x: Tensor) -> Tensor:
    """The map of a layer of shape (B, C, H, W)."""
    if name == "grad_cam":
        coarse = (gradient.mean((2, 3), keepdim=True) * value).sum(1, keepdim=True)
    else:
        coarse = (gradient.clamp(min=0) * value).sum(1, keepdim=True)
    return F.interpolate(coarse.relu(), x.shape[2:], mode="bilinear", align_corners=False)


def as_image(tokens: Tensor, rows: int, skipped: int = 0) -> Tensor:
    """Tokens of shape (B, N, C) as (B, C, H, W)."""
    return tokens[:, skipped:].transpose(1, 2).unflatten(2, (rows, -1))


BOTH = pytest.mark.parametrize("name", ["grad_cam", "layer_cam"])


@BOTH
@pytest.mark.parametrize("pool", ["class", "two", "mean"])
def test_tokens_are_read_apart_from_class_tokens(name: str, pool: str) -> None:
    model, x = seeded(lambda: Patches(pool)), images()
    layer = "norm" if pool == "mean" else "blocks.0"
    assert chosen(model, x) == layer
    skipped = {"class": 1, "two": 2, "mean": 0}[pool]
    value, gradient = (as_image(t, 4, skipped) for t in read(model, layer, x))
    expected = by_hand(name, value, gradient, x)
    assert float(expected.std()) > 0
    for options in ({}, {"layer": layer}, {"batch_size": 1}):
        torch.testing.assert_close(attribute(name, model, x, 1, **options), expected, **EXACT)


def test_the_last_block_of_a_class_token_has_no_gradient_elsewhere() -> None:
    model, x = seeded(lambda: Patches("class")), images()
    assert not attribute("grad_cam", model, x, 1, layer="blocks.1").any()
    assert attribute("grad_cam", model, x, 1, layer="blocks.0").any()


@BOTH
@pytest.mark.parametrize("build", [vgg_like, ResNetLike])
def test_convolutional_nets_as_written_out(name: str, build: Any) -> None:
    model = seeded(build)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    layer = "7" if build is vgg_like else "block2"
    assert chosen(model, x) == layer
    expected = by_hand(name, *read(model, layer, x), x)
    torch.testing.assert_close(attribute(name, model, x, 1), expected, **EXACT)


class Windows(nn.Module):
    """Channels last, the last layer on windows of 2 x 2 tokens that are folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.mix = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 6)
        self.act, self.head = nn.GELU(), nn.Linear(6, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        t = self.cut(x).permute(0, 2, 3, 1)
        b, h, w, c = t.shape
        t = t.reshape(b, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
        t = self.act(self.mix(t))
        return self.head(t.reshape(b, -1, c).mean(1))


@BOTH
def test_windows_folded_into_the_batch(name: str) -> None:
    model, x = seeded(Windows), images()
    value, gradient = (
        t.reshape(2, 2, 2, 2, 2, 6).transpose(2, 3).reshape(2, 4, 4, 6).permute(0, 3, 1, 2)
        for t in read(model, "act", x)
    )
    assert chosen(model, x) == "act"
    expected = by_hand(name, value, gradient, x)
    torch.testing.assert_close(attribute(name, model, x, 1), expected, **EXACT)


@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [("resnet18", 64, "layer4"), ("convnext_tiny", 64, "features"), ("swin_t", 64, "permute")],
)
def test_torchvision_models(name: str, size: int, layer: str) -> None:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None, num_classes=5).double().eval()
    x = torch.randn(1, 3, size, size, dtype=torch.float64)
    assert chosen(model, x) == layer
    direct = captum.attr.LayerGradCam(model, model.get_submodule(layer))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        coarse = direct.attribute(x, target=1, relu_attributions=True)
    expected = F.interpolate(coarse.detach(), (size, size), mode="bilinear", align_corners=False)
    torch.testing.assert_close(attribute("grad_cam", model, x, 1), expected, **EXACT)
    expected = by_hand("layer_cam", *read(model, layer, x), x)
    torch.testing.assert_close(attribute("layer_cam", model, x, 1), expected, **EXACT)


@BOTH
@pytest.mark.parametrize("which", ["test_vit", "gmixer_12_224"])
def test_the_grad_cam_package_with_its_transform(name: str, which: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    torch.manual_seed(0)
    model = timm.create_model(which, num_classes=5, **SMALL[which]).double().eval()
    nn.init.normal_(model.head.weight)
    size = SMALL[which].get("img_size", 160)
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    layer = chosen(model, x)
    assert layer == LAYER[which]
    skipped, rows = int(which == "test_vit"), size // 16
    kind = {"grad_cam": package.GradCAM, "layer_cam": package.LayerCAM}[name]
    with kind(
        model=model,
        target_layers=[model.get_submodule(layer)],
        reshape_transform=lambda t: as_image(t, rows, skipped),
    ) as cam:
        expected = torch.from_numpy(cam(x, [ClassifierOutputTarget(1)] * 2)).double()
    found = attribute(name, model, x, 1)[:, 0]
    # The package stretches to [0, 1] with its own epsilon, and interpolates in float32.
    found = found / found.amax((1, 2), keepdim=True)
    assert float((found - expected).abs().mean()) < 0.02
    assert float(torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1]) > 0.99


SMALL: dict[str, dict[str, Any]] = {"test_vit": {}, "gmixer_12_224": {"img_size": 64}}
LAYER = {"test_vit": "blocks.4", "gmixer_12_224": "norm"}


class Branches(nn.Module):
    """Two branches that meet behind their pools, so that no layer sees all of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(3, 4, 5, 3)
        self.head = nn.Linear(8, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.a(x).mean((2, 3)), self.b(x).mean((2, 3))], 1))


def test_without_a_single_cut_the_last_convolution_is_read() -> None:
    model, x = seeded(Branches), images()
    assert chosen(model, x) == "b"


class TokenBranches(Branches):
    def forward(self, x: Tensor) -> Tensor:
        pooled = self.a(x).mean((2, 3))
        tokens = self.norm(self.b(x).flatten(2).transpose(1, 2))
        return self.head(torch.cat([pooled, tokens.mean(1)], 1))

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4).double()


@BOTH
def test_without_a_single_cut_tokens_need_a_named_layer(name: str) -> None:
    model, x = seeded(TokenBranches), images()
    with pytest.raises(
        MethodError,
        match=rf"{name} found no layer by itself: the network runs through no single one with posi"
        r"tions, and the last that has some, norm, is not laid out as a convolution's: give layer=",
    ):
        attribute(name, model, x, 1)
    assert attribute(name, model, x, 1, layer="norm").any()


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g


class Opaque(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Twice.apply(x)


@BOTH
def test_an_unknown_layout_is_refused_with_a_way_out(name: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 4, 4), Opaque(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).double()
    x = images()
    with pytest.raises(
        MethodError,
        match=rf"{name}: it is not known which axes of 2 \(shape \(2, 4, 1, 1\)\) are positions of "
        r"the input. State it, as in activation_layouts=\{'2': 'B C H W'\} \(it covers the whole input\), or use ",
    ):
        attribute(name, model, x, 1)
    expected = by_hand(name, *read(model, "1", x), x)
    stated = {"1": "B C H W"}
    torch.testing.assert_close(
        attribute(name, model, x, 1, activation_layouts=stated, layer="1"), expected, **EXACT
    )
    with pytest.raises(LayoutError, match="nothing needs"):
        attribute(name, model, x, 1, activation_layouts={"0": "B C H W"}, layer="0")


def test_layers_that_cannot_be_read() -> None:
    x = images()
    model = seeded(lambda: Patches("class"))
    with pytest.raises(MethodError, match=r"the explained output does not depend on aside: give l"):
        attribute("layer_cam", model, x, 1, layer="aside")
    with pytest.raises(MethodError, match="a layer that is called once; unused is called 0 times"):
        attribute("layer_cam", model, x, 1, layer="unused")
    with pytest.raises(ValueError, match="layer must be a module's path or None, not 3"):
        attribute("layer_cam", model, x, 1, layer=3)
    with pytest.raises(MethodError, match="'layer_cam' has no sign; leave signed=False"):
        attribute("layer_cam", model, x, 1, signed=True)
    assert methods.get("grad_cam").package is None

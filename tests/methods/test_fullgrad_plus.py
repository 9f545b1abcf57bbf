"""FullGrad+ against its formula, written out with autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attention_networks import Patches, images
from fullgrad.errors import MethodError
from fullgrad.maps.aggregation import upsample
from fullgrad.methods import attribute
from fullgrad.methods.fullgrad_plus import blocks_of
from networks import ResNetLike, seeded, vgg_like

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def given(model: nn.Module, paths: list[str], x: Tensor) -> list[Tensor]:
    """Gradient times activation of what blocks are given."""
    kept: list[Tensor] = []
    hooks = [
        model.get_submodule(p).register_forward_hook(lambda m, args, out: kept.append(args[0]))
        for p in paths
    ]
    out = model.eval()(x.clone().requires_grad_())
    for hook in hooks:
        hook.remove()
    gradients = torch.autograd.grad(out[:, 1].sum(), kept)
    return [(g * k).detach() for g, k in zip(gradients, kept, strict=True)]


def biases(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The gradient at every linear layer, convolution and norm, times its bias, in tokens."""
    kept: list[tuple[Tensor, Tensor]] = []

    def note(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        bias = module.bias.reshape(-1, *[1] * (out.dim() - 2 if out.dim() == 4 else 0))
        kept.append((out, bias.detach()))

    kinds = (nn.Linear, nn.LayerNorm, nn.Conv2d)
    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, kinds)]
    out = model.eval()(x)
    for hook in hooks:
        hook.remove()
    gradients = torch.autograd.grad(out[:, 1].sum(), [o for o, _ in kept], allow_unused=True)
    return [g * b for g, (_, b) in zip(gradients, kept, strict=True) if g is not None]


def positional(model: Patches, x: Tensor) -> Tensor:
    """The embeddings of the image's tokens times their gradient, shape (B, tokens)."""
    kept: list[Tensor] = []
    hook = model.blocks[0].register_forward_hook(lambda m, args, out: kept.append(args[0]))
    out = model.eval()(x)
    hook.remove()
    (gradient,) = torch.autograd.grad(out[:, 1].sum(), kept)
    return (gradient * model.places.detach()).sum(2)[:, 1:]


def test_the_formula_on_two_blocks() -> None:
    model, x = seeded(lambda: Patches("class")), images()
    total = torch.zeros(2, 16, dtype=torch.float64)
    for term in given(model, ["blocks.0", "blocks.1"], x):
        total += term.sum(2)[:, 1:]
    for term in biases(model, x):
        if term.dim() == 4:
            total += term.flatten(2).sum(1)
        elif term.dim() == 3:
            total += term.sum(2)[:, 1:]
    # The gradient at the first block's input is that at the sum with the positional embeddings.
    total += positional(model, x)
    expected = upsample(total.reshape(2, 1, 4, 4), x.shape[2:])
    found = attribute("fullgrad_plus", model, x, 1, signed=True)
    assert float(found.min()) < 0
    assert float(found.std()) > 0
    torch.testing.assert_close(found, expected, **EXACT)
    for options in ({"blocks": ("blocks.0", "blocks.1")}, {"batch_size": 1}):
        again = attribute("fullgrad_plus", model, x, 1, signed=True, **options)
        torch.testing.assert_close(again, expected, **EXACT)
    torch.testing.assert_close(attribute("fullgrad_plus", model, x, 1), expected.abs(), **EXACT)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4)])
def test_norms_have_their_shift_and_batch_norms_their_constant(norm: nn.Module) -> None:
    torch.manual_seed(0)
    if isinstance(norm, nn.InstanceNorm2d):
        norm = nn.InstanceNorm2d(4, affine=True)
    body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), norm)
    model = nn.Sequential(body, nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    model, x = seeded(model.double), images()
    (block,) = given(model, ["0"], x)
    kept: list[Tensor] = []
    hook = model[0].register_forward_hook(lambda m, args, out: kept.append(out))
    out = model.eval()(x)
    hook.remove()
    (gradient,) = torch.autograd.grad(out[:, 1].sum(), kept)
    norm = model[0][1]
    constant = norm.bias.detach()
    if isinstance(norm, nn.BatchNorm2d):
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        constant = (norm.bias - norm.running_mean * scale).detach()
    expected = (block.sum(1) + (gradient * constant[:, None, None]).sum(1))[:, None]
    found = attribute("fullgrad_plus", model, x, 1, signed=True, blocks="0")
    torch.testing.assert_close(found, expected, **EXACT)


def test_a_constant_added_to_a_product_is_refused() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut, self.mask = nn.Conv2d(3, 4, 4, 4), nn.Parameter(torch.randn(1, 16, 16))

        def forward(self, x: Tensor) -> Tensor:
            t = self.cut(x).flatten(2).transpose(1, 2)
            scores = torch.baddbmm(self.mask.expand(len(x), -1, -1), t, t.transpose(1, 2))
            out: Tensor = (scores @ t).mean(1)
            return out

    with pytest.raises(
        MethodError, match=r"baddbmm in the model adds a constant to a product of tw"
    ):
        attribute("fullgrad_plus", seeded(Mixed).double(), images(), 1, blocks="cut")


def test_a_network_without_biases_has_the_block_s_terms_alone() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU())
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double()
    x = images()
    found = attribute("fullgrad_plus", model, x, 1, signed=True, blocks="0")
    torch.testing.assert_close(
        found, attribute("input_x_gradient", model, x, 1, signed=True), **EXACT
    )
    # The network is homogeneous up to the last bias, which has no place.
    output = model(x)[:, 1].detach() - model[3].bias[1].detach()
    torch.testing.assert_close(found.sum((1, 2, 3)), output, **EXACT)


def test_blocks_are_found() -> None:
    assert blocks_of(Patches()) == ["blocks.0", "blocks.1"]
    assert blocks_of(vgg_like()) == blocks_of(ResNetLike()) == []
    stage = nn.Sequential(nn.Sequential(Patches(), Patches()), nn.Conv2d(3, 3, 3))
    assert blocks_of(stage) == ["0.0.blocks.0", "0.0.blocks.1", "0.1.blocks.0", "0.1.blocks.1"]
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    models = torchvision.models
    assert blocks_of(models.resnet18())[-2:] == ["layer4.0", "layer4.1"]
    assert len(blocks_of(models.efficientnet_b0())) == 16
    assert len(blocks_of(models.convnext_tiny())) == 18


def test_refusals() -> None:
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    model = seeded(ResNetLike)
    with pytest.raises(MethodError, match=r"found no blocks .*: name them, as in blocks=\('layer1"):
        attribute("fullgrad_plus", model, x, 1)
    with pytest.raises(
        MethodError, match=r"has no block 'block3'; did you mean 'block1' or 'block2'"
    ):
        attribute("fullgrad_plus", model, x, 1, blocks=("block1", "block3"))
    with pytest.raises(MethodError, match=r"no block is given an activation with positions of the"):
        attribute("fullgrad_plus", model, x, 1, blocks="fc")
    with pytest.raises(MethodError, match="unused is not called with a tensor that depends on the"):
        attribute("fullgrad_plus", seeded(Patches), images(), 1, blocks=["unused"])
    for wrong in (3, (), (1,)):
        with pytest.raises(ValueError, match="blocks must be modules' paths or None, not"):
            attribute("fullgrad_plus", model, x, 1, blocks=wrong)
    assert attribute("fullgrad_plus", model, x, 1, blocks=("block1", "block2")).shape[1] == 1

"""Attention rollout and gradient times attention against closed forms, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_networks import HEADS, WIDTH, Attention, Patches, images
from fullgrad.errors import LayoutError, MethodError
from fullgrad.methods import attribute
from networks import ResNetLike, seeded

EXACT = {"rtol": 1e-10, "atol": 1e-12}
NAMES = ("attention_rollout", "gradient_x_attention")
BOTH = pytest.mark.parametrize("name", NAMES)


def written_out(model: Patches, x: Tensor, target: int) -> list[tuple[Tensor, Tensor]]:
    """The weights of both blocks with their gradients, shape (B, heads, tokens, tokens)."""
    out = model.eval()(x)
    weights = [block.attn.seen for block in model.blocks]
    gradients = torch.autograd.grad(out[:, target].sum(), weights)
    return [(w.detach(), g) for w, g in zip(weights, gradients, strict=True)]


def by_hand(name: str, model: Patches, x: Tensor, target: int = 1) -> Tensor:
    """Whole matrices, from the first block to the last, then the rows that are read."""
    (first, first_gradient), (last, last_gradient) = written_out(model, x, target)
    eye = torch.eye(first.shape[-1], dtype=x.dtype)
    if name == "attention_rollout":
        r = 0.5 * (last.mean(1) + eye) @ (0.5 * (first.mean(1) + eye))
    else:
        r = eye + (first_gradient * first).relu().mean(1)
        r = r + (last_gradient * last).relu().mean(1) @ r
        r = r - eye
    count = model.tokens.shape[1]
    row = r[:, : count or None].mean(1)[:, count:]
    coarse = row.reshape(len(x), 1, 4, 4)
    return F.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False)


@BOTH
@pytest.mark.parametrize("pool", ["class", "two", "mean"])
def test_the_closed_form_of_two_blocks(name: str, pool: str) -> None:
    model, x = seeded(lambda: Patches(pool)), images()
    expected = by_hand(name, model, x)
    assert float(expected.std()) > 0
    for options in ({}, {"batch_size": 1}):
        torch.testing.assert_close(attribute(name, model, x, 1, **options), expected, **EXACT)


@BOTH
def test_each_sample_has_the_row_of_the_token_that_its_own_target_reads(name: str) -> None:
    class EachToken(Patches):
        def forward(self, x: Tensor) -> Tensor:
            tokens = self.cut(x).flatten(2).transpose(1, 2) + self.places
            out: Tensor = self.head(self.blocks(tokens))
            return out

    model, x = seeded(lambda: EachToken("mean")), images()
    targets = [(3, 1), (9, 2)]
    each = [attribute(name, model, x[i : i + 1], [targets[i]]) for i in range(2)]
    torch.testing.assert_close(attribute(name, model, x, targets), torch.cat(each), **EXACT)


def test_a_class_token_s_row_is_the_paper_s() -> None:
    model, x = seeded(Patches), images()
    (first, g1), (last, g2) = written_out(model, x, 2)
    a1, a2 = (g1 * first).clamp(min=0).mean(1), (g2 * last).clamp(min=0).mean(1)
    r = torch.eye(17, dtype=x.dtype) + a1
    r = r + a2 @ r
    coarse = r[:, 0, 1:].reshape(2, 1, 4, 4)
    expected = F.interpolate(coarse, (16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(attribute("gradient_x_attention", model, x, 2), expected, **EXACT)


def test_the_target_matters_where_gradients_do() -> None:
    model, x = seeded(Patches), images()
    rollout, gradient = (torch.stack([attribute(n, model, x, t) for t in (0, 1)]) for n in NAMES)
    torch.testing.assert_close(rollout[0], rollout[1], **EXACT)
    assert float((gradient[0] - gradient[1]).abs().max()) > 1e-6


@BOTH
@pytest.mark.parametrize("style", ["fused", "einsum"])
def test_other_styles_give_the_same_map(name: str, style: str) -> None:
    model, same, x = seeded(Patches), seeded(lambda: Patches(style=style)), images()
    torch.testing.assert_close(attribute(name, same, x, 1), attribute(name, model, x, 1), **EXACT)


@BOTH
def test_multihead_attention_modules(name: str) -> None:
    model, x = seeded(Patches), images()
    found = []
    for style in ("module", "weights"):
        same = seeded(lambda s=style: Patches(style=s))
        same.load_state_dict(model.state_dict(), strict=False)
        for mine, theirs in zip(model.blocks, same.blocks, strict=True):
            attention = theirs.attn.inner
            # (heads, q/k/v) there against (q/k/v, heads) here: both are q, k, v, heads inside.
            attention.in_proj_weight.data.copy_(mine.attn.qkv.weight)
            attention.in_proj_bias.data.copy_(mine.attn.qkv.bias)
            attention.out_proj.load_state_dict(mine.attn.out.state_dict())
        found.append(attribute(name, same, x, 1))
    for f in found:
        torch.testing.assert_close(f, by_hand(name, model, x), **EXACT)


@BOTH
def test_transformer_encoders_and_series(name: str) -> None:
    class Series(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 12, batch_first=True)
            self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.up, self.head = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.body(self.up(x)).mean(1))
            return out

    x = torch.randn(2, 7, 3, dtype=torch.float64)
    found = attribute(name, seeded(Series).double(), x, 1, layout="BTC")
    assert found.shape == (2, 1, 7)
    assert float(found.std()) > 0
    if name == "attention_rollout":
        torch.testing.assert_close(found.sum(2), torch.ones(2, 1, dtype=torch.float64))


@BOTH
@pytest.mark.parametrize(
    ("style", "what"),
    [
        ("scaled", r"blocks.0.attn changes its attention before it multiplies the values"),
        ("transposed", r"blocks.0.attn has a softmax that does not run over the keys of its prod"),
        ("twice", r"blocks.0.attn multiplies its attention with values more than once"),
    ],
)
def test_attention_that_is_not_plain_is_refused(name: str, style: str, what: str) -> None:
    model = seeded(lambda: Patches(style=style))
    start = rf"{name} needs self-attention over all tokens of the input's grid: {what}"
    with pytest.raises(MethodError, match=start + r".*; use another method, as method='grad_cam'"):
        attribute(name, model, images(), 1)
    assert attribute("grad_cam", model, images(), 1).shape == (2, 1, 16, 16)


class Odd(nn.Module):
    """Tokens, one unusual layer, and the mean."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.cut, self.plain, self.more = nn.Conv2d(3, WIDTH, 4, 4), Attention(""), Attention("")
        self.query, self.head = nn.Parameter(torch.randn(1, 1, WIDTH)), nn.Linear(WIDTH, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        t = self.cut(x).flatten(2).transpose(1, 2)
        if self.kind == "windows":
            t = t + self.plain(t.reshape(-1, 4, WIDTH)).reshape(t.shape)
        elif self.kind == "cross":
            t = F.scaled_dot_product_attention(t, t[:, ::2], t[:, ::2])
        elif self.kind == "query":
            q = self.query.expand(len(x), -1, -1)
            t = t + F.scaled_dot_product_attention(q, t, t)
        elif self.kind == "flipped":
            t = F.scaled_dot_product_attention(t, t.flip(1), t.flip(1))
        elif self.kind == "channels":
            c = t.transpose(1, 2)
            t = (torch.softmax(c @ t, -1) @ c).transpose(1, 2)
        elif self.kind == "beside":
            t = t + self.plain(t) + self.more(t)
        elif self.kind == "fewer":
            t = t + self.plain(t)
            t = t[:, ::2]
            t = t + self.more(t)
        elif self.kind == "linear":
            t = t + self.plain(t)
            t = t.relu() @ (t.relu().transpose(1, 2) @ t)
        elif self.kind == "gate":
            t = t * torch.softmax(t, 1)
        out: Tensor = self.head(t.mean(1))
        return out


REFUSED = {
    "windows": r"plain attends within windows \(of 4 tokens\)",
    "cross": r"the model attends from 16 over 8 tokens \(cross-attention\)",
    "query": r"the model attends from 1 over 16 tokens \(cross-attention\)",
    "flipped": r"the model attends from some tokens over others",
    "channels": r"the model attends from what has no place in the input's grid",
    "beside": r"more attends beside another layer, not behind it",
    "fewer": r"more attends over other tokens \(8\) than plain \(16\)",
    "linear": r"the model multiplies two activations outside softmax attention",
    "gate": r"the model changes its attention before it multiplies the values",
}


@BOTH
@pytest.mark.parametrize("kind", REFUSED)
def test_other_attention_is_refused(name: str, kind: str) -> None:
    with pytest.raises(MethodError, match=f"tokens of the input's grid: {REFUSED[kind]}; use an"):
        attribute(name, seeded(lambda: Odd(kind)), images(), 1)


@BOTH
def test_no_attention_is_refused(name: str) -> None:
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with pytest.raises(
        MethodError,
        match=rf"{name} found no attention in the model: no softmax multiplies values on the way to "
        r"the explained output; use another method, as method='grad_cam' or method='input_x_gra",
    ):
        attribute(name, seeded(ResNetLike), x, 1)
    with pytest.raises(MethodError, match=f"'{name}' has no sign; leave signed=False"):
        attribute(name, seeded(Patches), images(), 1, signed=True)
    with pytest.raises(LayoutError, match="nothing needs"):
        attribute(name, seeded(Patches), images(), 1, activation_layouts={"norm": "B (H W) C"})


class _Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


@BOTH
def test_unknown_tokens_are_refused_with_a_way_out(name: str) -> None:
    class Opaque(Attention):
        def forward(self, t: Tensor) -> Tensor:
            return super().forward(_Same.apply(t))

    def build(kind: type[Attention]) -> nn.Module:
        model = Odd("beside")
        model.plain, model.kind = kind("").double(), "none"
        return seeded(
            lambda: nn.Sequential(model.cut, nn.Flatten(2), Turned(), model.plain, Mean())
        )

    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.transpose(1, 2)

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1)

    torch.manual_seed(0)
    expected = attribute(name, build(Attention), images(), 1)
    torch.manual_seed(0)
    model = build(Opaque)
    with pytest.raises(
        MethodError,
        match=r"it is not known which tokens 3 attends over \(weights of shape \(2, 2, 16, 16\)\); "
        r"state what goes into it, as in activation_layouts=\{'3': 'B \(H=4 W=4\) C'\}, or use an",
    ):
        attribute(name, model, images(), 1)
    found = attribute(name, model, images(), 1, activation_layouts={"3": "B (H=4 W=4) C"})
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("which", ["vit_b_16", "test_vit"])
def test_published_models(which: str) -> None:
    x = torch.randn(1, 3, 32 if which == "vit_b_16" else 160, 32 if which == "vit_b_16" else 160)
    torch.manual_seed(0)
    if which == "vit_b_16":
        models = pytest.importorskip("torchvision", reason="torchvision is not installed").models
        model = models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5).eval()
        nn.init.normal_(model.heads.head.weight)
    else:
        timm = pytest.importorskip("timm", reason="timm is not installed")
        model = timm.create_model(which, num_classes=5).eval()
    maps = [attribute(name, model, x, 1) for name in NAMES]
    assert all(m.shape == (1, 1, *x.shape[2:]) and float(m.std()) > 0 for m in maps)
    side = 4 if which == "vit_b_16" else 10
    tokens = F.adaptive_avg_pool2d(maps[0], side)
    assert 0.5 / side**2 < float(tokens.mean()) < 1 / side**2  # the rest is the class token's

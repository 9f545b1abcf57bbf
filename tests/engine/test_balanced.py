"""The balanced linearization against the same networks detached and halved by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fullgrad

DOUBLE = torch.float64


class Program:
    """What the networks are made of, as PyTorch has it."""

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b

    def activate(self, name: str, u: Tensor) -> Tensor:
        return getattr(F, name)(u)

    def gate(self, g: Tensor) -> Tensor:
        return g

    def layer_norm(self, u: Tensor, norm: nn.LayerNorm) -> Tensor:
        return norm(u)

    def group_norm(self, u: Tensor, norm: nn.GroupNorm) -> Tensor:
        return norm(u)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class Composed(Program):
    """Attention written out."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v


class Exponentials(Program):
    """Softmax written out as well."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.exp(q @ k.mT / math.sqrt(q.shape[-1]))
        return scores / scores.sum(-1, keepdim=True) @ v


class ByHand(Program):
    """The same numbers; autograd finds the balanced gradient."""

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        return (a * b.detach() + a.detach() * b) / 2

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.detach() + a.detach() @ b) / 2

    def activate(self, name: str, u: Tensor) -> Tensor:
        return (getattr(F, name)(u) / u).detach() * u

    def gate(self, g: Tensor) -> Tensor:
        return g.detach()

    def layer_norm(self, u: Tensor, norm: nn.LayerNorm) -> Tensor:
        sigma = (u.var(-1, correction=0, keepdim=True) + norm.eps).sqrt().detach()
        return (u - u.mean(-1, keepdim=True)) / sigma * norm.weight + norm.bias

    def group_norm(self, u: Tensor, norm: nn.GroupNorm) -> Tensor:
        grouped = u.unflatten(1, (norm.num_groups, -1)).flatten(2)
        sigma = (grouped.var(2, correction=0, keepdim=True) + norm.eps).sqrt().detach()
        flat = ((grouped - grouped.mean(2, keepdim=True)) / sigma).view(u.shape)
        return flat * norm.weight[:, None, None] + norm.bias[:, None, None]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1).detach() @ v


class Net(nn.Module):
    """A stem, one block of the kind, and a head; ``do`` says how its operations are written."""

    def __init__(self, do: Program) -> None:
        super().__init__()
        self.do = do
        self.stem = nn.Conv2d(3, 8, 2, 2)
        self.norm, self.last = nn.LayerNorm(8), nn.LayerNorm(8)
        self.groups, self.batch = nn.GroupNorm(2, 8), nn.BatchNorm2d(8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.side, self.down = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)
        self.squeeze, self.excite = nn.Linear(8, 4), nn.Linear(4, 8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.heads, self.scale = nn.Linear(2, 2, bias=False), nn.Parameter(torch.ones(8) / 2)
        self.head = nn.Linear(8, 3)

    def tokens(self, x: Tensor) -> Tensor:
        return self.stem(x).flatten(2).transpose(1, 2)

    def attention(self, t: Tensor) -> Tensor:
        q, k, v = (p.unflatten(2, (2, 4)).transpose(1, 2) for p in self.qkv(t).chunk(3, -1))
        return self.out(self.do.attend(q, k, v).transpose(1, 2).flatten(2))


class Transformer(Net):
    def forward(self, x: Tensor) -> Tensor:
        t, do = self.tokens(x), self.do
        t = t + self.attention(do.layer_norm(t, self.norm))
        t = t + self.down(do.activate("gelu", self.up(do.layer_norm(t, self.last))))
        return self.head(t.mean(1))


class SqueezeAndExcitation(Net):
    def forward(self, x: Tensor) -> Tensor:
        do = self.do
        y = do.activate("silu", self.batch(self.deep(self.stem(x))))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3))))))
        y = y * do.gate(gate)[:, :, None, None]
        return self.head(do.activate("hardswish", y).mean((2, 3)))


class HardGate(Net):
    """Hard-sigmoid written out, and a gate that says how much stays."""

    def forward(self, x: Tensor) -> Tensor:
        do, y = self.do, self.stem(x)
        gate = do.gate(F.relu6(self.deep(y) + 3) / 6)
        y = gate * y + (1 - gate) * self.deep(y)
        return self.head(do.activate("tanh", y).amax((2, 3)))


class Gated(Net):
    """SwiGLU, RMS norm by hand, and a rotation of the queries."""

    def rms(self, t: Tensor) -> Tensor:
        return t * self.do.gate(torch.rsqrt(t.pow(2).mean(-1, keepdim=True) + 1e-5)) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        t, do = self.tokens(x), self.do
        t = t + self.attention(self.rms(t))
        u = self.rms(t)
        t = t + self.down(do.multiply(do.activate("silu", self.side(u)), self.up(u)))
        return self.head(self.rms(t)[:, -1])


class TalkingHeads(Net):
    """Attention weights mixed across heads, and GELU by hand."""

    def forward(self, x: Tensor) -> Tensor:
        t, do = self.tokens(x), self.do
        q, k, v = (p.unflatten(2, (2, 4)).transpose(1, 2) for p in self.qkv(t).chunk(3, -1))
        weights = torch.softmax(q @ k.mT / 2, -1)
        weights = do.gate(self.heads(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        t = t + self.out((weights @ v).transpose(1, 2).flatten(2))
        u = self.up(t)
        inner = math.sqrt(2 / math.pi) * (u + 0.044715 * u * u * u)
        return self.head(self.down(0.5 * u * do.gate(1 + torch.tanh(inner))).mean(1))


class Erf(Net):
    """The other GELU by hand, a norm by hand, and a linear attention."""

    def forward(self, x: Tensor) -> Tensor:
        t, do = self.tokens(x), self.do
        sigma = torch.sqrt(t.var(-1, keepdim=True) + 1e-5)
        t = (t - t.mean(-1, keepdim=True)) / do.gate(sigma)
        q, k, v = self.qkv(t).chunk(3, -1)
        t = t + self.out(do.matmul(torch.relu(q), do.matmul(torch.relu(k).mT, v)) / 16)
        u = self.up(t)
        return self.head(self.down(u * do.gate(0.5 * (1 + torch.erf(u / math.sqrt(2))))).mean(1))


class Halves(Net):
    """Gated linear units, group norm, layer scale."""

    def forward(self, x: Tensor) -> Tensor:
        do, y = self.do, self.stem(x)
        y = y + self.scale[:, None, None] * do.group_norm(self.deep(y), self.groups)
        a, b = torch.cat([y, self.deep(y)], 1).chunk(2, 1)
        y = F.glu(torch.cat([a, b], 1), 1) if type(do) is Program else a * do.gate(b.sigmoid())
        return self.head(do.activate("mish", y).mean((2, 3)))


class Mixer(Net):
    """Numbers mixed along positions, cosine of two directions."""

    def forward(self, x: Tensor) -> Tensor:
        t, do = self.tokens(x), self.do
        t = t + do.activate("elu", do.layer_norm(t, self.norm).mT @ t.new_ones(9, 9) / 9).mT
        length = do.gate(torch.linalg.vector_norm(t, dim=-1, keepdim=True))
        return self.head((t / length).sum(1))


NETS = [Transformer, SqueezeAndExcitation, HardGate, Gated, TalkingHeads, Erf, Halves, Mixer]


def built(kind: Callable[[Program], Net], do: Program) -> Net:
    torch.manual_seed(0)
    net = kind(do).double().eval()
    with torch.no_grad():
        net.batch.running_mean.normal_()
        net.batch.running_var.uniform_(0.5, 2)
        for norm in (net.norm, net.last, net.groups, net.batch):
            norm.weight.uniform_(0.5, 2)
            norm.bias.normal_()
    return net


def image() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, 6, 6, dtype=DOUBLE)


def by_hand(kind: Callable[[Program], Net]) -> Tensor:
    x = image().requires_grad_()
    (gradient,) = torch.autograd.grad(built(kind, ByHand())(x)[:, 1].sum(), x)
    return gradient


@pytest.mark.parametrize("kind", NETS)
def test_the_gradient_is_that_of_the_network_detached_by_hand(kind) -> None:
    net = built(kind, Program())
    torch.testing.assert_close(net(image()), built(kind, ByHand())(image()))
    d = fullgrad.decompose(net, image(), 1, linearization="balanced")
    torch.testing.assert_close(d.input_gradients[0], by_hand(kind), rtol=1e-10, atol=1e-10)
    assert d.relative_residual.max() < 1e-12
    assert not [t for t in d.bias_terms if t.kind != "explicit" and t.value.abs().max() > 1e-12]


@pytest.mark.parametrize("do", [Composed(), Exponentials()])
@pytest.mark.parametrize("kind", [Transformer, Gated])
def test_fused_and_written_out_attention_have_one_map(kind, do: Program) -> None:
    for linearization in ("jacobian", "balanced"):
        fused, written = (
            fullgrad.decompose(built(kind, p), image(), 1, linearization=linearization)
            for p in (Program(), do)
        )
        torch.testing.assert_close(fused.input_gradients, written.input_gradients)


def test_in_place_operations_and_activations_kept_in_views() -> None:
    class InPlace(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = F.silu(self.batch(self.deep(self.stem(x))), inplace=True)
            gate = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3))), inplace=True)))
            y.mul_(gate[:, :, None, None])
            return self.head(F.hardswish(y, inplace=True).mean((2, 3)))

    plain = built(SqueezeAndExcitation, Program())
    expected = fullgrad.decompose(plain, image(), 1, linearization="balanced")
    found = fullgrad.decompose(built(InPlace, Program()), image(), 1, linearization="balanced")
    torch.testing.assert_close(found.input_gradients, expected.input_gradients)
    assert found.relative_residual.max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    net = built(Transformer, Program())
    exact = fullgrad.decompose(net, image(), 1, linearization="balanced")
    found = fullgrad.decompose(net.to(dtype), image().to(dtype), 1, linearization="balanced")
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.2}[dtype]
    ours, theirs = found.input_gradients[0].double(), exact.input_gradients[0]
    assert (ours - theirs).abs().max() < tolerance * theirs.abs().max()


def test_samples_do_not_depend_on_each_other() -> None:
    net, x = built(Transformer, Exponentials()), image()
    both = fullgrad.decompose(net, x, 1, linearization="balanced").input_gradients[0]
    for number in range(2):
        alone = fullgrad.decompose(net, x[number : number + 1], 1, linearization="balanced")
        torch.testing.assert_close(alone.input_gradients[0][0], both[number])


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_recurrent_layers(layer) -> None:
    class Series(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = layer(5, 7, batch_first=True), nn.Linear(7, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x)[0][:, -1])

    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, dtype=DOUBLE)
    d = fullgrad.decompose(Series().double().eval(), x, 1, linearization="balanced")
    assert d.relative_residual.max() < 1e-12
    # A GRU's first step multiplies a gate by a constant, the bias of the state's weights.
    left = {t.op for t in d.bias_terms if t.kind != "explicit" and t.value.any()}
    assert left == ({"sigmoid_"} if layer is nn.GRU else set())

"""What counts as a gate in the balanced linearization, and what does not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fullgrad
from fullgrad.operations._origins import Origin
from snippets import Snippet

DOUBLE = torch.float64

W = torch.linspace(0.2, 1.4, 4, dtype=DOUBLE)
GATES = {
    "sigmoid": lambda u: torch.sigmoid(u),
    "scaled and masked": lambda u: torch.sigmoid(u) * 2 * W.gt(0.5),
    "one less": lambda u: 1 - torch.sigmoid(u),
    "mixed": lambda u: torch.softmax(u, -1) @ torch.ones(4, 4, dtype=DOUBLE),
    "moved": lambda u: torch.sigmoid(u).view(-1, 2, 2).transpose(1, 2).reshape(-1, 4).roll(1, 1),
    "gate times gate": lambda u: torch.sigmoid(u) * torch.softmax(u, -1),
    "hard": lambda u: F.hardsigmoid(u),
    "tanh and one": lambda u: 0.5 * (torch.tanh(u) + 1),
    "erfc": lambda u: torch.erfc(u),
    "exp of minus": lambda u: torch.exp(-F.softplus(u)),
    "exp of a negative matrix": lambda u: torch.exp(F.softplus(u) * -W),
    "gaussian": lambda u: torch.exp(-(u - W).pow(2).sum(-1, keepdim=True)),
    "reciprocal of a norm": lambda u: 1 / torch.linalg.vector_norm(u, dim=-1, keepdim=True),
    "root of a variance": lambda u: (u.var(-1, keepdim=True) + 1e-3) ** -0.5,
    "var_mean": lambda u: torch.rsqrt(torch.var_mean(u, -1, keepdim=True)[0] + 1e-3),
    "clamped norm": lambda u: u.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-6).reciprocal(),
    "recurrent decay": lambda u: torch.exp(-8 * torch.sigmoid(u)),
    "decay of a decay": lambda u: torch.exp(-torch.exp(u)),
    "decay of log-sigmoid": lambda u: torch.exp(F.logsigmoid(u)),
    "running decay": lambda u: torch.exp((F.softplus(u) * -W).cumsum(-1)),
    "decay of at least a tenth": lambda u: torch.exp(-(F.softplus(u) + 0.1)),
    "sigmoid by hand": lambda u: 1 / (1 + torch.exp(-u)),
    "hard by hand": lambda u: F.relu6(u + 3) / 6,
    "square of a gate": lambda u: torch.sigmoid(u) ** 2,
    "at least a tenth": lambda u: torch.sigmoid(u).clamp_min(0.1),
    "chosen": lambda u: torch.softmax(u, -1).sort(-1)[0],
    "softmax by hand": lambda u: (e := torch.exp(u)) / (e.sum(-1, keepdim=True) + 1e-9),
}
ACTIVATIONS = {
    "tanh": lambda u: torch.tanh(u),
    "relu6": lambda u: F.relu6(u),
    "clamp": lambda u: u.clamp(-1, 1),
    "linear": lambda u: 2 * u + 1,
    "exp": lambda u: torch.exp(u),
    "tanh and a table": lambda u: torch.tanh(u) + W,
    "gate and activation": lambda u: torch.sigmoid(u) + u,
    "tanh and another number": lambda u: torch.tanh(u) + 1.5,
    "relu6 of a shift beyond its ends": lambda u: F.relu6(u - 0.5),
    "relu6 of another shift": lambda u: F.relu6(u + (-0.5)),
    "exp of mixed gates": lambda u: torch.exp(
        -(torch.sigmoid(u) @ (torch.eye(4, dtype=DOUBLE) - 0.5) * F.relu(u))
    ),
    "exp of what may be positive": lambda u: torch.exp(-u.clamp_min(-5)),
    "exp of a gate less one": lambda u: torch.exp(-(torch.sigmoid(u) - 1)),
}


def product_with(g: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient at a factor, and at what the other one is made of; and that one's values."""
    torch.manual_seed(0)
    u, a = torch.randn(2, 2, 4, dtype=DOUBLE)
    d = fullgrad.decompose(
        Snippet(lambda m, u, a: (g(u) * a).sum(1, keepdim=True)),
        (u, a),
        0,
        linearization="balanced",
    )
    assert d.relative_residual.max() < 1e-12
    return *d.input_gradients, g(u)


@pytest.mark.parametrize("g", GATES.values(), ids=GATES)
def test_a_gate_is_constant(g: Callable[[Tensor], Tensor]) -> None:
    at_gate, at_activation, values = product_with(g)
    assert not at_gate.any()
    torch.testing.assert_close(at_activation, values.expand(2, 4))


@pytest.mark.parametrize("g", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_two_activations_have_a_half_each(g: Callable[[Tensor], Tensor]) -> None:
    at_first, at_second, values = product_with(g)
    assert at_first.any()
    torch.testing.assert_close(at_second, values / 2)


def test_a_gate_between() -> None:
    torch.manual_seed(0)
    a, b, u = torch.randn(3, 2, 4, dtype=DOUBLE)
    model = Snippet(lambda m, a, b, u: torch.lerp(a, b, u.sigmoid()).sum(1, keepdim=True))
    d = fullgrad.decompose(model, (a, b, u), 0, linearization="balanced")
    gate = u.sigmoid()
    torch.testing.assert_close(d.input_gradients, (1 - gate, gate, torch.zeros_like(u)))


def test_origins_say_what_they_are() -> None:
    assert Origin("gate", 1).is_gate
    assert not Origin("switch").is_gate


def test_the_first_layer_of_many_tokens_may_be_overwritten() -> None:
    """Before PyTorch 2.15 a linear layer's output for (B, T, C) is a view of that for (B T, C)."""
    torch.manual_seed(0)
    tokens = torch.randn(2, 3, 4, dtype=DOUBLE)
    a, b, c = (nn.Linear(4, 4).double() for _ in range(3))

    def out_of_place(m, t):
        gate = torch.sigmoid(a(t)).view(2, 3, 4) * 0.9
        y = F.hardswish(b(t)) * gate
        return torch.cat([c(y)[..., :2] * gate[..., :2], torch.tanh(c(y)[..., 2:])], 2).sum(1)

    def rows(layer, t):
        return layer(t.flatten(0, 1)).view(2, 3, 4)

    def in_place(m, t):
        gate = torch.sigmoid_(rows(a, t)).view(2, 3, 4).mul_(0.9)
        y = F.hardswish(rows(b, t), inplace=True).mul_(gate)
        out = rows(c, y)
        out[..., :2] *= gate[..., :2]
        out[..., 2:].tanh_()
        return out.sum(1)

    found, expected = (
        fullgrad.decompose(Snippet(run), tokens, 1, linearization="balanced")
        for run in (in_place, out_of_place)
    )
    torch.testing.assert_close(found.input_gradients, expected.input_gradients)
    assert found.relative_residual.max() < 1e-12
    assert found.implicit_shares() == expected.implicit_shares() == {}


@pytest.mark.parametrize("g", [F.softplus, torch.exp, F.logsigmoid])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_slopes_near_zero_in_half_precision(g, dtype: torch.dtype) -> None:
    u = torch.linspace(4e-4, 2.4e-3, 16)[:, None].to(dtype)
    d = fullgrad.decompose(Snippet(lambda m, x: g(x)), u, 0, linearization="balanced")
    slope = 1.0 if g is torch.exp else 0.5
    assert (d.input_gradients[0].float() - slope).abs().max() < 0.02


def test_constants_that_belong_to_a_sample_do_not_decide() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(3, 4, dtype=DOUBLE), torch.rand(3, 4, dtype=DOUBLE)
    w[2] *= -1
    model = Snippet(lambda m, x, w: torch.exp(-F.relu(x) * w) * (2 * x))

    def gradient(count: int) -> Tensor:
        d = fullgrad.decompose(
            model, x[:count], 0, additional_forward_args=(w[:count],), linearization="balanced"
        )
        return d.input_gradients[0][:2]

    torch.testing.assert_close(gradient(3), gradient(2))


@pytest.mark.parametrize("layout", ["TBC", "BTC"])
@pytest.mark.parametrize("axes", [2, 3])
def test_nor_do_they_where_time_comes_first(layout: str, axes: int) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(5, 3, 4, dtype=DOUBLE), torch.rand(3, 4, dtype=DOUBLE)
    w[2] *= -1

    def forward(m: Snippet, x: Tensor, w: Tensor) -> Tensor:
        x = x if layout == "TBC" else x.transpose(0, 1)
        w = w if axes == 2 else w[None]
        return m.fc((torch.exp(-F.relu(x) * w) * (2 * x)).mean(0))

    def gradient(count: int) -> Tensor:
        given = x[:, :count] if layout == "TBC" else x[:, :count].transpose(0, 1)
        d = fullgrad.decompose(
            Snippet(forward),
            given,
            0,
            additional_forward_args=(w[:count],),
            linearization="balanced",
            layout=layout,
        )
        found = d.input_gradients[0]
        return found[:, :2] if layout == "TBC" else found[:2]

    torch.testing.assert_close(gradient(3), gradient(2))


def test_several_numbers_do_not_decide_where_the_samples_are_not_known() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(5, 3, 4, dtype=DOUBLE), torch.rand(3, 4, dtype=DOUBLE)
    w[2] *= -1

    def forward(m: Snippet, x: Tensor, w: Tensor) -> Tensor:
        lost = F.relu(torch.fft.ifft(torch.fft.fft(x, dim=0), dim=0).real)
        return m.fc((torch.exp(-lost * w) * (2 * x)).mean(0))

    def gradient(count: int) -> Tensor:
        options = {"additional_forward_args": (w[:count],), "layout": "TBC"}
        d = fullgrad.decompose(
            Snippet(forward), x[:, :count], 0, linearization="balanced", **options
        )
        return d.input_gradients[0][:, :2]

    torch.testing.assert_close(gradient(3), gradient(2))


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: (x.abs() * 1j).imag,
        lambda m, x: (F.relu(x) * torch.tensor([1j, 2.0, 1.0, 1j])).real,
        lambda m, x: torch.exp(-(torch.fft.fft(x) ** 2).real),
        lambda m, x: (torch.fft.fft(x).abs() * (0.6 + 0.8j)).real,
    ],
)
def test_complex_numbers(run) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, dtype=DOUBLE)
    assert (
        fullgrad.decompose(Snippet(run), x, 1, linearization="balanced").relative_residual.max()
        < 1e-12
    )


@pytest.mark.parametrize(
    "weights",
    [
        lambda s: torch.exp(s) / torch.exp(s).sum(-1, keepdim=True),
        lambda s: s.clamp(min=-50),
        lambda s: torch.exp(s),
    ],
)
def test_masked_scores(weights) -> None:
    torch.manual_seed(0)
    a, b, c = (nn.Linear(4, 4).double() for _ in range(3))
    mask = torch.zeros(3, 3, dtype=DOUBLE).masked_fill(torch.ones(3, 3).triu(1).bool(), -math.inf)
    model = Snippet(lambda m, t: (weights(a(t) @ b(t).mT + mask) @ c(t)).sum(1))
    d = fullgrad.decompose(model, torch.randn(2, 3, 4, dtype=DOUBLE), 1, linearization="balanced")
    assert d.relative_residual.max() < 1e-12


def test_attention_over_gates_is_that_of_the_fused_kernel() -> None:
    torch.manual_seed(0)
    a, b, c = (nn.Linear(4, 4).double() for _ in range(3))
    tokens = torch.randn(2, 3, 4, dtype=DOUBLE)

    def written(m, t):
        return (torch.softmax(a(t) @ b(t).mT / 2, -1) @ torch.sigmoid(c(t))).sum(1)

    def fused(m, t):
        return F.scaled_dot_product_attention(a(t), b(t), torch.sigmoid(c(t))).sum(1)

    one, other = (
        fullgrad.decompose(Snippet(run), tokens, 1, linearization="balanced")
        for run in (written, fused)
    )
    torch.testing.assert_close(one.input_gradients, other.input_gradients)


def test_experts_are_gated_by_the_chosen_weights() -> None:
    torch.manual_seed(0)
    a, b, c = (nn.Linear(4, 4).double() for _ in range(3))

    def forward(m, x, hold=lambda t: t):
        chosen, _ = torch.softmax(a(x), -1).topk(2, -1)
        gate = hold(chosen / chosen.sum(-1, keepdim=True))
        return (torch.stack([b(x), c(x)], 1) * gate[..., None]).sum(1)

    x = torch.randn(3, 4, dtype=DOUBLE)
    d = fullgrad.decompose(Snippet(forward), x, 1, linearization="balanced")
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(forward(None, leaf, Tensor.detach)[:, 1].sum(), leaf)
    torch.testing.assert_close(d.input_gradients[0], expected)

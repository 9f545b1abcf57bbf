"""In-place operations, views, constants written into activations, and infinite masks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import CompletenessError, ModelError
from snippets import DOUBLE, Snippet, assert_exact, batch

X = batch(3, 4)
C = batch(3, 4, seed=9)
I = torch.tensor([0, 2])
I4 = torch.arange(4)
MASK = torch.tensor([True, False, False, True])


def steps(*functions: Callable[[Tensor], Any]) -> Callable[..., Tensor]:
    """A forward that runs statements on a fresh activation."""

    def run(m: Any, x: Tensor) -> Tensor:
        y = x * 1.5
        for f in functions:
            f(y)
        return m.fc(y)

    return run


def store(fill: float, write: Callable[[Tensor, Tensor], Any]) -> Callable[..., Tensor]:
    """A forward that writes its input into a constant tensor."""

    def run(m: Any, x: Tensor) -> Tensor:
        y = torch.full((3, 4), fill, dtype=x.dtype)
        write(y, x)
        return m.fc(y)

    return run


def set_item(*at: Any, value: Any) -> Callable[[Tensor], None]:
    def run(y: Tensor) -> None:
        y[at] = value

    return run


ALL = slice(None)
CASES: dict[str, Callable[..., Tensor]] = {
    "slice add_ constant": steps(lambda y: y[:, :2].add_(2.0)),
    "slice add_ tensor": steps(lambda y: y[:, :2].add_(C[:, :2])),
    "slice sub_ alpha": steps(lambda y: y[:, 1:].sub_(C[:, 1:], alpha=2)),
    "slice mul_": steps(lambda y: y[:, 1:3].mul_(3.0)),
    "slice relu_": steps(lambda y: y[:, 1:3].relu_()),
    "slice tanh_": steps(lambda y: y[:, 1:3].tanh_()),
    "slice sigmoid_": steps(lambda y: y[1:, ::2].sigmoid_()),
    "slice atan_": steps(lambda y: y[:, 1:].atan_()),
    "strided slice": steps(lambda y: y[::2, 1::2].add_(1.0)),
    "view of a view": steps(lambda y: y.view(2, 6)[:, 2:5].t()[1:].add_(1.0)),
    "transposed": steps(lambda y: y.t()[1].exp_()),
    "diagonal": steps(lambda y: y.diagonal().add_(1.0)),
    "expanded constant": steps(lambda y: y.add_(C[:1].expand(3, 4))),
    "set a column": steps(set_item(ALL, 0, value=3.0)),
    "set a column to zero": steps(set_item(ALL, 0, value=0)),
    "set a slice to a tensor": steps(set_item(ALL, slice(2), value=C[:, :2])),
    "set by index": steps(set_item(ALL, I, value=C[:, :2])),
    "set by mask": steps(set_item(ALL, MASK, value=2.0)),
    "zero_ a view": steps(lambda y: y[:, 1].zero_()),
    "fill_ a view": steps(lambda y: y[:, 1].fill_(2.0)),
    "copy_ a constant": steps(lambda y: y[:, 1:].copy_(C[:, 1:])),
    "clamp_ a view": steps(lambda y: y[:, 1:].clamp_(-0.5, 0.5)),
    "masked_fill_": steps(lambda y: y.masked_fill_(MASK, 2.0)),
    "index_add_": steps(lambda y: y.index_add_(1, I, C[:, :2])),
    "index_fill_": steps(lambda y: y.index_fill_(1, I, 2.0)),
    "index_copy_": steps(lambda y: y.index_copy_(1, I, C[:, :2])),
    "scatter_add_": steps(lambda y: y.scatter_add_(1, I.expand(3, 2), C[:, :2])),
    "pow_ by a tensor": steps(lambda y: y.add_(9.0), lambda y: y.pow_(C.abs())),
    "div_ rounded": steps(lambda y: y[:, :2].div_(0.3, rounding_mode="floor")),
    "clamp_ by tensors": steps(lambda y: y.clamp_(-C.abs(), C.abs())),
    "maximum in place": steps(lambda y: y[:, 1:].clamp_min_(0.2)),
    "addcmul_": steps(lambda y: y.addcmul_(y.clone(), C, value=2)),
    "lerp_": steps(lambda y: y.lerp_(C, 0.3)),
    "addmm_": steps(lambda y: y.addmm_(C, C.t() @ C)),
    "masked_fill_ by an activation": steps(lambda y: y[0].masked_fill_(MASK, y[0].sum())),
    "one after the other": steps(
        lambda y: y[:, :2].add_(1.0),
        lambda y: y[:, 1:].mul_(2.0),
        lambda y: y.add_(C),
        lambda y: y[:, 3].zero_(),
    ),
    "of itself": steps(lambda y: y.add_(y), lambda y: y[:, :2].add_(y[:, 2:])),
    "into zeros": store(0.0, lambda y, x: y[:, :2].copy_(x[:, :2])),
    "into a constant": store(0.5, lambda y, x: y[:, :2].copy_(x[:, :2])),
    "into a constant, added": store(0.5, lambda y, x: y[:, 1:].add_(x[:, 1:])),
    "into a constant, multiplied": store(0.5, lambda y, x: y[:, 1:].mul_(x[:, 1:])),
    "into a constant, twice": store(
        0.5, lambda y, x: (y[:, :1].copy_(x[:, :1]), y[:, 2:].copy_(x[:, 2:]), y[:, 1].fill_(7))
    ),
    "into a constant by index": store(0.5, lambda y, x: y.index_copy_(1, I, x[:, :2])),
    "into a constant by mask": store(0.5, lambda y, x: y.masked_scatter_(I4 < 2, x[:, :2])),
    "into a transposed constant": store(0.5, lambda y, x: y.t()[:2].copy_(x.t()[:2])),
    "whole constant": store(0.5, lambda y, x: y.copy_(x)),
    "whole constant plus": store(0.5, lambda y, x: y.add_(x)),
    "class token": lambda m, x: m.fc(torch.cat([m.token.expand(3, -1), x[:, 1:]], 1)),
    "stack": lambda m, x: m.fc(torch.stack([x, C], 1).sum(1)),
    "where": lambda m, x: m.fc(torch.where(MASK, x, C)),
    "where scalar": lambda m, x: m.fc(torch.where(x > 0, x, 0.3)),
    "pad": lambda m, x: m.fc(F.pad(x[:, :2], (1, 1), value=1.5)),
    "scatter constant": lambda m, x: m.fc(x.scatter(1, I.expand(3, 2), 5.0)),
    "scatter into a constant": lambda m, x: m.fc(C.scatter(1, I.expand(3, 2), x[:, :2])),
    "index_put": lambda m, x: m.fc(x.index_put((torch.arange(3), I[[0, 1, 0]]), C[:, 0])),
    "masked_scatter": lambda m, x: m.fc(x.masked_scatter(MASK, C)),
    "einsum": lambda m, x: m.fc(torch.einsum("bi,bj,ij->bj", x, x, C[:1].t() @ C[:1])),
    "topk and sort": lambda m, x: m.fc(torch.cat([x.topk(2)[0], x.sort(1)[0][:, :2]], 1)),
    "gather": lambda m, x: m.fc(x.gather(1, x.argsort(1))),
    "unbind and stack": lambda m, x: m.fc(torch.stack([u.exp() for u in x.unbind(1)], 1)),
    "chunk": lambda m, x: m.fc(torch.cat([u + i for i, u in enumerate(x.chunk(2, 1))], 1)),
    "fft": lambda m, x: m.fc(torch.fft.ifft((torch.fft.fft(x) * (1 + 2j) + 0.5j) ** 2).real),
    "real fft": lambda m, x: m.fc(torch.fft.irfft(torch.fft.rfft(x) + 1, n=4)),
    "angle": lambda m, x: m.fc(torch.view_as_complex(torch.stack([x, C], -1)).angle()),
}


@pytest.mark.parametrize("name", CASES)
def test_exact(name: str) -> None:
    model = Snippet(CASES[name], token=nn.Parameter(torch.randn(1)))
    result = assert_exact(model, X)
    assert {t.module for t in result} == {"", "fc"} - ({""} if len(result) == 1 else set())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("slice add_ constant", [[2.0, 2.0, 0.0, 0.0]] * 3),
        ("set a column", [[3.0, 0.0, 0.0, 0.0]] * 3),
        ("into a constant", [[0.0, 0.0, 0.5, 0.5]] * 3),
        ("fill_ a view", [[0.0, 2.0, 0.0, 0.0]] * 3),
        ("set by mask", [[2.0, 0.0, 0.0, 2.0]] * 3),
    ],
)
def test_the_term_of_a_constant_is_weight_times_constant(name: str, value: list[Any]) -> None:
    model = Snippet(CASES[name])
    result = fullgrad.decompose(model, X, 1)
    ours = sum(t.sums for t in result.where(lambda t: t.module == ""))
    wanted = torch.tensor(value, dtype=DOUBLE) @ model.fc.weight[1].detach()
    torch.testing.assert_close(ours, wanted)


def test_a_value_that_a_term_reads_is_overwritten_later() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        m.store.copy_(C)
        y = torch.atan(x + m.store) + m.store
        m.store.zero_()
        return m.fc(y + m.store)

    result = assert_exact(Snippet(run, store=torch.zeros(3, 4)), X)
    assert [t.op for t in result] == ["add", "atan", "add", "add", "addmm"]


def test_activations_kept_in_a_buffer() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        m.store[:, :2] = x[:, :2]
        y = m.fc(m.store.clone())
        m.store[:, 2:] = 1.0
        return y + m.fc(m.store)

    model = Snippet(run, store=torch.full((3, 4), 0.5))
    for _ in range(2):
        result = fullgrad.decompose(model, X, 1)
        assert (model.store == 0.5).all()
        assert model.store.grad_fn is None
    weight, bias = model.fc.weight[1].detach(), model.fc.bias[1].detach()
    torch.testing.assert_close(result.input_gradients[0][:, :2], (2 * weight[:2]).expand(3, 2))
    torch.testing.assert_close(result.bias_sums, (weight[2:] * 1.5).sum().expand(3) + 2 * bias)


COMPLEX_VIEWS = """
import sys
sys.path.insert(0, {tests!r})
import torch
from snippets import Snippet, assert_exact, batch

for write in {writes!r}:
    def run(m, x):
        z = torch.view_as_complex(torch.stack([x, x * 2], -1)).clone()
        exec(write)
        return m.fc(z.abs() + z.real)

    print(write, flush=True)
    assert_exact(Snippet(run), batch(3, 4))
"""


def test_views_of_complex_numbers() -> None:
    # In a process of its own: a lock taken twice inside PyTorch would hold this one for ever.
    writes = [
        "z.real.add_(1.0)",
        "torch.view_as_real(z)[..., 0].mul_(2.0)",
        "z.imag[:, :2].tanh_()",
    ]
    code = COMPLEX_VIEWS.format(tests=str(Path(__file__).parents[1]), writes=writes)
    subprocess.run([sys.executable, "-c", code], timeout=120, check=True)


def used_then_overwritten(m: Any, x: Tensor) -> Tensor:
    y = x.exp()
    y.add_(1.0)
    return m.fc(y)


def test_an_overwritten_value_that_autograd_needs() -> None:
    with pytest.raises(ModelError, match="in-place"):
        fullgrad.decompose(Snippet(used_then_overwritten), X, 1)


def test_a_gradient_that_is_infinite_breaks_the_proof() -> None:
    pool = nn.LPPool2d(2, 2)
    x = batch(2, 4, 6, 6).abs()
    x[1] = -1  # nothing of it passes the ReLU

    def net(least: float) -> Snippet:
        return Snippet(lambda m, x: m.fc(m.pool(x.clamp(min=least)).mean((2, 3))), pool=pool)

    with pytest.raises(CompletenessError, match=r"sample 1 is .* NaN, .* comes from pow in pool\."):
        fullgrad.decompose(net(0), x, 1)
    assert_exact(net(1e-6), x)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("masks", ["padding", "causal bool", "causal float", "both", "is_causal"])
def test_attention_masks(masks: str, need_weights: bool) -> None:
    x = batch(3, 5, 4)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[0, 3:] = True
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    additive = torch.zeros(5, 5, dtype=DOUBLE).masked_fill(future, -float("inf"))
    padded = torch.zeros(3, 5, dtype=DOUBLE).masked_fill(padding, -float("inf"))
    options: dict[str, Any] = {
        "padding": {"key_padding_mask": padding},
        "causal bool": {"attn_mask": future},
        "causal float": {"attn_mask": additive},
        "both": {"attn_mask": additive, "key_padding_mask": padded},
        "is_causal": {"attn_mask": future, "is_causal": True},
    }[masks]
    model = Snippet(
        lambda m, u: m.fc(m.attention(u, u, u, need_weights=need_weights, **options)[0].mean(1)),
        attention=nn.MultiheadAttention(4, 2, batch_first=True),
    )
    assert_exact(model, x)


@pytest.mark.parametrize("training", [False, True])
def test_a_leaky_relu_that_draws_in_place(training: bool) -> None:
    maps = []
    for in_place in (False, True):
        torch.manual_seed(0)
        activation = nn.RReLU(inplace=in_place)
        net = nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 2)).double()
        net.train(training)
        found = fullgrad.complete_map(
            net, X, 1, mode="as_is", layout="BT", baseline=0.0, linearization="quotient"
        )
        maps.append(found.map)
    torch.testing.assert_close(*maps)

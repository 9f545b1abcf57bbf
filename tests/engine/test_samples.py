"""Every sample its own terms, wherever the batch lies, and no batch whose samples mix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import ModelError
from snippets import Snippet, assert_exact, batch

CONSTANT = batch(4, seed=7)


def batch_major(m: Any, x: Tensor) -> Tensor:
    y = torch.tanh(x.reshape(-1, 4) + CONSTANT)
    return m.fc(y.reshape(x.shape[0], -1, 4).mean(1))


def batch_minor(m: Any, x: Tensor) -> Tensor:
    y = torch.tanh(x.transpose(0, 1).reshape(-1, 4) + CONSTANT)
    return m.fc(y.reshape(-1, x.shape[0], 4).mean(0))


def sequence_first(m: Any, x: Tensor) -> Tensor:
    return m.fc(torch.tanh(x.transpose(0, 1) + CONSTANT).mean(0))


def batch_last(m: Any, x: Tensor) -> Tensor:
    return m.fc(torch.tanh(x.permute(1, 2, 0) + CONSTANT[:, None]).mean(0).t())


def reversed_batch(m: Any, x: Tensor) -> Tensor:
    return m.fc(torch.tanh(x.flip(0) + CONSTANT).mean(1)).flip(0)


LAYOUTS = (batch_major, batch_minor, sequence_first, batch_last, reversed_batch)


def assert_like_single_samples(model: nn.Module, x: Tensor, **tolerances: float) -> Any:
    result = fullgrad.decompose(model, x, 1)
    for i in range(len(x)):
        alone = fullgrad.decompose(model, x[i : i + 1], 1)
        torch.testing.assert_close(result.input_sums[i], alone.input_sums[0], **tolerances)
        torch.testing.assert_close(
            result.input_gradients[0][i], alone.input_gradients[0][0], **tolerances
        )
        # By module: PyTorch may choose other operations for another batch size.
        sums, single = result.by_module(9), alone.by_module(9)
        assert list(sums) == list(single)
        for name in sums:
            torch.testing.assert_close(sums[name][i], single[name][0], **tolerances)
        for term in result:
            if term.batch_axis is not None:
                value = term.value.select(term.batch_axis, i).sum().double()
                torch.testing.assert_close(value, term.sums[i], **tolerances)
    return result


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 16, 17, 20])
@pytest.mark.parametrize("run", LAYOUTS, ids=lambda f: f.__name__)
def test_terms_are_those_of_each_sample_alone(run: Callable[..., Tensor], size: int) -> None:
    assert_like_single_samples(Snippet(run), batch(size, 3, 4))


@pytest.mark.parametrize("run", LAYOUTS, ids=lambda f: f.__name__)
def test_as_many_positions_as_samples(run: Callable[..., Tensor]) -> None:
    result = assert_like_single_samples(Snippet(run), batch(4, 4, 4))
    axes = {
        batch_major: None,
        batch_minor: None,
        sequence_first: 1,
        batch_last: 2,
        reversed_batch: None,
    }
    assert [t.batch_axis for t in result][:2] == [axes[run]] * 2
    assert result.bias_terms[-1].batch_axis == (None if run is reversed_batch else 0)


def test_equal_samples() -> None:
    x = batch(1, 4, 4).repeat(4, 1, 1)
    result = assert_like_single_samples(Snippet(sequence_first), x)
    assert [t.batch_axis for t in result] == [1, 1, 0]


@pytest.mark.parametrize("share", [1e-1, 1e-4])
def test_a_side_branch_with_the_batch_second_is_not_hidden_by_the_tolerance(share: float) -> None:
    # What the branch adds is less than the tolerance: only its own layout tells the samples.
    def run(m: Any, x: Tensor) -> Tensor:
        return m.fc(x.mean(1) + share * torch.tanh(x.transpose(0, 1) + CONSTANT.to(x)).mean(0))

    model, x = Snippet(run).float(), batch(4, 4, 4).float()
    result = fullgrad.decompose(model, x, 1)
    assert [(t.op, t.batch_axis) for t in result] == [("add", 1), ("tanh", 1), ("addmm", 0)]
    wanted = [fullgrad.decompose(model, x[i : i + 1], 1).bias_terms[1].sums[0] for i in range(4)]
    torch.testing.assert_close(result.bias_terms[1].sums, torch.stack(wanted), rtol=1e-3, atol=0)


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("batch_first", [False, True])
def test_recurrent_layers(layer: type[nn.Module], batch_first: bool) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.cells(x if batch_first else x.transpose(0, 1))[0]
        return m.fc(y[:, -1] if batch_first else y[-1])

    model = Snippet(run, cells=layer(4, 4, num_layers=2, batch_first=batch_first))
    assert_like_single_samples(model, batch(3, 3, 4))


def test_gradients_that_vanish_in_a_long_sequence() -> None:
    # Far back, single precision has no exponent left for the gradient.
    def run(m: Any, x: Tensor) -> Tensor:
        return m.fc(m.cells(x.transpose(0, 1))[0][-1])

    model = Snippet(run, cells=nn.RNN(4, 4)).float()
    with torch.no_grad():
        model.cells.weight_hh_l0.mul_(0.1)
    x = batch(3, 60, 4).float()
    assert_like_single_samples(model, x, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [3, 16, 20])
def test_half_precision_with_the_batch_second(dtype: torch.dtype, size: int) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.fc(torch.tanh(x.transpose(0, 1) + CONSTANT.to(x)).mean(0)) * 10

    model, x = Snippet(run).to(dtype), batch(size, 5, 4).to(dtype)
    result = assert_like_single_samples(model, x, rtol=5e-2, atol=5e-2)
    assert [t.batch_axis for t in result][:2] == [1, 1]


# -- samples that depend on each other ----------------------------------------------------------

COUPLED: dict[str, Callable[..., Tensor]] = {
    "minus the mean": lambda m, x: m.fc(x - x.mean(0)),
    "cumsum": lambda m, x: m.fc(x.cumsum(0)),
    "softmax": lambda m, x: m.fc(x.softmax(0)),
    "norm": lambda m, x: m.fc(x / x.norm()),
    "mixed with the next": lambda m, x: m.fc(0.7 * x + 0.3 * x.roll(1, 0)),
    "matrix product": lambda m, x: m.fc(x @ x.t() @ x),
    "batch statistics": lambda m, x: m.fc(m.norm(x)),
    "largest": lambda m, x: m.fc(x / x.abs().amax()),
}


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coupled_samples_are_refused(name: str, dtype: torch.dtype) -> None:
    model, x = Snippet(COUPLED[name], norm=nn.BatchNorm1d(4)).to(dtype), batch(4, 4).to(dtype)
    with pytest.raises(ModelError, match="samples of the batch depend on each other"):
        fullgrad.decompose(model, x, 1, mode="as_is")


@pytest.mark.parametrize("name", COUPLED)
def test_the_sum_over_a_coupled_batch_is_explained(name: str) -> None:
    model, x = Snippet(COUPLED[name], norm=nn.BatchNorm1d(4)), batch(4, 4)
    result = fullgrad.decompose(model, x, 1, mode="as_is", per_sample=False)
    leaf = x.clone().requires_grad_()
    total = model(leaf)[:, 1].sum()
    (gradient,) = torch.autograd.grad(total, leaf)
    torch.testing.assert_close(result.input_gradients[0], gradient)
    assert result.input_sums.shape == result.bias_sums.shape == result.residual.shape == (1,)
    torch.testing.assert_close(
        result.bias_sums[0], (total - (gradient * x).sum()).detach(), atol=1e-10, rtol=1e-9
    )


def test_attention_over_the_batch_by_mistake() -> None:
    # batch_first is False by default: attention then runs over the samples.
    layer = nn.TransformerEncoderLayer(4, 2, 8)
    model = Snippet(lambda m, x: m.fc(m.layer(x).mean(1)), layer=layer)
    with pytest.raises(ModelError, match="samples of the batch depend on each other"):
        fullgrad.decompose(model, batch(4, 5, 4), 1)


def test_one_sample_is_never_coupled() -> None:
    assert_exact(Snippet(COUPLED["norm"]), batch(1, 4))


def test_batch_norm_in_evaluation_is_not_coupled() -> None:
    model = Snippet(COUPLED["batch statistics"], norm=nn.BatchNorm1d(4)).train()
    result = assert_like_single_samples(model, batch(4, 4))
    assert [t.batch_axis for t in result] == [0, 0]
    assert model.training


def test_batch_norm_with_one_sample_as_is() -> None:
    # Statistics over positions, not samples.
    model = Snippet(lambda m, x: m.fc(m.norm(x).tanh().mean((2, 3))), norm=nn.BatchNorm2d(4))
    model.train()
    assert_exact(model, batch(1, 4, 3, 3), mode="as_is")


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_batch_norm_gradient_is_that_of_a_larger_batch(memory_format: torch.memory_format) -> None:
    # PyTorch's own gradient is wrong for one sample on the CPU behind flatten and transpose.
    norm = nn.BatchNorm2d(4).eval()
    with torch.no_grad():
        for t in (norm.running_mean, norm.weight, norm.bias):
            t.normal_(generator=torch.Generator(torch.get_default_device()).manual_seed(0))
        norm.running_var.uniform_(
            0.5, 2, generator=torch.Generator(torch.get_default_device()).manual_seed(0)
        )
    model = Snippet(
        lambda m, x: m.fc(m.norm(x).flatten(2).transpose(1, 2).tanh().mean(1)), norm=norm
    )
    assert_like_single_samples(model, batch(2, 4, 3, 3).contiguous(memory_format=memory_format))

"""The result of decompose: its parts, its sums, its table, and the paper's two properties."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import OptionError
from networks import ResNetLike, seeded, vgg_like


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return seeded(ResNetLike)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(
        3,
        3,
        32,
        32,
        dtype=torch.float64,
        generator=torch.Generator(torch.get_default_device()).manual_seed(0),
    )


@pytest.fixture(scope="module")
def result(model: nn.Module, x: Tensor) -> fullgrad.Decomposition:
    return fullgrad.decompose(model, x, [1, 2, 3])


def test_parts_sum_to_the_output(
    result: fullgrad.Decomposition, model: nn.Module, x: Tensor
) -> None:
    expected = model.eval()(x).detach()[torch.arange(3), torch.tensor([1, 2, 3])]
    model.train()
    torch.testing.assert_close(result.output, expected)
    total = sum(t.value.flatten(1).sum(1) for t in result.bias_terms)
    total = total + result.input_terms[0].flatten(1).sum(1)
    torch.testing.assert_close(total + result.residual, expected)
    torch.testing.assert_close(result.bias_sums + result.input_sums + result.residual, expected)
    assert float(result.relative_residual.max()) < result.tolerance == 1e-10


def naive_bias_terms(model: nn.Module, x: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Gradient at every batch-norm and linear output, by adding a zero there, times its bias."""
    zeros: dict[str, Tensor] = {}
    handles = []

    def add_zero(name: str):
        def hook(module: nn.Module, args: tuple, out: Tensor) -> Tensor:
            zeros[name] = torch.zeros_like(out, requires_grad=True)
            return out + zeros[name]

        return hook

    biases = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            sigma = (module.running_var + module.eps).sqrt()
            b = module.bias - module.weight * module.running_mean / sigma
            biases[name] = b.detach()[None, :, None, None]
        elif isinstance(module, nn.Linear):
            biases[name] = module.bias.detach()[None]
        else:
            continue
        handles.append(module.register_forward_hook(add_zero(name)))
    model.eval()
    out = model(x).gather(1, target[:, None]).sum()
    names = list(zeros)
    gradients = torch.autograd.grad(out, [zeros[n] for n in names])
    for h in handles:
        h.remove()
    model.train()
    return {n: g * biases[n] for n, g in zip(names, gradients, strict=True)}


def test_every_term_is_that_of_a_naive_computation(
    result: fullgrad.Decomposition, model: nn.Module, x: Tensor
) -> None:
    expected = naive_bias_terms(model, x, torch.tensor([1, 2, 3]))
    assert [t.module for t in result.bias_terms] == list(expected)
    for term in result.bias_terms:
        torch.testing.assert_close(term.value, expected[term.module])
        torch.testing.assert_close(term.sums, expected[term.module].flatten(1).sum(1))
        assert term.shape == expected[term.module].shape


def test_terms_say_what_they_are(result: fullgrad.Decomposition) -> None:
    first, last = result.bias_terms[0], result.bias_terms[-1]
    assert (first.module, first.op, first.kind) == ("bn", "native_batch_norm", "both")
    assert first.batch_axis == 0
    assert first.axes is not None
    assert first.axes.placed
    assert (last.module, last.op, last.kind) == ("fc", "addmm", "explicit")
    assert repr(last) == "BiasTerm(module='fc', op='addmm', kind='explicit', shape=(3, 10))"
    assert len(result) == 8
    assert list(result) == list(result.bias_terms)


def test_result_is_frozen(result: fullgrad.Decomposition) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.output = None
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.bias_terms[0].module = "other"


def test_terms_outlive_training(x: Tensor) -> None:
    model = seeded(vgg_like)
    d = fullgrad.decompose(model, x, 0)
    before = [t.value.clone() for t in d.bias_terms]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    for term, value in zip(d.bias_terms, before, strict=True):
        assert torch.equal(term.value, value)


def test_selection_and_grouping(result: fullgrad.Decomposition) -> None:
    assert [t.module for t in result.select("block1")] == [
        "block1.bn1",
        "block1.bn2",
        "block1.down.1",
    ]
    assert result.select("block") == ()
    assert result.select("") == result.bias_terms
    assert [t.module for t in result.where(lambda t: t.kind == "explicit")] == ["fc"]
    stages = result.by_module()
    assert list(stages) == ["bn", "block1", "block2", "fc"]
    torch.testing.assert_close(sum(stages.values()), result.bias_sums)
    assert "block1.down" in result.by_module(2)
    with pytest.raises(ValueError, match="depth must be at least 1, not 0"):
        result.by_module(0)


def test_summary_of_the_sum_over_the_batch(model: nn.Module, x: Tensor) -> None:
    d = fullgrad.decompose(model, x, 1, per_sample=False)
    last = d.summary().splitlines()[-2]
    assert "over the batch, summed" in last
    total, inputs, *_, biases = (float(w) for w in last.replace(",", "").split() if w[-1].isdigit())
    assert abs(total - inputs - biases) < 1e-4 * (abs(inputs) + abs(biases))
    assert abs(total - float(d.output.sum())) < 1e-4
    with pytest.raises(OptionError, match=r"sample must be 0, the sum over the batch"):
        d.summary(sample=1)


def test_a_sample_that_there_is_not(result: fullgrad.Decomposition) -> None:
    with pytest.raises(OptionError, match="sample must be 0 to 2, not 3"):
        result.summary(sample=3)
    for flag in (True, False):
        with pytest.raises(OptionError, match="samples must be a number from 0 to 2"):
            result.samples(flag)


def test_summary(result: fullgrad.Decomposition) -> None:
    text = result.summary()
    assert "block2.down.1  native_batch_norm  both 3x16x8x8" in text
    assert "output[1] = " in text
    assert "and 8 bias terms" in text
    assert "(tolerance 1e-10)" in text
    assert "output[2] = " in result.summary(sample=1)
    grouped = result.summary(depth=1).splitlines()
    assert [line.split()[0] for line in grouped[2:7]] == ["input", "bn", "block1", "block2", "fc"]
    assert repr(result).startswith("Decomposition(batch=3, inputs=1, bias_terms=8, relative")


def test_several_inputs_by_position_and_keyword() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 3)
            self.b = nn.Linear(5, 3)

        def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
            return self.a(left).tanh() * self.b(right) * scale

    torch.manual_seed(0)
    model = Two().double()
    left, right = torch.randn(2, 4).double(), torch.randn(2, 5).double()
    d = fullgrad.decompose(model, (left, right), 1, additional_forward_args=2.0)
    assert d.input_names == ("input0", "input1")
    assert [t.shape for t in d.input_terms] == [left.shape, right.shape]
    e = fullgrad.decompose(model, {"right": right, "left": left}, 1, forward_kwargs={"scale": 2.0})
    assert e.input_names == ("right", "left")
    torch.testing.assert_close(e.input_terms[1], d.input_terms[0])
    torch.testing.assert_close(e.output, d.output)
    assert "right" in e.summary()


def test_weak_dependence() -> None:
    """Within a linear region neither gradient changes; the terms follow the input."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    x = torch.randn(1, 2, dtype=torch.float64)
    near = x + 1e-6
    here, there = fullgrad.decompose(model, x, 0), fullgrad.decompose(model, near, 0)
    assert torch.equal(here.input_gradients[0], there.input_gradients[0])
    for a, b in zip(here.bias_terms, there.bias_terms, strict=True):
        assert torch.equal(a.gradient, b.gradient)
        assert torch.equal(a.value, b.value)
    assert not torch.equal(here.input_terms[0], there.input_terms[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision(dtype: torch.dtype) -> None:
    model, x = seeded(ResNetLike).to(dtype), torch.randn(2, 3, 32, 32).to(dtype)
    d = fullgrad.decompose(model, x)
    assert d.tolerance > 1e-6
    assert d.output.dtype == dtype
    exact = fullgrad.decompose(model.double(), x.double(), d.target)
    shares = [float((t.sums.double() / d.scale)[0]) for t in d.bias_terms]
    expected = [float((t.sums / exact.scale)[0]) for t in exact.bias_terms]
    assert shares == pytest.approx(expected, abs=0.1)


def test_autocast_and_channels_last() -> None:
    model, x = seeded(ResNetLike).float(), torch.randn(2, 3, 32, 32)
    plain = fullgrad.decompose(model, x)
    last = fullgrad.decompose(
        model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    )
    torch.testing.assert_close(plain.bias_sums, last.bias_sums, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fullgrad.decompose(model, x).tolerance == 3e-2


class NormThenTokens(nn.Module):
    """The gradient arrives at the norm with transposed strides."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.tokens = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        return self.head(self.tokens(tokens).tanh()).mean(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_batch_norm_gradient_that_pytorch_gets_wrong(norm: type, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    kwargs = {"affine": True, "track_running_stats": True}
    model = NormThenTokens(norm(4, **kwargs)).to(dtype).eval()
    with torch.no_grad():
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.3, 3)
        model.norm.weight.normal_()
    x = torch.randn(1, 4, 3, 5, dtype=dtype)
    d = fullgrad.decompose(model, x, 0)
    h = 1e-5
    model.double()
    slopes = torch.zeros_like(x, dtype=torch.float64)
    for i in range(x.numel()):
        step = torch.zeros(x.numel(), dtype=torch.float64)
        step[i] = h
        step = step.view(x.shape)
        up, down = model(x.double() + step), model(x.double() - step)
        slopes.view(-1)[i] = (up - down)[0, 0].detach() / (2 * h)
    torch.testing.assert_close(d.input_gradients[0].double(), slopes, rtol=1e-4, atol=1e-5)

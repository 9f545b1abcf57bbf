"""What is explained, what is passed through, and what is refused."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import InputError, ModelError
from snippets import DOUBLE, Snippet, assert_exact, batch

X = batch(3, 4)


def plain(m: Any, x: Tensor) -> Tensor:
    return m.fc(x).tanh()


def two(m: Any, x: Tensor, other: Tensor) -> Tensor:
    return m.fc(x * other).tanh()


def looked_up(m: Any, x: Tensor, tokens: Tensor) -> Tensor:
    return m.fc(torch.atan(x + m.table(tokens)))


@pytest.mark.parametrize(
    "x",
    [
        X.clone().requires_grad_(),
        nn.Parameter(X),
        X.clone().requires_grad_() * 1,
        X.t().contiguous().t(),
        torch.cat([X, X], 1)[:, :4],
        X[:1].expand(3, 4),
    ],
    ids=["requires grad", "parameter", "has a history", "transposed", "slice", "expanded"],
)
def test_kinds_of_tensor(x: Tensor) -> None:
    requires_grad, history = x.requires_grad, x.grad_fn
    assert_exact(Snippet(plain), x.detach())
    result = fullgrad.decompose(Snippet(plain), x, 1)
    again = fullgrad.decompose(Snippet(plain), x.detach().clone(), 1)
    assert torch.equal(result.input_gradients[0], again.input_gradients[0])
    assert (x.requires_grad, x.grad_fn) == (requires_grad, history)
    if x.is_leaf:
        assert x.grad is None


def test_hooks_on_the_input_do_not_interfere() -> None:
    x = X.clone().requires_grad_()
    x.register_hook(lambda g: g * 5)
    wanted = assert_exact(Snippet(plain), X)
    result = fullgrad.decompose(Snippet(plain), x, 1)
    assert torch.equal(result.input_gradients[0], wanted.input_gradients[0])


def test_the_result_does_not_follow_the_input() -> None:
    x = X.clone()
    result = fullgrad.decompose(Snippet(plain), x, 1)
    term = result.input_terms[0].clone()
    x.zero_()
    assert torch.equal(result.inputs[0], X)
    assert torch.equal(result.input_terms[0], term)


def test_the_model_cannot_overwrite_the_input() -> None:
    x = X.clone()
    assert_exact(Snippet(lambda m, u: m.fc(u.mul_(2).add_(1))), x)
    assert torch.equal(x, X)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_modes(context: Any) -> None:
    model = Snippet(lambda m, x: m.fc(torch.atan(x)))
    wanted = fullgrad.decompose(model, X, 1)
    with context():
        result = fullgrad.decompose(model, X * 1, 1)
        enabled = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        with context():
            assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == enabled
    assert [t.op for t in result] == ["atan", "addmm"]
    assert torch.equal(result.input_gradients[0], wanted.input_gradients[0])
    assert torch.equal(result.bias_sums, wanted.bias_sums)


def test_inference_tensors_in_every_place() -> None:
    model = Snippet(looked_up, table=nn.Embedding(5, 4))
    tokens = torch.tensor([0, 3, 3])
    wanted = fullgrad.decompose(model, (X, tokens), 1)
    with torch.inference_mode():
        x, frozen = X.clone(), tokens.clone()
    for call in (
        lambda: fullgrad.decompose(model, (x, frozen), 1),
        lambda: fullgrad.decompose(model, {"x": x, "tokens": frozen}, 1),
        lambda: fullgrad.decompose(model, x, 1, additional_forward_args=frozen),
        lambda: fullgrad.decompose(model, x, 1, forward_kwargs={"tokens": frozen}),
    ):
        assert torch.equal(call().bias_sums, wanted.bias_sums)


def test_a_model_made_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        model = Snippet(plain)
    with pytest.raises(ModelError, match="inference mode"):
        fullgrad.decompose(model, X, 1)


@pytest.mark.parametrize(
    "inputs", [(X, X + 1), [X, X + 1], {"x": X, "other": X + 1}], ids=["tuple", "list", "dict"]
)
def test_several_inputs(inputs: Any) -> None:
    result = fullgrad.decompose(Snippet(two), inputs, 1)
    assert len(result.input_gradients) == 2
    # f is of degree two before tanh: the derivative in direction of both inputs.
    a, b = X.clone().requires_grad_(), (X + 1).requires_grad_()
    wanted = torch.autograd.grad(Snippet(two)(a, b)[:, 1].sum(), (a, b))
    for g, w in zip(result.input_gradients, wanted, strict=True):
        torch.testing.assert_close(g, w)
    assert [t.op for t in result] == ["mul", "addmm", "tanh"]


def test_additional_arguments_are_constants() -> None:
    one = fullgrad.decompose(Snippet(two), X, 1, additional_forward_args=X + 1)
    by_name = fullgrad.decompose(Snippet(two), X, 1, forward_kwargs={"other": X + 1})
    assert [t.op for t in one] == [t.op for t in by_name] == ["addmm", "tanh"]
    assert torch.equal(one.input_sums, by_name.input_sums)
    other = (X + 1).requires_grad_() * 1
    with_history = fullgrad.decompose(Snippet(two), X, 1, additional_forward_args=other)
    assert torch.equal(one.input_sums, with_history.input_sums)


def test_integer_inputs_are_passed_through() -> None:
    model = Snippet(looked_up, table=nn.Embedding(5, 4))
    result = fullgrad.decompose(model, (X, torch.tensor([0, 3, 3])), 1)
    assert result.input_names == ("input0",)
    assert [(t.module, t.op) for t in result] == [("", "add"), ("", "atan"), ("fc", "addmm")]


def test_an_input_that_is_not_used_has_gradient_zero() -> None:
    result = fullgrad.decompose(Snippet(lambda m, x, other: m.fc(x)), (X, X), 1)
    assert not result.input_gradients[1].any()


def nested() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([X[0], X[1]])


def csr() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return X.to_sparse_csr()


class OnMps(Tensor):
    """A tensor that says it is on an Apple GPU."""

    @staticmethod
    def __new__(cls) -> Any:
        return Tensor._make_wrapper_subclass(cls, (3, 4), device="mps")  # type: ignore[attr-defined]

    __torch_dispatch__ = classmethod(lambda *_: NotImplemented)  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((3, 4)), "not ndarray"),
        (None, "not NoneType"),
        ("x", "not str"),
        ((), "no input is a float tensor"),
        ({}, "no input is a float tensor"),
        (torch.ones(3, 4, dtype=torch.long), "no input is a float tensor.*inputs_embeds"),
        (torch.ones(3, 4, dtype=torch.bool), "no input is a float tensor"),
        ((X, 3), "input1 is a int, not a tensor"),
        ({"x": X, "mask": None}, "mask is a NoneType, not a tensor"),
        (X[:0], r"input is empty: shape \(0, 4\)"),
        ((X, X * float("nan")), "input1 holds NaN or infinite"),
        ({"x": X / 0}, "x holds NaN or infinite"),
        (X.to_sparse(), "input is sparse.*dense"),
        (csr(), "input is sparse.*dense"),
        (nested(), "input is.*nested"),
        (X.to("meta"), "input is.*meta"),
        (OnMps(), r"mps device, which has no float64: .* Move .* to the CPU \(\.to\('cpu'\)\)"),
    ],
    ids=[
        "numpy",
        "none",
        "str",
        "empty tuple",
        "empty dict",
        "int",
        "bool",
        "number",
        "mapping",
        "no samples",
        "nan",
        "inf",
        "sparse",
        "csr",
        "nested",
        "meta",
        "mps",
    ],
)
def test_inputs_that_cannot_be_explained(inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fullgrad.decompose(Snippet(plain), inputs, 1)


def test_a_keyword_given_twice() -> None:
    with pytest.raises(InputError, match="both as input and in forward_kwargs: x"):
        fullgrad.decompose(Snippet(plain), {"x": X}, 1, forward_kwargs={"x": X})


def test_complex_inputs() -> None:
    def run(m: Any, z: Tensor) -> Tensor:
        return m.fc((z * (1 + 2j) + (0.5 - 1j)).abs())

    z = torch.complex(X, X.flip(0))
    result = fullgrad.decompose(Snippet(run), z, 1)
    leaf = z.clone().requires_grad_()
    output = Snippet(run)(leaf)[:, 1]
    (gradient,) = torch.autograd.grad(output.sum(), leaf)
    torch.testing.assert_close(result.input_gradients[0], gradient)
    rest = output.detach() - (gradient.conj() * z).real.sum(1)
    torch.testing.assert_close(result.bias_sums, rest)


def test_channels_last_and_default_dtype() -> None:
    model = Snippet(
        lambda m, x: m.fc(m.norm(m.conv(x)).relu().mean((2, 3))),
        conv=nn.Conv2d(3, 4, 3),
        norm=nn.BatchNorm2d(4),
    ).eval()
    x = batch(2, 3, 6, 6)
    first = assert_exact(model, x)
    last = assert_exact(model, x.contiguous(memory_format=torch.channels_last))
    for a, b in zip(first, last, strict=True):
        torch.testing.assert_close(a.value, b.value)
    torch.set_default_dtype(DOUBLE)
    try:
        assert torch.equal(assert_exact(model, x).bias_sums, first.bias_sums)
    finally:
        torch.set_default_dtype(torch.float32)


def test_an_input_without_axes_is_decomposed() -> None:
    class Scalar(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.exp(x).reshape(1)

    x = torch.tensor(0.3, dtype=torch.float64)
    d = fullgrad.decompose(Scalar(), x)
    torch.testing.assert_close(d.output, x.exp().reshape(1))
    torch.testing.assert_close(d.input_sums + d.bias_sums, d.output)

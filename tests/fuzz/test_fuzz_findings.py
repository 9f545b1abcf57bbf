"""What the random calls found, one call each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad import methods, operations
from fullgrad.errors import InputError, LayoutError, ModelError, OptionError, TargetError
from fullgrad.interop import grad_cam, quantus
from fullgrad.maps import tokens
from fuzz_draws import model_of

X = torch.randn(2, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    return model_of("conv2d", torch.float64)


def decomposed(**options: Any) -> Any:
    return fullgrad.decompose(network(), X, 0, **options)


def mapped(x: Any = X, **options: Any) -> Any:
    return fullgrad.saliency(network(), x, 0, **options)


def cam(x: Any = X, targets: Any = None, **options: Any) -> Any:
    return grad_cam.FullGrad(network(), **options)(x, targets)


def registered(**given: Any) -> Any:
    return methods.register("own", lambda model, inputs, target: inputs, **given)


def scored(ids: Tensor, **options: Any) -> Any:
    return tokens.attribute_tokens(model_of("transformer", torch.float64), ids, 0, **options)


def captum(target: Any) -> Any:
    return fullgrad.FullGrad(network()).attribute(X[:1], target)


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: captum(torch.tensor([1.5])), TargetError, "a target tensor must hold integers"),
    (lambda: captum(torch.tensor([True])), TargetError, "a target index must be an integer"),
    (lambda: decomposed(per_sample="no"), ValueError, "per_sample must be True or False, not 'no'"),
    (lambda: decomposed(tolerance="x"), ValueError, "tolerance must be positive, not 'x'"),
    (lambda: decomposed(layout=5), LayoutError, "layout must be a text like 'BCHW', or a list"),
    (
        lambda: decomposed(activation_layouts="B C"),
        LayoutError,
        "activation_layouts must be a dict",
    ),
    (lambda: decomposed(forward_kwargs=5), InputError, "forward_kwargs must be a dict, not int"),
    (lambda: decomposed(forward_kwargs={3: 1}), InputError, "forward_kwargs must have names as"),
    (
        lambda: mapped(X[:, :1]),
        ModelError,
        r"cannot run on input of shape \(2, 1, 6, 6\) \(float64",
    ),
    (lambda: mapped(terms=3), ValueError, "terms must be one of all, .*, or modules, not 3"),
    (lambda: mapped(noise=3), OptionError, "noise must be a fullgrad.Noise, not 3"),
    (lambda: mapped(None, batch_size=1), InputError, "inputs must be a tensor"),
    (lambda: mapped(X.long(), method="smooth_fullgrad"), InputError, "no input is a float tensor"),
    (
        lambda: mapped(torch.tensor(1.0), method="smooth_fullgrad"),
        InputError,
        "inputs must be a tensor whose first axis counts the samples, not a single number",
    ),
    (lambda: fullgrad.layer_maps(3), TypeError, r"must be decompose\(\)'s, not a int"),  # type: ignore[arg-type]
    (
        lambda: fullgrad.layer_maps(decomposed(), depth=1.5),
        TypeError,
        "depth must be an integer or",
    ),  # type: ignore[arg-type]
    (
        lambda: methods.attribute("fullgrad", network(), X, signed="no"),
        ValueError,
        "signed must be",
    ),  # type: ignore[call-overload]
    (
        lambda: methods.attribute("input_gradient", network(), X[:, :1], 0),
        ModelError,
        r"cannot run on input of shape \(2, 1, 6, 6\)",
    ),
    (lambda: registered(package=5), ValueError, "package of method 'own' cannot be 5"),
    (lambda: registered(replace="yes"), ValueError, "replace must be True or False, not 'yes'"),
    (lambda: operations.register(5), ValueError, "names must be the name of an operation, or"),  # type: ignore[arg-type]
    (lambda: operations.register("a::b", family=5), ValueError, "family must be a word, not 5"),  # type: ignore[arg-type]
    (lambda: operations.register("a::b", reads_input="no"), ValueError, "reads_input must be True"),  # type: ignore[arg-type]
    (lambda: cam(targets=5), TargetError, "targets must be None or a list of functions, not int"),
    (lambda: cam(X.numpy()), InputError, "input_tensor must be a tensor whose first axis counts"),
    (
        lambda: fullgrad.decompose(nn.BatchNorm2d(2), X[0]),
        ModelError,
        r"cannot run on input of shape .* expected 4D input \(got 3D input\)",
    ),
    (lambda: cam(top=2), ValueError, "top must be None: targets choose one class for each sample"),
    (lambda: cam(target_layers=5), ValueError, r"target_layers must be \[\] or None, not 5"),
    (
        lambda: quantus.explain(network(), "image", 0),
        InputError,
        "inputs must be an array of numbers",
    ),
    (
        lambda: quantus.explain(network(), X, 0, device="x"),
        ValueError,
        "device is 'x', which is invalid",
    ),
    (lambda: scored(torch.ones(2, 3).long().to_sparse()), InputError, "input_ids must be a dense"),
    (
        lambda: scored(torch.ones(2, 3).long(), forward_kwargs=5),
        InputError,
        "forward_kwargs must be a dict, not int",
    ),
    (
        lambda: scored(torch.ones(2, 4, 1).long()),
        ModelError,
        r"cannot run on input of shape \(2, 4, 1, 4\) .* received 4-D query tensor",
    ),
    (
        lambda: fullgrad.decompose(model_of("two", torch.float64), X[..., :5, :5]),
        ModelError,
        r"cannot run on input of shape \(2, 2, 5, 5\) .*missing 1 required positional argument: 'b'",
    ),
    (
        lambda: fullgrad.decompose(network(), (X, X)),
        ModelError,
        r"cannot run on input0 of shape .*takes 2 positional arguments but 3 were given",
    ),
]


@pytest.mark.parametrize(("call", "error", "words"), REFUSED, ids=[words for *_, words in REFUSED])
def test_the_argument_is_named(call: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_an_array_of_targets_is_cut_with_the_batch() -> None:
    listed = [1, 2]
    found = fullgrad.saliency(network(), X, np.array(listed), batch_size=1)  # type: ignore[arg-type]
    torch.testing.assert_close(found, fullgrad.saliency(network(), X, listed))


def test_a_function_for_each_sample_may_be_curved() -> None:
    """What is computed from one sample of several has no position, and needs no layout."""

    def own(output: Tensor) -> Tensor:
        return output.square().sum()

    found = fullgrad.saliency(network(), X, [own, own])
    whole = fullgrad.saliency(network(), X, lambda output: output.square().sum(1))
    torch.testing.assert_close(found, whole)


def test_an_error_that_is_the_models_own_stays() -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise NotImplementedError("of the model")

    with pytest.raises(NotImplementedError, match="of the model"):
        fullgrad.decompose(Failing(), X)

"""Which scalar is explained, and which targets and outputs are refused."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import BlockedGradientError, ModelError, OutputError, TargetError
from snippets import DOUBLE, Snippet, batch

X = batch(3, 4)


def classes(m: Any, x: Tensor) -> Tensor:
    return m.fc(x).tanh()


def dense(m: Any, x: Tensor) -> Tensor:
    return m.fc(x).tanh()[:, :, None] * torch.arange(1.0, 5.0)


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        (1, [1, 1, 1]),
        ([0, 1, 2], [0, 1, 2]),
        (range(3), [0, 1, 2]),
        (torch.tensor(2), [2, 2, 2]),
        (torch.tensor([2, 0, 1]), [2, 0, 1]),
        (torch.tensor([2, 0, 1], dtype=torch.int32), [2, 0, 1]),
        (torch.tensor([[2], [0], [1]]), [2, 0, 1]),
        ((1,), [1, 1, 1]),
        ([(2,), (0,), (1,)], [2, 0, 1]),
        (np.int64(1), [1, 1, 1]),
        (np.array([2, 0, 1]), [2, 0, 1]),
        ([np.int64(0), 1, np.int32(2)], [0, 1, 2]),
    ],
    ids=str,
)
def test_class_targets(target: Any, wanted: list[int]) -> None:
    model = Snippet(classes)
    result = fullgrad.decompose(model, X, target)
    assert result.target.tolist() == wanted
    assert torch.equal(result.output, model(X).detach()[range(3), wanted])


def test_the_predicted_class_is_the_default() -> None:
    model = Snippet(classes)
    assert torch.equal(fullgrad.decompose(model, X).target, model(X).argmax(1))


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ((1, 2), [(1, 2)] * 3),
        ([(0, 0), (1, 3), (2, 1)], [(0, 0), (1, 3), (2, 1)]),
        (torch.tensor([[0, 0], [1, 3], [2, 1]]), [(0, 0), (1, 3), (2, 1)]),
    ],
    ids=["tuple", "list", "tensor"],
)
def test_dense_targets(target: Any, wanted: list[tuple[int, int]]) -> None:
    model = Snippet(dense)
    result = fullgrad.decompose(model, X, target)
    assert result.target is None
    values = model(X).detach()
    assert result.output.tolist() == [float(values[i, a, b]) for i, (a, b) in enumerate(wanted)]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (-1, "target -1 is out of range for an output of size 3"),
        (3, "target 3 is out of range for an output of size 3"),
        (torch.tensor([0, 1, 5]), "target 5 is out of range"),
        ([0, 1], "2 targets for a batch of 3"),
        ([], "0 targets for a batch of 3"),
        ((0, 1, 2), "needs an index per sample"),
        (True, "must be an integer, not True"),
        (1.0, "must be an integer, not 1.0"),
        (np.float64(1), "must be an integer"),
        (np.array([0.5, 1, 1]), "integer"),
        ([None, 1, 2], "must be an integer, not None"),
        (torch.tensor([True, False, True]), "must be an integer, not True"),
        (torch.tensor([1.0, 2.0, 0.0]), "must hold integers"),
        (torch.zeros(3, 1, 1, dtype=torch.long), r"shape \(batch,\)"),
        ("dog", "not str"),
        ({}, "not dict"),
    ],
    ids=str,
)
def test_targets_that_do_not_fit(target: Any, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        fullgrad.decompose(Snippet(classes), X, target)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, r"shape \(3, 3, 4\) has no single predicted class"),
        (1, "needs a tuple of 2 indices"),
        ((1, 4), "target 4 is out of range for an output of size 4"),
        ([(0, 0)], "1 targets for a batch of 3"),
    ],
    ids=str,
)
def test_dense_targets_that_do_not_fit(target: Any, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        fullgrad.decompose(Snippet(dense), X, target)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            lambda y: y.sum(),
            r"one float scalar per sample.*not a torch.float64 tensor of shape \(\)",
        ),
        (lambda y: y, r"not a torch.float64 tensor of shape \(3, 3\)"),
        (lambda y: y.argmax(1), "not a torch.int64 tensor"),
        (lambda y: 3, "not int"),
        (lambda y: None, "not NoneType"),
        (lambda y: y[0, :2], "one float scalar per sample"),
        (lambda y: y[:2, 1], "one float scalar per sample"),
    ],
    ids=["sum", "all", "argmax", "int", "none", "classes", "too few"],
)
def test_callables_that_do_not_fit(target: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        fullgrad.decompose(Snippet(classes), X, target)


def test_a_callable_that_detaches_or_is_constant() -> None:
    with pytest.raises(BlockedGradientError, match="leave the autograd graph"):
        fullgrad.decompose(Snippet(classes), X, lambda y: y[:, 1].detach())
    with pytest.raises(ModelError, match="does not depend on the input"):
        fullgrad.decompose(Snippet(classes), X, lambda y: torch.ones(3, dtype=DOUBLE))


def test_callables() -> None:
    model = Snippet(classes)
    margin = fullgrad.decompose(model, X, lambda y: y[:, 1] - y[:, 2])
    first, second = (fullgrad.decompose(model, X, i) for i in (1, 2))
    torch.testing.assert_close(
        margin.input_gradients[0], first.input_gradients[0] - second.input_gradients[0]
    )
    torch.testing.assert_close(margin.bias_sums, first.bias_sums - second.bias_sums)
    loss = nn.CrossEntropyLoss(reduction="none")
    result = fullgrad.decompose(model, X, lambda y: loss(y, torch.tensor([0, 1, 2])))
    torch.testing.assert_close(result.output, loss(model(X), torch.arange(3)).detach())
    assert result.target is None


@dataclass
class Answer:
    logits: Tensor
    loss: float = 0.0


Pair = namedtuple("Pair", ["logits", "features"])


@pytest.mark.parametrize(
    ("wrap", "source"),
    [
        (lambda y: y, "output"),
        (lambda y: (y, y * 2), "output[0]"),
        (lambda y: [y, None], "output[0]"),
        (lambda y: Pair(y, y * 2), "output['logits']"),
        (lambda y: {"logits": y, "aux": y * 2}, "output['logits']"),
        (lambda y: OrderedDict(out=y, aux=y * 2), "output['out']"),
        (lambda y: {"anything": y, "count": 3}, "output['anything']"),
        (Answer, "output['logits']"),
    ],
    ids=["tensor", "tuple", "list", "namedtuple", "dict", "ordered", "only one", "dataclass"],
)
def test_outputs(wrap: Callable[[Tensor], Any], source: str) -> None:
    result = fullgrad.decompose(Snippet(lambda m, x: wrap(classes(m, x))), X, 1)
    plain = fullgrad.decompose(Snippet(classes), X, 1)
    assert result.output_source.endswith(source)
    assert torch.equal(result.output, plain.output)
    assert torch.equal(result.input_gradients[0], plain.input_gradients[0])


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda y: None, "returns NoneType, which holds no tensor"),
        (lambda y: "cat", "returns str"),
        (lambda y: (), "returns tuple"),
        (lambda y: [1, y], "returns list"),
        (lambda y: ((y,), 1), "returns tuple"),
        (lambda y: y.long(), "of type torch.int64, which has no gradient"),
        (lambda y: torch.complex(y, y), "of type torch.complex128"),
        (lambda y: {"a": y, "b": y}, r"2 float tensors \(a, b\)"),
        (lambda y: {"a": 1}, r"0 float tensors \(none\)"),
        (lambda y: y * float("nan"), "holds NaN or infinite values"),
        (lambda y: y / 0, "holds NaN or infinite values"),
        (lambda y: y[:0], r"output is empty: shape \(0, 3\)"),
        (lambda y: y[:, :0], r"output is empty: shape \(3, 0\)"),
    ],
    ids=[
        "none",
        "str",
        "empty tuple",
        "list",
        "nested",
        "int",
        "complex",
        "two",
        "no float",
        "nan",
        "inf",
        "no samples",
        "no classes",
    ],
)
@pytest.mark.parametrize("target", [1, None])
def test_outputs_that_cannot_be_explained(
    wrap: Callable[[Tensor], Any], message: str, target: int | None
) -> None:
    with pytest.raises(OutputError, match=message):
        fullgrad.decompose(Snippet(lambda m, x: wrap(classes(m, x))), X, target)


def test_one_number_per_sample() -> None:
    model = Snippet(lambda m, x: classes(m, x)[:, 1])
    wanted = fullgrad.decompose(Snippet(classes), X, 1)
    assert torch.equal(fullgrad.decompose(model, X).output, wanted.output)
    with pytest.raises(TargetError, match="no class to choose: leave the target out"):
        fullgrad.decompose(model, X, 1)


def test_one_number_for_the_batch() -> None:
    with pytest.raises(TargetError, match=r"a single number for the whole batch .*squeeze\(-1\)"):
        fullgrad.decompose(Snippet(lambda m, x: classes(m, x).sum()), X)
    with pytest.raises(ModelError, match="does not depend on the input"):
        fullgrad.decompose(Snippet(lambda m, x: m.fc.weight), X, 1)

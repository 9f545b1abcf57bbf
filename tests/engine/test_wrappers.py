"""Wrapped, compiled, scripted and checkpointed models; custom functions; detached values."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from random import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _python_dispatch
from torch.utils.checkpoint import checkpoint

import fullgrad
from fullgrad import operations as rules
from fullgrad.errors import BlockedGradientError, ModelError, UnsupportedOperationError
from snippets import DOUBLE, Snippet, assert_exact, batch, in_threads

X = batch(3, 4)


def quietly(function: Callable[..., Any], *args: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 3)).double()


def compiled_inside() -> nn.Module:
    model = network()
    model[1] = torch.compile(model[1], backend="eager")
    return model


def compiled_in_place() -> nn.Module:
    model = network()
    model.compile(backend="eager")
    model(X)
    return model


@pytest.mark.parametrize(
    "wrap",
    [
        lambda: nn.DataParallel(network()),
        lambda: torch.compile(network(), backend="eager"),
        lambda: nn.DataParallel(torch.compile(network(), backend="eager")),
        compiled_inside,
        compiled_in_place,
        lambda: torch.fx.symbolic_trace(network()),
    ],
    ids=["parallel", "compiled", "both", "compiled inside", "compiled in place", "fx"],
)
def test_wrapped_models_are_as_their_inside(wrap: Callable[[], nn.Module]) -> None:
    wanted, result = assert_exact(network(), X), fullgrad.decompose(wrap(), X, 1)
    assert [t.op for t in result] == [t.op for t in wanted]
    for a, b in zip(result, wanted, strict=True):
        assert torch.equal(a.value, b.value)
        assert a.module.removesuffix("._orig_mod") == b.module


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_functions_inside_a_model(backend: str) -> None:
    function = torch.compile(lambda u: torch.tanh(u) * 2, backend=backend)
    model = Snippet(lambda m, x: m.fc(function(x)))
    quietly(model, X)
    assert [t.op for t in quietly(assert_exact, model, X)] == ["tanh", "addmm"]


def test_the_compiler_is_left_as_it_was_by_threads() -> None:
    def work() -> None:
        model = nn.Sequential(network(), nn.Identity())
        model[0].compile(backend="eager")
        model[1].register_forward_hook(lambda *a: time.sleep(random() / 100))
        for _ in range(5):
            fullgrad.decompose(model, X, 1)

    in_threads(*[work] * 4)
    graphs = []

    def backend(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compile(lambda u: u * 3 + 1, backend=backend)(X)
    assert graphs, "compilation is still switched off"
    marks = {
        k: v for k, v in vars(_python_dispatch).items() if k.startswith("_is_in_") and v is True
    }
    assert not marks, "a dispatch mode is still said to be at work"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: lambda x: x, "must be a torch.nn.Module, not function"),
        (lambda: "resnet", "must be a torch.nn.Module, not str"),
        (lambda: quietly(torch.jit.script, network()), "the model is a ScriptModule"),
        (lambda: quietly(torch.jit.trace, network(), X), "the model is a ScriptModule"),
        (
            lambda: nn.Sequential(quietly(torch.jit.script, network())),
            "module '0' is a ScriptModule",
        ),
        (lambda: nn.Sequential(nn.DataParallel(network())), "module '0' is a DataParallel"),
    ],
    ids=["function", "str", "script", "trace", "script inside", "parallel inside"],
)
def test_models_that_cannot_be_explained(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        fullgrad.decompose(build(), X, 1)


def scripted(u: Tensor) -> Tensor:
    return torch.tanh(u) * u + 1.0


def test_checkpointing() -> None:
    def inside(m: Any, x: Tensor) -> Tensor:
        return m.fc(torch.tanh(x.transpose(0, 1))).transpose(0, 1)

    model = Snippet(
        lambda m, x: checkpoint(inside, m, x, use_reentrant=False).mean(1), inner=nn.Dropout()
    )
    result = assert_exact(model, batch(4, 4, 4))
    assert [t.op for t in result] == ["tanh", "add"]
    model = Snippet(lambda m, x: checkpoint(m.fc, x, use_reentrant=True))
    with pytest.raises(ModelError, match=r"CheckpointFunctionBackward.*use_reentrant=False"):
        fullgrad.decompose(model, X, 1)


class Shifted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2 + 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class Slice(Shifted):
    """Named as one of autograd's own."""


@pytest.mark.parametrize("function", [Shifted, Slice])
def test_custom_functions_are_refused(function: type[torch.autograd.Function]) -> None:
    model = Snippet(lambda m, x: m.fc(function.apply(x)))
    name = f"custom autograd functions.*: {function.__name__}Backward between"
    with pytest.raises(ModelError, match=rf"{name} the input and fc\."):
        fullgrad.decompose(model, X, 1)
    model = Snippet(lambda m, x: function.apply(function.apply(m.fc(x))))
    with pytest.raises(ModelError, match=rf"{name} fc and the model itself\."):
        fullgrad.decompose(model, X, 1)


def test_a_rule_registered_after_the_failure_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules.registry, "_ENTRIES", rules.registry.registered())
    monkeypatch.setattr(rules.registry, "_OVERLOADS", {})
    model = Snippet(lambda m, x: torch.cdist(x, m.fc.weight, p=3.0))
    with pytest.raises(UnsupportedOperationError, match="_cdist_forward in the model"):
        fullgrad.decompose(model, X, 1)

    def rule(call: Any) -> tuple[rules.Bias, ...]:
        # y = |u - c|: b = y - <dy/du, u>, here by back-propagation through the plain formula.
        def compute(u: Tensor, c: Tensor) -> Tensor:
            with torch.enable_grad():
                leaf = u.clone().requires_grad_()
                y = (leaf[:, None] - c).abs().pow(3).sum(-1).pow(1 / 3)
                columns = [
                    torch.autograd.grad(y[:, i].sum(), leaf, retain_graph=True)[0]
                    for i in range(y.shape[1])
                ]
            return y.detach() - torch.stack([(g * u).sum(1) for g in columns], 1)

        return (rules.Bias("implicit", compute, tuple(a.detach() for a in call.args[:2])),)

    rules.register("_cdist_forward", rule, family="tests")
    assert [t.op for t in assert_exact(model, X)] == ["_cdist_forward"]


@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.orthogonal,
        nn.utils.spectral_norm,
    ],
    ids=["weight_norm", "spectral_norm", "orthogonal", "old spectral_norm"],
)
@pytest.mark.parametrize("mode", ["eval", "as_is"])
def test_parametrized_weights(wrap: Callable[[nn.Module], nn.Module], mode: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), wrap(nn.Linear(4, 3))).double().eval()
    result = assert_exact(model, X, mode=mode)
    assert [(t.module, t.op) for t in result] == [("0", "addmm"), ("1", "addmm")]


# -- values outside the autograd graph ----------------------------------------------------------


def no_grad_weight(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        weight = torch.softmax(x, 1)
    return m.fc(x * weight)


def inference_part(m: Any, x: Tensor) -> Tensor:
    with torch.inference_mode():
        y = x * 2
    return m.fc(x) + y[:, :3]


def detached_in_place(m: Any, x: Tensor) -> Tensor:
    y = x * 2
    y.detach_()
    return m.fc(x) + y[:, :3]


def into_slice(m: Any, x: Tensor) -> Tensor:
    store = torch.zeros_like(x)
    store[:, :2] = x.detach()[:, :2]
    return m.fc(x) + m.fc(store)


def into_view(m: Any, x: Tensor) -> Tensor:
    store = torch.zeros_like(x)
    view = store.view(-1)
    with torch.no_grad():
        view[:4].copy_(x[0])
    return m.fc(x) + m.fc(store)


def into_buffer(m: Any, x: Tensor) -> Tensor:
    m.store.copy_(x.detach())
    return m.fc(x) + m.fc(m.store)


def wrapped_in_dict(m: Any, x: Tensor) -> Any:
    with torch.no_grad():
        return {"logits": m.fc(x)}


BLOCKED = {
    "detach": lambda m, x: m.fc(x) + x.detach().sum(),
    "detach of a part": lambda m, x: m.fc(x * x.detach().amax(1, keepdim=True)),
    "data": lambda m, x: m.fc(x) + (x * 2).data.sum(),
    "data of the input": lambda m, x: m.fc(x) + x.data[:, :3],
    "clone of detach": lambda m, x: m.fc(x) + x.detach().clone()[:, :3],
    "straight-through": lambda m, x: m.fc(x + (x.round() - x).detach()),
    "no_grad": no_grad_weight,
    "inference_mode": inference_part,
    "detach_": detached_in_place,
    "into a slice": into_slice,
    "into a view": into_view,
    "into a buffer": into_buffer,
}


def test_blocked_output() -> None:
    with pytest.raises(BlockedGradientError, match="leave the autograd graph in 'fc'"):
        fullgrad.decompose(Snippet(wrapped_in_dict), X, 1)


@pytest.mark.parametrize("name", BLOCKED)
def test_detached_values_that_are_used_again_are_refused(name: str) -> None:
    model = Snippet(BLOCKED[name], store=torch.zeros(3, 4))
    with pytest.raises(BlockedGradientError, match=r"leave the autograd graph.*detached="):
        fullgrad.decompose(model, X, 1)


@pytest.mark.parametrize("name", [n for n in BLOCKED if n != "inference_mode"])
def test_detached_values_may_count_as_constants(name: str) -> None:
    model = Snippet(BLOCKED[name], store=torch.zeros(3, 4))
    assert_exact(model, X, detached="constant", per_sample="sum" not in name)


def clamped_behind_autograd(m: Any, x: Tensor) -> Tensor:
    y = x * 2
    y.detach().clamp_(-0.5, 0.5)
    return m.fc(y)


def clamped_data(m: Any, x: Tensor) -> Tensor:
    y = x * 2
    y.data.clamp_(-0.5, 0.5)
    return m.fc(y)


def clamped_under_no_grad(m: Any, x: Tensor) -> Tensor:
    y = x * 2
    with torch.no_grad():
        y.clamp_(-0.5, 0.5)
    return m.fc(y)


@pytest.mark.parametrize(
    "run", [clamped_behind_autograd, clamped_data, clamped_under_no_grad], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("detached", ["error", "constant"])
def test_overwriting_behind_autograd_is_refused(run: Any, detached: Any) -> None:
    with pytest.raises(BlockedGradientError, match="overwrites a value that depends on the input"):
        fullgrad.decompose(Snippet(run), X, 1, detached=detached)


def branches(m: Any, x: Tensor) -> Tensor:
    if x.detach().mean() > 0 and float(x.detach().max()) < 1e9:
        return m.fc(x)
    return m.fc(x) * 2


def logged(m: Any, x: Tensor) -> Tensor:
    m.seen = (x.detach().mean().item(), np.abs(x.detach().numpy()).max())
    return m.fc(x)


@pytest.mark.parametrize(
    "run",
    [
        branches,
        logged,
        lambda m, x: m.fc(x) + torch.zeros_like(x.detach())[:, :3],
        lambda m, x: m.fc(x) + x.detach().new_ones(3),
        lambda m, x: m.fc(x) * x.detach().shape[1],
        lambda m, x: m.fc(x * (x.detach() > 0).to(x.dtype)),
        lambda m, x: m.fc(x * (x > 0)),
        lambda m, x: m.fc(x.gather(1, x.detach().argsort(1))),
        lambda m, x: m.fc(x.masked_fill(x.detach() < 0, 0.5)),
        lambda m, x: m.fc(x[:, x.detach().sum(0).argsort()]),
    ],
    ids=[
        "branch",
        "log",
        "zeros_like",
        "new_ones",
        "shape",
        "mask",
        "comparison",
        "argsort",
        "masked_fill",
        "permutation",
    ],
)
def test_detached_values_for_decisions_are_not_refused(run: Any) -> None:
    assert_exact(Snippet(run), X)


def test_gradients_inside_forward() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        energy = m.fc(x).tanh().pow(2).sum()
        return torch.autograd.grad(energy, x, create_graph=True)[0]

    assert assert_exact(Snippet(run), X).output.dtype == DOUBLE

"""Operators of other namespaces: registered in one call, exact, with a map; refused otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import fullgrad
from fullgrad import operations
from fullgrad.errors import BlockedGradientError, LayoutError, ModelError, UnsupportedOperationError
from fullgrad.operations import propagation, registry
from snippets import Snippet, assert_exact, batch

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "custom-operators.md"


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_ENTRIES", registry.registered())
    monkeypatch.setattr(registry, "_OVERLOADS", {})
    yield


@torch.library.custom_op("fullgradtests::cube", mutates_args=())
def cube(x: Tensor) -> Tensor:
    return x**3


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(3 * inputs[0] ** 2)  # operations inside autograd's own function


cube.register_autograd(lambda ctx, g: g * ctx.saved_tensors[0], setup_context=_setup)


def _bias(call: operations.Call) -> tuple[operations.Bias, ...]:
    return operations.scaled_output(call, -2.0)


def test_the_page_runs_as_it_stands() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 5
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert "mylib::swish in the model" in names["refusal"]
    assert float(names["result"].relative_residual) < 1e-6
    assert [t.op for t in names["result"]] == [
        "convolution",
        "mylib::swish",
        "convolution",
        "addmm",
    ]
    assert names["saliency"].shape == (1, 1, 16, 16)
    assert float(names["saliency"].std()) > 0
    assert_exact(names["model"].double(), names["image"].double())


def test_an_operator_is_refused_by_name_then_exact_then_drawn() -> None:
    model = Snippet(lambda m, x: m.fc(cube(x).mean((2, 3))), width=3)
    x = batch(2, 3, 5, 4)
    with pytest.raises(
        UnsupportedOperationError,
        match=r"(?s)fullgradtests::cube in the model.*operations.register",
    ):
        fullgrad.decompose(model, x, 1)
    operations.register("fullgradtests::cube", _bias)
    assert "fullgradtests::cube" in [t.op for t in assert_exact(model, x)]
    with pytest.raises(LayoutError, match="numbers of fullgradtests::cube in the model"):
        fullgrad.saliency(model, x, 1)
    operations.register("fullgradtests::cube", axes=propagation.elementwise)
    plain = Snippet(lambda m, x: m.fc((x**3).mean((2, 3))), width=3)
    torch.testing.assert_close(fullgrad.saliency(model, x, 1), fullgrad.saliency(plain, x, 1))


@pytest.mark.parametrize("method", ["balanced_fullgrad", "difference_fullgrad", "path_fullgrad"])
def test_an_operator_has_a_map_by_every_linearization(method: str) -> None:
    """Its autograd function runs before it is known to have one."""
    operations.register("fullgradtests::cube", _bias, axes=propagation.elementwise)
    model = Snippet(lambda m, x: m.fc(cube(x).mean((2, 3))), width=3)
    plain = Snippet(lambda m, x: m.fc((x**3).mean((2, 3))), width=3)
    drawn = fullgrad.methods.attribute(method, model, batch(2, 3, 5, 4), 1)
    if method == "path_fullgrad":  # the others take a third of the gradient of PyTorch's own power
        wanted = fullgrad.methods.attribute(method, plain, batch(2, 3, 5, 4), 1)
        torch.testing.assert_close(drawn, wanted)


def test_a_rule_of_the_users_stands_for_an_operator() -> None:
    operations.register("fullgradtests::cube", _bias)
    rule = fullgrad.Rule(
        apply=lambda call: call.args[0] ** 3 / 3,
        transpose=lambda call, g: [g * call.args[0] ** 2 / 3],
    )
    chosen = fullgrad.Linearization("jacobian", operations={"fullgradtests::cube": rule})
    model, x = Snippet(lambda m, x: m.fc(cube(x))), batch(2, 4)
    found = fullgrad.decompose(model, x, 1, linearization=chosen)
    assert float(found.relative_residual.max()) < 1e-12
    usual = fullgrad.decompose(model, x, 1)
    torch.testing.assert_close(found.input_gradients[0] * 9, usual.input_gradients[0])


def test_an_operator_under_no_grad_leaves_the_graph() -> None:
    operations.register("fullgradtests::cube", _bias, axes=propagation.elementwise)

    def run(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = cube(x)
        return m.fc(x + y)

    with pytest.raises(BlockedGradientError, match="leave the autograd graph"):
        fullgrad.decompose(Snippet(run), batch(2, 4), 1)


def test_a_function_that_calls_an_operator_is_still_refused() -> None:
    operations.register("fullgradtests::cube", _bias, axes=propagation.elementwise)

    class Wrapped(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return cube(x)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
            return g

    with pytest.raises(ModelError, match=r"custom autograd functions.*WrappedBackward"):
        fullgrad.decompose(Snippet(lambda m, x: m.fc(Wrapped.apply(x))), batch(2, 4), 1)


@pytest.mark.parametrize("name", ["roi_align", "ps_roi_align", "roi_pool"])
def test_regions_of_torchvision_are_exact(name: str) -> None:
    boxes = [torch.tensor([[0.0, 1, 5, 6]], dtype=torch.float64)] * 2
    cut = getattr(torchvision.ops, name)
    model = Snippet(lambda m, x: m.fc(cut(x.relu(), boxes, 2).flatten(1)), width=16)
    channels = 16 if name == "ps_roi_align" else 4
    assert_exact(model, batch(2, channels, 8, 8))


def test_what_an_entry_has_already_is_kept() -> None:
    operations.register("erf_", lambda call: None, family="mine", reads_input=True)
    entry = registry.entry_for("aten::erf")
    assert (entry.family, entry.reads_input, entry.activation) == ("mine", True, "other")
    assert entry.axes is propagation.elementwise
    with pytest.raises(ValueError, match="aten::erf has a bias rule already"):
        operations.register("erf", _bias)
    with pytest.raises(ValueError, match="aten::erf has an axes rule already"):
        operations.register("erf", axes=propagation.unknown)


def test_the_old_keyword_works_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="function= is now bias="):
        operations.register("fullgradtests::cube", function=_bias, family="tests")
    assert registry.entry_for("fullgradtests::cube").bias is _bias


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ("mylib::a.default", {"bias": _bias}, "names: 'mylib::a.default' is not the name of an"),
        (["mylib::a", 3], {"bias": _bias}, "names: 3 is not the name of an operation"),
        ([], {"bias": _bias}, "nothing to register: give names"),
        ("mylib::a", {}, "nothing to register: give names, and bias or axes or both"),
        ("mylib::a", {"bias": 1.0}, "bias: 1.0 is not a function"),
        ("mylib::a", {"axes": "BCHW"}, "axes: 'BCHW' is not a function"),
        ("mylib::a", {"axes": propagation.windowed}, r"axes: windowed needs .* windowed\(2\)"),
    ],
)
def test_wrong_arguments_are_named(names: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        operations.register(names, **options)


def test_gradients_of_a_module_with_an_operator_reach_hooks() -> None:
    """The node of the operator is one like others: a module around it can be selected."""
    operations.register("fullgradtests::cube", _bias, axes=propagation.elementwise)

    class Cube(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return cube(x)

    model = nn.Sequential(nn.Conv2d(3, 4, 1), Cube(), nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1))
    model = nn.Sequential(model, nn.Flatten()).double()
    assert [t.module for t in assert_exact(model, batch(2, 3, 4, 4))] == ["0.0", "0.1", "0.2"]

"""Compiled explanations: equal to the eager ones, and every change noticed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._inductor.config
import torch.nn.functional as F
from torch import Tensor, nn
from torch._guards import TracingContext
from torch.fx.experimental.proxy_tensor import make_fx

import fullgrad
from fullgrad.errors import GraphError, InputError, OptionError, OutputError, TargetError
from fullgrad.interop.compiling import compiled as module
from fullgrad.interop.compiling._on_gpu import settled_on
from fullgrad.interop.compiling.call import METHODS
from fullgrad.interop.compiling.compiled import Compiled, CompiledMap
from networks import NormalizedLast


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(16, 4)
        self.scale, self.table = 1.0, [torch.tensor(0.5)]

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        x = torch.relu(self.norm(self.conv(x))) * self.scale + self.table[0]
        out: Tensor = self.head(F.adaptive_avg_pool2d(x, 2).flatten(1)) + shift
        return out


class Two(nn.Module):
    """Two images in, a dense output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(2, 3, 3), nn.Conv2d(1, 3, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.sigmoid(self.first(a)) * torch.tanh(self.second(b))


def images(batch: int = 2, seed: int = 1, channels: int = 3, size: int = 6) -> Tensor:
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    return torch.randn(batch, channels, size, size, generator=generator)


def eager(method: str, model: nn.Module, x: Any, target: Any = None, **options: Any) -> Any:
    if method.endswith("simple_fullgrad") or method == "fullgrad":
        return fullgrad.saliency(model, x, target, method, **options)
    if method.startswith("balanced"):
        options["linearization"] = "balanced"
    if method == "balanced_input":
        options["terms"] = "input"
    return fullgrad.complete_map(model, x, target, **options).map


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.fixture
def net() -> nn.Module:
    return Convolutions().eval()


@pytest.fixture
def compiled(net: nn.Module) -> Compiled:
    return fullgrad.compile(net, images())


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_the_eager_ones(method: str, net: nn.Module) -> None:
    one = fullgrad.compile(net, images(3), method=method)
    x, target = images(3, seed=2), [2, 0, 3]
    found = one(x, target)
    same(found.map, eager(method, net, x, target))
    same(found.output, net(x).detach()[range(3), target])
    assert found.target is not None and found.target.tolist() == target
    assert bool((found.residual.abs() < 1e-5).all())
    assert one(x).target.tolist() == net(x).argmax(1).tolist()  # type: ignore[union-attr]
    assert one.verify(x, torch.tensor(target)) < 1e-6
    assert len(one.seconds) == 1


def test_other_batches_have_a_graph_of_their_own(compiled: Compiled, net: nn.Module) -> None:
    for batch in (1, 3, 8, 4, 1):  # 4: as many samples as classes; 3: as many as channels
        x, target = images(batch, seed=batch), [i % 4 for i in range(batch)]
        same(compiled(x, target).map, fullgrad.saliency(net, x, target))
    assert len(compiled.seconds) == 5


class _Last(nn.Module):
    """The class of a sequence (B, T, C), from the last step of a recurrent layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("layer", "method"),
    [(nn.LSTM, "fullgrad"), (nn.GRU, "complete_fullgrad"), (nn.RNN, "simple_fullgrad")],
    ids=["LSTM", "GRU", "RNN"],
)
def test_recurrent_layers_run_all_steps_in_the_graph_too(layer: Any, method: str) -> None:
    net = _Last(layer).eval()
    one = fullgrad.compile(net, torch.rand(2, 2, 3), method=method, layout="BTC")
    x, target = torch.rand(2, 2, 3), [1, 0]
    same(one(x, target).map, eager(method, net, x, target, layout="BTC"))
    assert len(one.seconds) == 1


def test_several_inputs_and_a_dense_output() -> None:
    model, inputs = Two(), (images(2, 1, 2), images(2, 2, 1, 4))
    one = fullgrad.compile(model, inputs, (0, 0, 0), method="complete_fullgrad")
    again, target = (images(2, 3, 2), images(2, 4, 1, 4)), [(2, 3, 1), (0, 1, 2)]
    found = one(again, target)
    expected = fullgrad.complete_map(model, again, target)
    for a, b in zip(found.map, expected.map, strict=True):
        same(a, b)
    assert found.target is None and len(one.seconds) == 1
    named = fullgrad.compile(model, {"a": inputs[0], "b": inputs[1]}, (1, 2, 3))
    assert sorted(named({"a": again[0], "b": again[1]}, target).map) == ["a", "b"]


def _step(model: Any) -> None:
    model.head.weight.grad = torch.ones_like(model.head.weight)
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def _assign(model: Any) -> None:
    model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()}, assign=True)


def _replaced(model: Any) -> None:
    model.conv.weight = nn.Parameter(model.conv.weight.detach() * 2)


def _listed(model: Any) -> None:
    model.table[0] = torch.tensor(0.75)


def _training(model: Any) -> None:
    model.train()  # as in an eager call, the model is explained in evaluation mode


@pytest.mark.parametrize("change", [_step, _assign, _replaced, _listed, _training])
def test_new_numbers_are_followed_by_the_same_graph(
    change: Callable[[Any], None], compiled: Compiled, net: nn.Module
) -> None:
    made, before = compiled.seconds, compiled(images(), 1).map
    change(net)
    after = compiled(images(), 1).map
    same(after, fullgrad.saliency(net, images(), 1))
    assert torch.equal(before, after) == (change is _training)
    assert compiled.seconds == made


def _doubled(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * 2


def _own_forward(model: Any) -> None:
    model.norm.forward = lambda x: x * 3


CHANGES: dict[str, Callable[[Any], Any]] = {
    "attribute": lambda m: setattr(m, "scale", 2.0),
    "hook": lambda m: m.conv.register_forward_hook(_doubled),
    "global hook": lambda m: nn.modules.module.register_module_forward_hook(
        lambda module, args, out: out * 2 if module is m.conv else None
    ),
    "module": lambda m: setattr(m, "norm", nn.Identity()),
    "forward": _own_forward,
    "parameter's dtype": lambda m: m.double(),
    "no parameter": lambda m: setattr(m.head, "bias", None),
    "tied parameters": lambda m: setattr(m.norm, "bias", m.norm.weight),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_gets_another_graph(
    change: str, compiled: Compiled, net: nn.Module
) -> None:
    before, x = compiled.seconds, images()
    undo = CHANGES[change](net)
    try:
        x = x.double() if "dtype" in change else x
        same(compiled(x, 1).map, fullgrad.saliency(net, x, 1))
        assert len(compiled.seconds) == 1 and compiled.seconds != before
    finally:
        if change == "global hook":
            undo.remove()


def _autocast(call: Callable[[], CompiledMap]) -> CompiledMap:
    with torch.autocast("cpu", torch.bfloat16):
        return call()


def _precision(call: Callable[[], CompiledMap]) -> CompiledMap:
    kept = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if kept != "high" else "highest")
    try:
        return call()
    finally:
        torch.set_float32_matmul_precision(kept)


@pytest.mark.parametrize(
    ("within", "changed", "options"),
    [
        (_autocast, lambda x: x, {}),
        (_precision, lambda x: x, {}),
        (lambda call: call(), lambda x: x.to(memory_format=torch.channels_last), {}),
        (lambda call: call(), lambda x: x[..., :4], {}),
        (lambda call: call(), lambda x: x, {"forward_kwargs": {"shift": 1.5}}),
    ],
    ids=["autocast", "precision", "strides", "shape", "argument"],
)
def test_another_call_gets_another_graph_and_keeps_the_first(
    within: Any, changed: Any, options: Any, compiled: Compiled, net: nn.Module
) -> None:
    (first,) = compiled.seconds
    x = changed(images())
    found = within(lambda: compiled(x, 1, **options))
    expected = within(lambda: fullgrad.saliency(net, x, 1, **options))
    same(found.map, expected)
    assert len(compiled.seconds) == 2 and compiled.seconds[0] == first
    assert not found.map.is_inference()


def test_what_numbers_decide_gets_a_graph_each(monkeypatch: pytest.MonkeyPatch) -> None:
    class Picked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor, which: Tensor) -> Tensor:
            return self.conv(x).index_select(2, which).mean((2, 3)).abs()

    model, x = Picked(), images(1, size=12)

    def picked(row: int) -> Any:
        return {"additional_forward_args": (torch.tensor([row]),)}

    monkeypatch.setattr(module, "_COURSES", 2)
    one = fullgrad.compile(model, x, 0, **picked(0))
    for row in (0, 1, 0):
        same(one(x, 0, **picked(row)).map, fullgrad.saliency(model, x, 0, **picked(row)))
    assert len(one.seconds) == 2
    with pytest.raises(GraphError, match=r"2 graphs do not hold it\. Explain it eagerly: "):
        one(x, 0, **picked(9))
    assert fullgrad.saliency(model, x, 0, **picked(9)).shape == (1, 1, 12, 12)


def test_what_the_eager_call_refuses_is_refused(compiled: Compiled, net: nn.Module) -> None:
    x = images()
    x[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        compiled(x)
    with torch.no_grad():
        net.head.bias.fill_(float("inf"))  # type: ignore[union-attr, operator]
    with pytest.raises(OutputError, match="NaN or infinite"):
        compiled(images())
    with pytest.raises(TargetError, match="9"):
        compiled(images(), 9)


class _Reads(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float(x.detach().mean())


class _Draws(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.rand(3)


class _WritesOut(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            torch.add(self.bias, 0.0, out=self.bias.data)
        return super().forward(x)


class _Writes(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        self.bias.data.add_(0.0)
        return super().forward(x)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (_Reads(4, 3), r"reads numbers of a tensor into Python \(__float__\)"),
        (_Draws(4, 3), "rand draws random numbers"),
        (_Writes(4, 3), "writes into bias while it runs"),
        (_WritesOut(4, 3), "writes into bias while it runs"),
    ],
    ids=["reads", "draws", "writes", "writes out"],
)
def test_what_no_graph_can_hold_is_refused_by_name(model: nn.Module, said: str) -> None:
    x = torch.ones(2, 4)
    with pytest.raises(GraphError, match=said) as caught:
        fullgrad.compile(model, x, method="complete_fullgrad", layout="B X")
    way_out = str(caught.value).split("Explain it eagerly: ")[1]
    assert way_out == "fullgrad.complete_map(model, inputs, target)"
    assert fullgrad.complete_map(model, x, 0, layout="B X").map.shape == (2, 1, 4)


def test_targets_of_other_kinds_run_eagerly(compiled: Compiled, net: nn.Module) -> None:
    with pytest.raises(TargetError, match="not a callable") as caught:
        compiled(images(), lambda out: out[:, 0])
    way_out = str(caught.value).split("Explain it eagerly: ")[1]
    names = {"model": net, "inputs": images(), "target": lambda out: out[:, 0]}
    assert eval(way_out, {"fullgrad": fullgrad, **names}).shape == (2, 1, 6, 6)
    with pytest.raises(TargetError, match="not several"):
        compiled(images(), [[0, 1], [2, 3]])
    with pytest.raises(TargetError, match="not several"):
        fullgrad.compile(net, images(), [[0, 1], [2, 3]])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "gradcam"}, r"method must be one of fullgrad, .* not 'gradcam'$"),
        ({"method": "grad_cam"}, r"eagerly: fullgrad.methods.attribute\('grad_cam', model, inputs"),
        ({"method": "fullgrad", "placement": "even"}, "'placement'; it has .*, tolerance$"),
        ({"mode": "fast"}, "mode must be one of 'graph', 'cudagraphs', 'inductor', not 'fast'"),
        ({"noise": None}, r"compile\(\) has no option 'noise'; it is an option of"),
    ],
)
def test_unknown_options_are_refused(options: Any, said: str, net: nn.Module) -> None:
    with pytest.raises(OptionError, match=said):
        fullgrad.compile(net, images(), **options)


def test_inductor_may_keep_on_disk_what_it_compiles(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []

    def compiles(graph: Any, tensors: Any) -> Any:
        mode = TracingContext.get().fake_mode
        shapes.append(mode.shape_env)  # without, nothing is kept
        # Of real tensors Inductor would make the sizes symbols, and fail at some (MobileNetV3).
        assert {t.fake_mode for t in tensors} == {mode}
        assert all(type(n) is int for t in tensors for n in t.shape)
        # With convolutions in another layout than the rest, VGG takes a third longer.
        assert not torch._inductor.config.layout_optimization
        return graph

    before = torch._inductor.config.layout_optimization

    monkeypatch.setattr("torch._inductor.compile", compiles)
    same(
        fullgrad.compile(net, images(), 1, mode="inductor")(images(), 1).map,
        eager("fullgrad", net, images(), 1),
    )
    assert len(shapes) == 1 and shapes[0] is not None
    assert torch._inductor.config.layout_optimization == before


def test_inductor_may_expect_other_memory_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a permuted gradient PyTorch says that it stays so; its kernel returns another."""
    model = NormalizedLast().eval()

    def compiles(graph: Any, tensors: Any) -> Any:
        graph(*tensors)  # with the layouts that a compiler works with
        return graph

    monkeypatch.setattr("torch._inductor.compile", compiles)
    compiled = fullgrad.compile(model, images(), 1, mode="inductor")
    same(compiled(images(), 1).map, eager("fullgrad", model, images(), 1))


@pytest.mark.skipif("torch.get_default_device().type == 'cuda'")
def test_cuda_graphs_need_a_gpu(net: nn.Module) -> None:
    with pytest.raises(OptionError, match="use mode='graph' or mode='inductor'"):
        fullgrad.compile(net, images(), mode="cudagraphs")
    assert fullgrad.compile(net, images(), mode="graph")(images()).map.shape == (2, 1, 6, 6)


FACTOR = 1.0


def test_verify_shows_what_is_not_watched(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    net.forward = lambda x: Convolutions.forward(net, x) * FACTOR**2  # type: ignore[method-assign]
    one = fullgrad.compile(net, images())
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    with pytest.raises(GraphError, match="that is not watched: compile the model again"):
        one.verify(images())
    assert one.verify(images(), tolerance=10.0) > 0.5
    assert fullgrad.compile(net, images()).verify(images()) < 1e-6


def test_a_copy_of_the_model_is_not_watched(compiled: Compiled, net: nn.Module) -> None:
    other = copy.deepcopy(net)
    _step(other)
    same(compiled(images(), 1).map, fullgrad.saliency(net, images(), 1))


def test_constants_lie_on_the_device_that_records() -> None:
    there = torch.device("meta")  # stands for a GPU

    def call(x: Tensor) -> Tensor:
        return x * torch.full((), 2.0, device="cpu") + torch.tensor(3.0, device="cpu")

    graph = make_fx(call)(torch.ones(4, device=there))
    settled = settled_on(graph, there)
    constants = [getattr(settled, n.target) for n in settled.graph.nodes if n.op == "get_attr"]
    assert {c.device for c in constants} == {there}
    assert settled(torch.ones(4, device=there)).device == there
    with pytest.raises(GraphError, match=r"mul runs on cpu within a model on meta.*mode='graph'"):
        settled_on(make_fx(lambda x: x * 2)(torch.ones(4, device="cpu")), there)


class AtZero(nn.Module):
    """A ReLU whose input is 0 for the first sample, in the input's rounding."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = torch.tensor([[[1.0, -1.0]]]), torch.tensor([0.5])
        return torch.relu(F.conv1d(x, weight, bias)).flatten(1) + x.sum(2) * 0.1


@pytest.mark.parametrize(
    ("sample", "by"), [(0, 0.1), (0, 100.0), (1, 0.1)], ids=["as far", "further", "another"]
)
def test_only_a_map_that_jumps_with_rounding_may_differ(
    sample: int, by: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.tensor([[[1.5, 2.0]], [[4.0, 1.0]]])  # (B, C, T)

    def other_kernels(graph: Any, *args: Any) -> Any:
        def run(*tensors: Tensor) -> Any:
            found, *rest = graph(*tensors)
            return [found + by * (torch.arange(2) == sample)[:, None, None], *rest]

        return run

    monkeypatch.setattr(module, "runner", other_kernels)
    options: Any = {"method": "complete_fullgrad", "layout": "B C X"}
    if (sample, by) == (0, 0.1):
        assert fullgrad.compile(AtZero(), x, 0, **options).verify(x, 0) > 0.01
        return
    with pytest.raises(GraphError, match=r"does not repeat the eager call.* Explain it eagerly"):
        fullgrad.compile(AtZero(), x, 0, **options)
    assert fullgrad.complete_map(AtZero(), x, 0, layout="B C X").map.shape == (2, 1, 2)


def test_what_is_written_into_is_no_constant() -> None:
    def call(x: Tensor) -> Tensor:
        rows = torch.zeros(2, 3).unbind(0)  # views of one block
        torch.add(rows[0], x, out=rows[1])
        return rows[1].add_(torch.ones(3)).clone()

    graph = settled_on(make_fx(call)(torch.zeros(3)), torch.device("cpu"))
    for _ in range(2):
        assert graph(torch.ones(3)).tolist() == [2, 2, 2]

"""What a model holds outside its tree of modules is watched as well by compiled explanations."""

from __future__ import annotations

from collections import UserDict, deque, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.interop.compiling._settings import settings

Held = namedtuple("Held", "values")


class Own(list):  # type: ignore[type-arg]
    pass


class Scaled(nn.Module):
    """A layer times the number that a container holds."""

    factor = 2.0

    def __init__(self, held: Any = None, read: Callable[[Any], Any] = lambda held: 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.held, self.read = nn.Conv2d(1, 3, 2), held, read

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x)).mean((2, 3)) * self.read(self.held) * self.factor


class Unregistered(nn.Module):
    """Layers in a plain list, which ``parameters()`` does not know."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.layers = nn.Conv2d(1, 3, 2), [nn.BatchNorm2d(3).eval(), nn.Conv2d(3, 3, 1)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for layer in self.layers:
            x = layer(x)
        return x.mean((2, 3))


X = torch.linspace(-1, 2, 32).view(2, 1, 4, 4)


def followed(model: nn.Module, change: Callable[[Any], Any]) -> int:
    """How many graphs were made after a change; their maps are the eager ones."""
    compiled = fullgrad.compile(model, X, 1)
    before, made = compiled(X, 1).map, compiled.seconds
    change(model)
    after = compiled(X, 1).map
    torch.testing.assert_close(after, fullgrad.saliency(model, X, 1), rtol=1e-6, atol=1e-8)
    assert not torch.equal(before, after)
    return len(set(compiled.seconds) - set(made))


@pytest.mark.parametrize(
    ("held", "read", "key"),
    [
        (UserDict(k=2.0), lambda held: held["k"], "k"),
        (Own([2.0]), lambda held: held[0], 0),
        (deque([2.0]), lambda held: held[0], 0),
        (Held([2.0]), lambda held: held.values[0], 0),
        ([[[[[[2.0]]]]]], lambda held: held[0][0][0][0][0][0], 0),
    ],
    ids=["mapping", "own list", "deque", "named tuple", "nested"],
)
def test_containers_of_all_kinds(held: Any, read: Callable[[Any], Any], key: Any) -> None:
    inner = held.values if isinstance(held, Held) else held
    while isinstance(inner[key], list):
        inner = inner[key]
    assert followed(Scaled(held, read), lambda m: inner.__setitem__(key, 5.0)) == 1


def test_a_container_that_holds_itself() -> None:
    held: list[Any] = [2.0]
    held.append(held)
    change: Callable[[Any], None] = lambda m: held.__setitem__(0, 5.0)  # noqa: E731
    assert followed(Scaled(held, lambda held: held[1][0]), change) == 1


def test_tensors_deep_in_containers() -> None:
    held = [[[[[[torch.tensor(2.0)]]]]]]
    inner = held[0][0][0][0][0]
    change: Callable[[Any], None] = lambda m: inner.__setitem__(0, torch.tensor(7.0))  # noqa: E731
    assert followed(Scaled(held, lambda held: held[0][0][0][0][0][0]), change) == 0


def test_attributes_of_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    change: Callable[[Any], None] = lambda m: monkeypatch.setattr(Scaled, "factor", 9.0)  # noqa: E731
    assert followed(Scaled(), change) == 1


def _in_place(model: Any) -> None:
    model.layers[0].running_var.mul_(5)
    model.layers[1].weight.data.mul_(-2)


def _parameter(model: Any) -> None:
    model.layers[1].weight = nn.Parameter(torch.linspace(-1, 3, 9).view(3, 3, 1, 1))


def _layer(model: Any) -> None:
    model.layers[1] = nn.Conv2d(3, 3, 1)


def _kind(model: Any) -> None:
    model.layers[0] = nn.Tanh()


def _inside(model: Any) -> None:
    model.layers[1] = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid())


@pytest.mark.parametrize(
    ("change", "graphs"), [(_in_place, 0), (_parameter, 0), (_layer, 0), (_kind, 1), (_inside, 1)]
)
def test_layers_that_are_not_registered(change: Callable[[Any], None], graphs: int) -> None:
    assert followed(Unregistered(), change) == graphs


def _flipped(owner: Any, name: str, value: Any = None) -> Callable[[], Any]:
    def change() -> Callable[[], Any]:
        before = getattr(owner, name)
        setattr(owner, name, not before if value is None else value)
        return lambda: setattr(owner, name, before)

    return change


def _set(change: Callable[[Any], Any], value: Any, before: Any) -> Callable[[], Any]:
    return lambda: (change(value), lambda: change(before))[1]


BACKENDS: Any = torch.backends
SETTINGS = {
    "default dtype": _set(torch.set_default_dtype, torch.float64, torch.float32),
    "default device": _set(torch.set_default_device, "meta", None),
    "deterministic": _set(torch.use_deterministic_algorithms, True, False),
    "fast path": _set(BACKENDS.mha.set_fastpath_enabled, False, True),
    "mkldnn": _flipped(BACKENDS.mkldnn, "enabled"),
    **{n: _flipped(BACKENDS.cudnn, n) for n in ("enabled", "deterministic", "benchmark")},
    **{
        f"allow_{n}": _flipped(BACKENDS.cuda.matmul, f"allow_{n}")
        for n in ("fp16_reduced_precision_reduction", "bf16_reduced_precision_reduction")
    },
    "TensorFloat-32": _flipped(BACKENDS.cuda.matmul, "fp32_precision", "tf32"),
    **{
        f"{n} attention": _set(getattr(BACKENDS.cuda, f"enable_{n}_sdp"), False, True)
        for n in ("flash", "mem_efficient", "math", "cudnn")
    },
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.filterwarnings("ignore:.*TF32")
def test_settings_of_the_process(name: str) -> None:
    before = settings([X])
    undo = SETTINGS[name]()
    try:
        assert settings([X]) != before
    finally:
        undo()
    assert settings([X]) == before

"""Random calls of the public functions, right and wrong, for the fuzz targets.

A draw is a model with arguments that fit it, and for half of the draws one fault: an argument that
is wrong, with the words of which the message must hold one.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fullgrad import FullGradError

EXAMPLES = int(os.environ.get("FULLGRAD_FUZZ", "40"))
LEAST_VALID = 0.3


# -- models -------------------------------------------------------------------------------------


class Sequence(nn.Module):
    """An LSTM or a transformer over (B, T, C), and a classifier on the mean."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.body = (
            nn.LSTM(4, 4, batch_first=True)
            if kind == "lstm"
            else nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        )
        self.head = nn.Linear(4, 3)

    def of_embedded(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return self.head((y[0] if isinstance(y, tuple) else y).mean(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.of_embedded(x if x.is_floating_point() else self.embed(x))


class TwoInputs(nn.Module):
    """Two images of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 2, 3), nn.Conv2d(3, 2, 3, stride=2)
        self.head = nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        parts = [torch.relu(self.left(a)).mean((2, 3)), self.right(b).sigmoid().mean((2, 3))]
        return self.head(torch.cat(parts, 1))


class OwnForward(nn.Module):
    """In-place operations, a keyword, integers beside the image, and a dict as output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.kinds = nn.Conv2d(2, 3, 3, padding=1), nn.Embedding(5, 3)

    def forward(self, x: Tensor, kinds: Tensor, *, scale: float = 1.0) -> dict[str, Tensor]:
        y = self.conv(x).relu_() * scale
        y[:, :1] *= 2
        return {"logits": y.mean((2, 3)) + self.kinds(kinds), "hidden": y}


@dataclass(frozen=True)
class Case:
    """A kind of model: how it is made, the shapes of its float inputs, and of its output."""

    build: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    output: tuple[int, ...] = (3,)
    layout: str | None = None
    integers: bool = False  # one integer for each sample follows the inputs


CASES = {
    "conv1d": Case(
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.GELU(), nn.Flatten(), nn.Linear(12, 3)),
        ((2, 6),),
    ),
    "conv2d": Case(
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1),
            nn.BatchNorm2d(3),
            nn.ReLU(inplace=True),
            nn.Dropout(0.4),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(27, 3),
        ),
        ((2, 6, 6),),
    ),
    "conv3d": Case(
        lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(54, 3)),
        ((1, 4, 4, 4),),
    ),
    "dense": Case(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Softplus(), nn.Conv2d(3, 3, 1)),
        ((2, 5, 5),),
        output=(3, 3, 3),
    ),
    "regressor": Case(
        lambda: nn.Sequential(
            nn.Conv2d(2, 2, 3), nn.SiLU(), nn.Flatten(), nn.Linear(18, 1), nn.Flatten(0)
        ),
        ((2, 5, 5),),
        output=(),
    ),
    "mlp": Case(lambda: nn.Sequential(nn.Linear(5, 6), nn.ELU(), nn.Linear(6, 3)), ((5,),)),
    "lstm": Case(lambda: Sequence("lstm"), ((5, 4),), layout="BTC"),
    "transformer": Case(lambda: Sequence("transformer"), ((5, 4),), layout="BTC"),
    "two": Case(TwoInputs, ((2, 5, 5), (3, 7, 7))),
    "own": Case(OwnForward, ((2, 5, 5),), integers=True),
}
WITH_MAP = tuple(name for name in CASES if name != "mlp")
PIECEWISE_LINEAR = ("conv2d", "own")
IMAGES = ("conv1d", "conv2d", "conv3d", "dense", "regressor")
TEXTS = ("lstm", "transformer")


@cache
def model_of(name: str, dtype: torch.dtype) -> nn.Module:
    """The one model of a kind, with a gradient and a hook of the user's that must survive."""
    torch.manual_seed(0)
    model = CASES[name].build().to(dtype)
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, 0.5)
        parameter.requires_grad_(number != 1)
    model.register_forward_hook(lambda *_: None)
    return model.train()


# -- what a call may not change -----------------------------------------------------------------


def _state(model: nn.Module) -> dict[str, Any]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "training": [m.training for m in model.modules()],
        "hooks": [
            [list(v) for k, v in sorted(vars(m).items()) if k.endswith("_hooks")]
            for m in model.modules()
        ],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "tensors": {n: (id(t), t.requires_grad, id(t.grad)) for n, t in tensors.items()},
        "values": {n: t.detach().numpy().tobytes() for n, t in tensors.items()},
        "gradients": {
            n: t.grad.numpy().tobytes() for n, t in tensors.items() if t.grad is not None
        },
    }


def _bytes(value: Any) -> Any:
    """What can be compared of an argument."""
    if isinstance(value, Tensor):
        known = value.layout is torch.strided and value.device.type == "cpu"
        numbers = value.detach().contiguous().numpy().tobytes() if known else None
        return (id(value), value.shape, value.requires_grad, value.grad is None, numbers)
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, Mapping):
        return {k: _bytes(v) for k, v in value.items()}
    return [_bytes(v) for v in value] if isinstance(value, (tuple, list)) else id(value)


def _randomness() -> list[Any]:
    numpy = np.random.get_state()
    return [torch.get_rng_state().tolist(), [*map(str, numpy[1:2])], random.getstate()]


@contextmanager
def untouched(model: Any, arguments: Any) -> Iterator[None]:
    """Whatever the call inside does, the model, the arguments and the random state stay."""
    own = model if isinstance(model, nn.Module) else nn.Identity()
    before = _state(own), _bytes(arguments), _randomness(), torch.is_grad_enabled()
    try:
        yield
    finally:
        assert (_state(own), _bytes(arguments), _randomness(), torch.is_grad_enabled()) == before


# -- arguments ----------------------------------------------------------------------------------


def numbers(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(
        shape, dtype=dtype, generator=torch.Generator(torch.get_default_device()).manual_seed(seed)
    )


@st.composite
def images(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Random numbers, laid out in memory in several ways, leaves of a graph or not."""
    x = numbers(shape, dtype, draw(st.integers(0, 99)))
    form = draw(st.sampled_from(["plain", "plain", "leaf", "strided", "zeros"]))
    if form == "leaf":
        return x.requires_grad_(True)
    if form == "strided":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    return torch.zeros_like(x) if form == "zeros" else x


@st.composite
def targets(draw: st.DrawFn, batch: int, output: tuple[int, ...], of_classes: bool = False) -> Any:
    """A target of any kind that fits the output; ``of_classes`` leaves out callables."""
    if not output:
        return None
    rows = [tuple(draw(st.integers(0, n - 1)) for n in output) for _ in range(batch)]
    if len(output) > 1:
        return draw(st.sampled_from([rows[0], rows, lambda out: out.mean((1, 2, 3))]))
    listed = [row[0] for row in rows]
    kinds: list[Any] = [None, listed[0], listed, torch.tensor(listed), np.array(listed)]
    kinds += [np.int64(listed[0]), torch.tensor(listed[0])]
    if not of_classes:
        kinds += [(listed[0],), rows, _squares, [_first] * batch]
    return draw(st.sampled_from(kinds))


def _squares(output: Any) -> Tensor:
    logits = output["logits"] if isinstance(output, dict) else output
    return logits.square().sum(1)


def _first(output: Tensor) -> Tensor:
    return output[0]


def wrong_targets(batch: int, output: tuple[int, ...]) -> list[Any]:
    if not output:
        return [0, [0] * batch, (0,), "cat", lambda out: out.sum()]
    good = (0,) * len(output)
    return [
        -1,
        3,
        1.5,
        True,
        "cat",
        float("nan"),
        {},
        object(),
        [0] * (batch + 1),
        [0.5] * batch,
        [None] * batch,
        [*good, 0] if len(good) >= batch else [0] * 7,
        (*good, 0),
        torch.zeros(batch),
        torch.zeros(batch + 1, dtype=torch.long),
        np.full(batch, 0.5),
        lambda out: 3,
        lambda out: torch.zeros(batch, 2),
        [lambda out: 3] * batch,
    ]


# -- faults -------------------------------------------------------------------------------------

NAN = float("nan")
WRONG: dict[str, list[Any]] = {
    "mode": ["train", None, 3, [], True],
    "detached": ["ignore", None, 0, ["error"]],
    "per_sample": ["no", None, 2, []],
    "tolerance": [0, -1e-3, NAN, "small", [1e-3]],
    "layout": [5, "XYZ", "B1C", "BCBC", "BCDEFGH", [5], ["BC"] * 4, {}, ""],
    "activation_layouts": ["B C", 5, ["0"], {"nowhere": "B C"}, {"": 5}, {5: "B C"}],
    "forward_kwargs": [5, "kinds", [1], {3: 1}],
    "psi": ["layers", 3, [], {}, ("layer",)],
    "terms": ["everything", 3, None, [], ["nowhere"], [3], {}],
    "batch_size": [0, -1, 1.5, "all", True, []],
    "memory": [0, -5, 1.5, "1GB"],
    "noise": [3, "much", {}, (25, 0.1)],
    "method": ["full_grad", None, 3, []],
    "signed": ["no", None, 2],
}
MISSPELLED = ("target_class", "Mode", "tolerence", "batchsize", "n_samples", "activation_layout")
NO_MODELS: list[Any] = [None, 3, "resnet", nn.Linear, torch.relu, [nn.Linear(2, 2)]]


def wrong_inputs(x: Tensor, channels: int = 1) -> list[Any]:
    """What cannot be explained, made from an input that can, whose channels are on one axis."""
    x = x.detach()
    return [
        None,
        5,
        "image",
        [],
        {},
        x.numpy(),
        x.tolist(),
        (x.numpy(), 3),
        torch.full_like(x, NAN),
        torch.full_like(x, float("inf")),
        x[:0],
        x.long(),
        x.to_sparse(),
        x.to("meta"),
        x[..., None],
        torch.cat([x, x], channels),
        torch.tensor(1.0),
    ]


@dataclass
class Drawn:
    """One call: its model, its arguments, and what is wrong with them."""

    case: Case
    model: Any
    arguments: dict[str, Any]
    words: tuple[str, ...] = ()  # one of which the message must hold; none for a valid call
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def valid(self) -> bool:
        return not self.words

    @property
    def x(self) -> Any:
        return self.arguments["inputs"]

    @property
    def target(self) -> Any:
        return self.arguments["target"]

    @property
    def options(self) -> dict[str, Any]:
        return {k: v for k, v in self.arguments.items() if k not in ("inputs", "target")}

    def run(self, function: Callable[..., Any], *first: Any) -> Any:
        """The call's result; None after a refusal that names the fault."""
        with untouched(self.model, self.arguments):
            if self.valid:
                return function(*first, **self.arguments)
            with pytest.raises((FullGradError, ValueError, TypeError)) as refusal:
                function(*first, **self.arguments)
        message = str(refusal.value)
        assert any(w in message for w in self.words), (self.words, message)
        return None

    def close(self, found: Any, expected: Any) -> None:
        """Equal up to rounding."""
        found, expected = torch.as_tensor(found).double(), torch.as_tensor(expected).double()
        exact = next(self.model.parameters()).dtype == torch.float64
        relative = 1e-8 if exact else 2e-3
        size = float(expected.detach().abs().max()) if expected.numel() else 0.0
        torch.testing.assert_close(found, expected, rtol=relative, atol=relative * (size + 1e-3))


Fault = tuple[str, tuple[str, ...], Any]  # the argument, the words, the wrong value


def option_faults(options: tuple[str, ...]) -> list[Fault]:
    found: list[Fault] = []
    for name in options:
        for value in WRONG[name]:
            words = (name, "layout") if name == "activation_layouts" else (name,)
            found.append((name, words, value))
    return found


@st.composite
def valid_ones(draw: st.DrawFn) -> bool:
    """Whether a draw is valid: more often than not, however Hypothesis searches."""
    return random.Random(draw(st.integers(0, 2**32 - 1))).random() < 0.6


@st.composite
def calls(
    draw: st.DrawFn,
    names: tuple[str, ...] = tuple(CASES),
    valid: Mapping[str, st.SearchStrategy[Any]] = {},
    wrong: tuple[str, ...] = (),
    of_classes: bool = False,
) -> Drawn:
    """A call of a function of model, inputs and target with options.

    Args:
        draw: Hypothesis'.
        names: kinds of models.
        valid: right values of options, each given or not.
        wrong: options that may be given a wrong value of the table ``WRONG``.
        of_classes: targets are classes alone.
    """
    good = draw(valid_ones())
    name = draw(st.sampled_from(names))
    case, dtype = CASES[name], draw(st.sampled_from([torch.float64, torch.float64, torch.float32]))
    batch = draw(st.integers(1, 3))
    model: Any = model_of(name, dtype)
    xs = tuple(draw(images((batch, *shape), dtype)) for shape in case.shapes)
    arguments: dict[str, Any] = {"inputs": xs if len(xs) > 1 else xs[0]}
    arguments["target"] = draw(targets(batch, case.output, of_classes))
    if name == "own":
        if isinstance(arguments["target"], list) and callable(arguments["target"][0]):
            arguments["target"] = 0
        arguments["additional_forward_args"] = torch.arange(batch)
        if "forward_kwargs" in wrong and draw(st.booleans()):
            arguments["forward_kwargs"] = {"scale": 0.5}
    if case.layout and "layout" in wrong:
        arguments["layout"] = case.layout
    for option, values in valid.items():
        if draw(st.booleans()):
            arguments[option] = draw(values)
    if name in PIECEWISE_LINEAR and arguments.get("terms") == "implicit":
        del arguments["terms"]  # it has none
    drawn = Drawn(case, model, arguments)
    if good:
        return drawn
    about = draw(
        st.sampled_from(["model", "inputs", "target", "name", *["option"] * 4 * bool(wrong)])
    )
    if about == "model":
        drawn.model, drawn.words = draw(st.sampled_from(NO_MODELS)), ("model",)
    elif about == "inputs":
        values = wrong_inputs(xs[0], channels=-1 if case.layout == "BTC" else 1)
        arguments["inputs"], drawn.words = draw(st.sampled_from(values)), ("input",)
    elif about == "target":
        arguments["target"] = draw(st.sampled_from(wrong_targets(batch, case.output)))
        drawn.words = ("target",)
    elif about == "name":
        option = draw(st.sampled_from(MISSPELLED))
        arguments[option], drawn.words = 1, (option,)
    else:
        option, drawn.words, arguments[option] = draw(st.sampled_from(option_faults(wrong)))
        if option == "memory":
            arguments["batch_size"] = "auto"
            arguments.pop("per_sample", None)
    return drawn


def fuzzed(strategy: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """A test of many draws, of which enough must be valid."""

    def decorate(check: Callable[..., None]) -> Callable[[], None]:
        def test() -> None:
            seen: Counter[bool] = Counter()

            @settings(
                max_examples=EXAMPLES,
                database=None,
                derandomize="FULLGRAD_FUZZ" not in os.environ,
                suppress_health_check=list(HealthCheck),
            )
            @given(strategy)
            def run(drawn: Any) -> None:
                seen[drawn.valid] += 1
                check(drawn)

            run()
            assert seen[True] >= LEAST_VALID * seen.total(), seen

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate

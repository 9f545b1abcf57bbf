"""Random calls of ``operations.register``, each carried out by an operator of its own."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import fullgrad
from fullgrad import operations
from fullgrad.operations import propagation, registry
from fuzz_draws import CASES, Drawn, fuzzed, images, valid_ones


@torch.library.custom_op("fullgradfuzz::shifted", mutates_args=())
def shifted(x: Tensor) -> Tensor:
    return 2 * x + 3


shifted.register_autograd(lambda ctx, g: 2 * g)


@torch.library.custom_op("fullgradfuzz::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    return 2 * x


doubled.register_autograd(lambda ctx, g: 2 * g)


class Own(nn.Module):
    """A convolution and an operator."""

    def __init__(self, operator: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(2, 2, 3), nn.Linear(2, 3)
        self.operator = operator
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.operator(self.conv(x)).relu().mean((2, 3)))


def _three(call: operations.Call) -> Any:
    return (operations.Bias("explicit", lambda: torch.full_like(call.outputs[0], 3.0)),)


OPERATORS = {
    "shifted": (shifted, _three, lambda x: 2 * x + 3),
    "doubled": (doubled, operations.no_bias, lambda x: 2 * x),
}
WRONG: list[tuple[str, str, Any]] = [
    ("names", "names", 5),
    ("names", "names", None),
    ("names", "names", []),
    ("names", "names", "fullgradfuzz::shifted.default"),
    ("names", "names", [3]),
    ("names", "names", ""),
    ("bias", "bias", "none"),
    ("bias", "bias", 3),
    ("bias", "bias", None),
    ("axes", "axes", "BCHW"),
    ("axes", "axes", propagation.windowed),
    ("relu", "names", "relu"),
    ("family", "family", 5),
    ("reads_input", "reads_input", "yes"),
    ("autograd_keeps_input", "autograd_keeps_input", "no"),
    ("axis", "axis", propagation.elementwise),
    ("read_input", "read_input", True),
]


@st.composite
def registrations(draw: st.DrawFn) -> Drawn:
    name = draw(st.sampled_from(sorted(OPERATORS)))
    operator, bias, _ = OPERATORS[name]
    full = "fullgradfuzz::" + name + draw(st.sampled_from(["", "_"]))
    given: dict[str, Any] = {"names": draw(st.sampled_from([full, [full], (full,)])), "bias": bias}
    if draw(st.booleans()):
        given["axes"] = propagation.elementwise
    if draw(st.booleans()):
        given["family"] = draw(st.sampled_from(["affine", "own"]))
    if draw(st.booleans()):
        given["reads_input"] = draw(st.booleans())
    x = draw(images((draw(st.integers(1, 3)), 2, 5, 5), torch.float64))
    drawn = Drawn(CASES["conv2d"], Own(operator), given, more={"x": x, "name": name})
    if not draw(valid_ones()):
        word, argument, value = draw(st.sampled_from(WRONG))
        given[argument] = value
        drawn.words = (word,)
        if value is None and argument == "bias":
            given.pop("axes", None)
    return drawn


@fuzzed(registrations())
def test_register_an_operation(drawn: Drawn) -> None:
    x, name = drawn.more["x"], drawn.more["name"]
    entries = registry.registered()
    with (
        patch.object(registry, "_ENTRIES", dict(entries)),
        patch.object(registry, "_OVERLOADS", {}),
    ):
        drawn.arguments.setdefault("family", "custom")
        drawn.run(operations.register)
        after = registry.registered()
        if not drawn.valid:
            assert after == entries
            return
        assert after[f"fullgradfuzz::{name}"].family == drawn.arguments["family"]
        d = fullgrad.decompose(drawn.model, x, 1)
        other = Own(OPERATORS[name][2])
        expected = fullgrad.decompose(other, x, 1)
        drawn.close(d.output, expected.output)
        drawn.close(d.input_gradients[0], expected.input_gradients[0])
        drawn.close(d.bias_sums, expected.bias_sums)
        if "axes" in drawn.arguments:
            drawn.close(fullgrad.saliency(drawn.model, x, 1), fullgrad.saliency(other, x, 1))

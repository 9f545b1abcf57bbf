"""Random calls of ``methods.attribute`` and ``methods.register``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import strategies as st
from torch import Tensor

import fullgrad
from fullgrad import methods
from fuzz_draws import IMAGES, Drawn, calls, fuzzed, valid_ones
from fuzz_oracles import plain

FAMILY = {
    "psi": st.sampled_from([None, "signed"]),
    "terms": st.sampled_from(["all", "explicit", "bias", "input"]),
    "batch_size": st.sampled_from([None, 1, 2, "auto"]),
    "signed": st.booleans(),
}
WRONG = ("terms", "batch_size", "signed", "mode", "tolerance", "layout")


@st.composite
def family_calls(draw: st.DrawFn) -> Drawn:
    drawn = draw(calls(IMAGES, FAMILY, WRONG))
    drawn.arguments["method"] = draw(st.sampled_from(["fullgrad", "simple_fullgrad"]))
    return drawn


@fuzzed(family_calls())
def test_attribute_of_the_family(drawn: Drawn) -> None:
    found = drawn.run(lambda **given: methods.attribute(model=drawn.model, **given))
    if found is None:
        return
    options = drawn.options
    signed = options.pop("signed", False)
    options["psi"] = options.get("psi") or ("signed" if signed else "layer")
    drawn.close(found, fullgrad.saliency(drawn.model, drawn.x, drawn.target, **options))


OTHERS = ("input_gradient", "random", "sobel")


@st.composite
def other_calls(draw: st.DrawFn) -> Drawn:
    drawn = draw(
        calls(IMAGES, {"batch_size": st.sampled_from([None, 1, 2])}, ("batch_size", "signed"))
    )
    name = draw(st.sampled_from(OTHERS))
    if not drawn.valid and drawn.words[0] in ("model", "target", "input", "batch_size"):
        name = "input_gradient"
        if draw(st.integers(0, 3)) == 0:
            name = draw(st.sampled_from(["input_gradients", "", None, 5, "Sobel"]))
            drawn.words = (*drawn.words, "method")
    drawn.arguments["method"] = name
    if name == "random" and drawn.valid:
        drawn.arguments["seed"] = draw(st.integers(0, 2**31))
    return drawn


@fuzzed(other_calls())
def test_attribute_of_other_methods(drawn: Drawn) -> None:
    found = drawn.run(lambda **given: methods.attribute(model=drawn.model, **given))
    if found is None:
        return
    x = drawn.x.detach()
    if drawn.arguments["method"] == "input_gradient":
        drawn.close(found, plain(drawn)[1][0].abs().sum(1, keepdim=True))
    elif drawn.arguments["method"] == "sobel":
        slopes = [_within(x, axis) for axis in range(2, x.dim())]
        sizes = np.sqrt(sum(s * s for s in slopes)).sum(1, keepdims=True)
        drawn.close(found, torch.as_tensor(sizes))
    else:
        generator = torch.Generator().manual_seed(drawn.arguments["seed"])
        rows = [torch.rand(x.shape[2:], generator=generator, dtype=torch.float64) for _ in x]
        drawn.close(found, torch.stack(rows)[:, None])


def _within(x: Tensor, axis: int) -> Any:
    """Sobel's filter over the positions alone, sample by sample and channel by channel."""
    images = x.double().numpy()
    found = np.zeros_like(images)
    for place in np.ndindex(images.shape[:2]):
        found[place] = scipy.ndimage.sobel(images[place], axis - 2, mode="nearest")
    return found


def _size(model: Any, inputs: Tensor, target: Any, power: float = 1.0) -> Tensor:
    return inputs.abs() ** power


@st.composite
def registrations(draw: st.DrawFn) -> Drawn:
    drawn = draw(calls(("conv1d", "conv2d")).filter(lambda d: d.valid))
    given: dict[str, Any] = {"name": draw(st.sampled_from(["size", "a b", "é"])), "function": _size}
    given["about"] = draw(st.sampled_from(["", "The size of the input's numbers."]))
    given["signed"] = draw(st.sampled_from([True, False, lambda options: True]))
    given["replace"] = draw(st.booleans())
    drawn.more, drawn.arguments = dict(drawn.arguments), given
    if not draw(valid_ones()):
        name, value = draw(st.sampled_from(_WRONG_REGISTRATIONS))
        drawn.words = (name,)
        given |= {"replace": False, name: value}
        if name == "registered":
            given.pop(name)
            given["name"] = "fullgrad"
        elif name == "option":
            given.pop(name)
            given["function"] = value
    return drawn


def _reserved(model: Any, inputs: Tensor, target: Any, signed: bool = False) -> Tensor:
    return inputs


_WRONG_REGISTRATIONS: list[tuple[str, Any]] = [
    ("name", ""),
    ("name", None),
    ("name", 3),
    ("function", None),
    ("function", "size"),
    ("options", 3),
    ("options", dict),
    ("option", _reserved),
    ("registered", None),
    ("package", 5),
    ("about", None),
    ("signed", "yes"),
    ("direct", "yes"),
    ("replace", "yes"),
    ("functions", _size),
]


@fuzzed(registrations())
def test_register(drawn: Drawn) -> None:
    before = methods.names()
    try:
        method = drawn.run(methods.register)
        if method is None:
            assert methods.names() == before
            return
        x, power = drawn.more["inputs"], 2.0
        found = methods.attribute(method.name, drawn.model, x, 0, power=power)
        drawn.close(found, (x.detach() ** 2).sum(1, keepdim=True))
        with pytest.raises(TypeError, match="powers"):
            methods.attribute(method.name, drawn.model, x, 0, powers=power)
    finally:
        for name in set(methods.names()) - set(before):
            methods.unregister(name)

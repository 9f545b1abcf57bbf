"""Random calls in the styles of Captum, Quantus and grad-cam: they are ``saliency``'s maps."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import fullgrad
from fullgrad import methods
from fullgrad.interop import grad_cam, quantus
from fuzz_draws import IMAGES, WITH_MAP, Drawn, calls, fuzzed, wrong_inputs

MAP_OPTIONS = ("psi", "terms", "batch_size", "memory", "mode", "per_sample", "tolerance", "layout")
MAPS: dict[str, Any] = {
    "psi": st.sampled_from(["layer", "channel", "signed"]),
    "terms": st.sampled_from(["all", "explicit", "implicit", "bias", "input"]),
    "batch_size": st.sampled_from([None, 1, 2, 5, "auto"]),
    "detached": st.sampled_from(["error", "constant"]),
}


@fuzzed(calls(WITH_MAP, {**MAPS, "shape": st.sampled_from(["input", "map"])}, MAP_OPTIONS))
def test_captum(drawn: Drawn) -> None:
    """With the input's shape the sum over channels is the map."""
    found = drawn.run(
        lambda model, **given: fullgrad.FullGrad(model).attribute(**given), drawn.model
    )
    if found is None:
        return
    options = drawn.options
    shape = options.pop("shape", "input")
    expected = fullgrad.saliency(drawn.model, drawn.x, drawn.target, **options)
    many = isinstance(found, tuple)
    for one, other in zip(*((m if many else (m,)) for m in (found, expected)), strict=True):
        if shape == "input":
            axis = (drawn.case.layout or "BC").index("C")
            one = one.sum(axis, keepdim=True).movedim(axis, 1)
        drawn.close(one, other)


@st.composite
def quantus_calls(draw: st.DrawFn) -> Drawn:
    options = {k: v for k, v in MAPS.items() if k != "psi"}
    drawn = draw(calls(IMAGES, options, ("psi", "terms", "batch_size", "signed"), of_classes=True))
    given, words = drawn.arguments, drawn.words
    given["targets"] = given.pop("target")
    if drawn.valid:
        x = given["inputs"].detach()
        given["inputs"] = draw(st.sampled_from([x, x.numpy(), x.tolist(), x.float()]))
        given["device"] = draw(st.sampled_from([None, "cpu", torch.device("cpu")]))
    elif words == ("input",):
        x = torch.rand(1, *drawn.case.shapes[0])
        numbers = [v for v in wrong_inputs(x) if not isinstance(v, Tensor) or v.is_floating_point()]
        numbers = [v for v in numbers if type(v).__name__ != "ndarray" and v != x.tolist()]
        given["inputs"] = draw(st.sampled_from(numbers))
        drawn.words = (*words, "targets")  # of another number of samples
    elif draw(st.integers(0, 3)) == 0:
        given["device"] = draw(st.sampled_from(["nowhere", 3.5, "cuda:7", []]))
        drawn.words = (*words, "device")
    return drawn


@fuzzed(quantus_calls())
def test_quantus(drawn: Drawn) -> None:
    found = drawn.run(quantus.explain, drawn.model)
    if found is None:
        return
    options = drawn.options
    target, _ = options.pop("targets"), options.pop("device")
    x = torch.as_tensor(drawn.x, dtype=next(drawn.model.parameters()).dtype)
    drawn.close(found, methods.attribute("fullgrad", drawn.model, x, target, **options))


def _square(output: Tensor) -> Tensor:
    return output.square().sum()


@st.composite
def grad_cam_calls(draw: st.DrawFn) -> Drawn:
    """``more`` holds what the object is called with."""
    drawn = draw(calls(("conv1d", "conv2d", "conv3d"), MAPS, (*MAP_OPTIONS, "method")))
    given = drawn.arguments
    given.pop("target")
    x = given.pop("inputs")
    batch = len(x) if isinstance(x, Tensor) and x.dim() else 1
    drawn.more = {"input_tensor": x, "targets": draw(st.sampled_from([None, [_square] * batch]))}
    if drawn.words == ("target",):
        wrong = [5, "cat", [_square] * (batch + 1), [lambda o: 3] * batch, [lambda o: o] * batch]
        drawn.more["targets"] = draw(st.sampled_from(wrong))
    elif not drawn.valid and draw(st.booleans()):
        drawn = Drawn(drawn.case, drawn.model, drawn.arguments, drawn.words, drawn.more)
        name, value = draw(st.sampled_from(_WRONG_HERE))
        (drawn.more if "smooth" in name else given)[name] = value
        drawn.words = (*drawn.words, name)
    return drawn


_WRONG_HERE: list[tuple[str, Any]] = [
    ("target_layers", [torch.nn.ReLU()]),
    ("target_layers", 5),
    ("reshape_transform", _square),
    ("reshape_transform", 5),
    ("aug_smooth", True),
    ("eigen_smooth", 1),
]


@fuzzed(grad_cam_calls())
def test_grad_cam(drawn: Drawn) -> None:
    def call(model: Any, **options: Any) -> Any:
        return grad_cam.FullGrad(model, **options)(**drawn.more)

    found = drawn.run(call, drawn.model)
    if found is None:
        return
    x, targets = drawn.more["input_tensor"], drawn.more["targets"]
    maps = fullgrad.saliency(drawn.model, x, targets, **drawn.arguments).squeeze(1)
    for one, other in zip(found, maps, strict=True):
        spread = other.max() - other.min()
        expected = (other - other.min()) / (spread if spread > 0 else 1)
        torch.testing.assert_close(torch.tensor(one), expected.float(), rtol=1e-3, atol=1e-3)

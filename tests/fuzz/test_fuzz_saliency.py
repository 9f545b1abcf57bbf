"""Random calls of ``saliency`` and of the call styles that are made of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st

import fullgrad
from fullgrad import Noise
from fullgrad.maps.saliency import saliency_from_decomposition
from fullgrad.maps.smoothing import noisy
from fuzz_draws import IMAGES, WITH_MAP, Drawn, calls, fuzzed

OF_MAP = ("psi", "terms", "batch_size", "memory", "noise")
OPTIONS = (
    "method",
    *OF_MAP,
    "mode",
    "detached",
    "per_sample",
    "tolerance",
    "layout",
    "activation_layouts",
    "forward_kwargs",
)
DRAWN: dict[str, Any] = {
    "psi": st.sampled_from(["layer", "channel", "signed"]),
    "terms": st.sampled_from(["all", "explicit", "implicit", "bias", "input"]),
    "batch_size": st.sampled_from([None, 1, 2, 5, "auto"]),
    "detached": st.sampled_from(["error", "constant"]),
}
VALID = {**DRAWN, "method": st.sampled_from(["fullgrad", "simple_fullgrad"])}


def expected_maps(drawn: Drawn, x: Any = None, target: Any = None, **given: Any) -> Any:
    """The map from a decomposition of the whole batch."""
    options = {**drawn.options, **given}
    of_map = {k: options.pop(k) for k in ("psi", "terms") if k in options}
    method = options.pop("method", "fullgrad")
    for name in ("batch_size", "memory", "noise", "shape"):
        options.pop(name, None)
    x, target = (drawn.x if x is None else x), (drawn.target if target is None else target)
    d = fullgrad.decompose(drawn.model, x, target, **options)
    if method == "simple_fullgrad":
        terms = tuple(replace(t, bias=torch.ones_like(t.gradient)) for t in d.bias_terms)
        d = replace(d, bias_terms=terms)
    return saliency_from_decomposition(d, **of_map)


def compare(drawn: Drawn, found: Any, expected: Any) -> None:
    found = found if isinstance(found, tuple) else (found,)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for one, other in zip(found, expected, strict=True):
        drawn.close(one, other)


@fuzzed(calls(WITH_MAP, VALID, OPTIONS))
def test_saliency(drawn: Drawn) -> None:
    found = drawn.run(fullgrad.saliency, drawn.model)
    if found is not None:
        compare(drawn, found, expected_maps(drawn))


SMOOTH = {
    **DRAWN,
    "noise": st.builds(Noise, samples=st.just(1), scale=st.sampled_from([0.0, 0.2, 1.0])),
}


@st.composite
def smooth_calls(draw: st.DrawFn) -> Drawn:
    drawn = draw(calls(IMAGES, SMOOTH, OF_MAP))
    if drawn.valid:
        drawn.arguments.setdefault("noise", Noise(1, 0.1, draw(st.integers(0, 9))))
    drawn.arguments["method"] = "smooth_fullgrad"
    return drawn


@fuzzed(smooth_calls())
def test_smooth_saliency(drawn: Drawn) -> None:
    found = drawn.run(fullgrad.saliency, drawn.model)
    if found is None:
        return
    (copy,) = noisy(drawn.x.detach(), drawn.options["noise"])
    target = drawn.target
    if target is None and drawn.case.output:
        target = drawn.model.eval()(drawn.x).argmax(1)
        drawn.model.train()
    compare(drawn, found, expected_maps(drawn, copy, target, method="fullgrad"))

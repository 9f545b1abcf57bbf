"""Random calls of ``decompose`` and ``layer_maps``: exact, or refused by the argument's name."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

import fullgrad
from fullgrad.maps.saliency import saliency_from_decomposition
from fuzz_draws import IMAGES, Drawn, calls, fuzzed, valid_ones
from fuzz_oracles import plain

MODEL_OPTIONS = (
    "mode",
    "detached",
    "per_sample",
    "tolerance",
    "layout",
    "activation_layouts",
    "forward_kwargs",
)
VALID: dict[str, Any] = {
    "mode": st.just("eval"),
    "detached": st.sampled_from(["error", "constant"]),
    "per_sample": st.booleans(),
    "tolerance": st.sampled_from([None, 1e-3]),
    "activation_layouts": st.sampled_from([None, {}]),
}


@fuzzed(calls(valid=VALID, wrong=MODEL_OPTIONS))
def test_decompose(drawn: Drawn) -> None:
    d = drawn.run(fullgrad.decompose, drawn.model)
    if d is None:
        return
    output, gradients = plain(drawn)
    drawn.close(d.output, output)
    whole = output if drawn.options.get("per_sample", True) else output.sum().view(1)
    drawn.close(d.input_sums + d.bias_sums, whole)
    terms = [*d.input_terms, *(t.value for t in d.bias_terms)]
    drawn.close(sum(t.double().sum() for t in terms), output.sum())
    for found, expected in zip(d.input_gradients, gradients, strict=True):
        drawn.close(found, expected)


DEPTHS = st.sampled_from([1, 2, None])
BAD_DEPTHS = st.sampled_from([0, -1, 1.5, "all", [1], True])


@st.composite
def layer_calls(draw: st.DrawFn) -> Drawn:
    drawn = draw(calls(IMAGES).filter(lambda d: d.valid))
    drawn.more = {"depth": draw(DEPTHS), "psi": draw(st.sampled_from(["layer", "signed"]))}
    if not draw(valid_ones()):
        fault = draw(st.sampled_from(["depth", "psi", "decomposition", "typo"]))
        drawn.words = (fault,)
        if fault == "decomposition":
            drawn.more[fault] = draw(st.sampled_from([None, 3, {}, torch.zeros(1)]))
        else:
            bad = BAD_DEPTHS if fault == "depth" else st.sampled_from(["x", None, 3, []])
            drawn.more[fault] = draw(bad)
    return drawn


@fuzzed(layer_calls())
def test_layer_maps(drawn: Drawn) -> None:
    d = fullgrad.decompose(drawn.model, **drawn.arguments)
    more = {"decomposition": d, **drawn.more}
    found = Drawn(drawn.case, drawn.model, more, drawn.words).run(fullgrad.layer_maps)
    if found is not None:
        whole = saliency_from_decomposition(d, psi=more["psi"], terms="bias")
        drawn.close(sum(found.values()), whole)
        assert {n.split(".")[0] for n in found} <= {n for n, _ in drawn.model.named_children()}

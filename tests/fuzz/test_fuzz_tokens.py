"""Random calls of ``attribute_tokens`` and ``token_saliency``."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import fullgrad
from fullgrad.maps import tokens
from fuzz_draws import TEXTS, Drawn, calls, fuzzed
from fuzz_oracles import scalars

MODEL_OPTIONS = ("mode", "detached", "tolerance", "activation_layouts", "forward_kwargs")
WORDS = 9


def wrong_ids(ids: Tensor) -> list[Any]:
    return [
        None,
        "text",
        ids.tolist(),
        ids.numpy(),
        ids.float(),
        ids.bool(),
        ids[0],
        ids[..., None],
        ids[:0],
        ids + WORDS,
        ids - WORDS,
        (ids,),
        torch.tensor(3),
        ids.to("meta"),
        ids.to_sparse(),
    ]


@st.composite
def token_calls(draw: st.DrawFn, more: Any, wrong: tuple[str, ...]) -> Drawn:
    """``inputs`` becomes ``input_ids``, and the embedding is named or not."""
    drawn = draw(calls(TEXTS, more, wrong))
    given = drawn.arguments
    given.pop("layout", None)
    x = given.pop("inputs")
    batch = max(len(x), 1) if isinstance(x, Tensor) and x.dim() else 2
    listed = draw(st.lists(st.integers(0, WORDS - 1), min_size=batch * 4, max_size=batch * 4))
    ids = torch.tensor(listed, dtype=draw(st.sampled_from([torch.int64, torch.int32])))
    given["input_ids"] = ids = ids.reshape(batch, 4)
    if drawn.words == ("input",):
        given["input_ids"] = draw(st.sampled_from(wrong_ids(ids)))
    elif drawn.valid:
        given["embedding"] = draw(st.sampled_from([None, "embed", drawn.model.embed]))
    elif draw(st.integers(0, 4)) == 0:
        given["embedding"] = draw(st.sampled_from(["nowhere", "head", 3, nn.Embedding(9, 4), []]))
        drawn.words = (*drawn.words, "embedding", "Embedding")
    return drawn


def embedded_scalars(drawn: Drawn) -> tuple[Tensor, Tensor, Tensor]:
    """The scalars, the embedded tokens and their gradient, in evaluation mode."""
    model = deepcopy(drawn.model).eval()
    leaf = model.embed(drawn.arguments["input_ids"]).detach().requires_grad_(True)
    found = scalars(model.of_embedded(leaf), drawn.target)
    return found.detach(), leaf.detach(), torch.autograd.grad(found.sum(), leaf)[0]


DETACHED = {"detached": st.sampled_from(["error", "constant"])}


@fuzzed(token_calls(DETACHED, MODEL_OPTIONS))
def test_attribute_tokens(drawn: Drawn) -> None:
    scores = drawn.run(tokens.attribute_tokens, drawn.model)
    if scores is None:
        return
    output, embedded, gradient = embedded_scalars(drawn)
    drawn.close(scores.output, output)
    drawn.close(scores.sums, output)
    drawn.close(scores.scores, (embedded * gradient).sum(2))


MAPS = {
    **DETACHED,
    "psi": st.sampled_from(["layer", "channel", "signed"]),
    "terms": st.sampled_from(["input", "all", "explicit", "implicit", "bias"]),
}


class Rest(nn.Module):
    """The model behind its embedding."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.of_embedded(x)


@fuzzed(token_calls(MAPS, (*MODEL_OPTIONS, "psi", "terms")))
def test_token_saliency(drawn: Drawn) -> None:
    """The map of the embedded tokens, where no layer carries a state from step to step."""
    found = drawn.run(tokens.token_saliency, drawn.model)
    if found is None:
        return
    if isinstance(drawn.model.body, nn.LSTM):
        psi = drawn.arguments.get("psi", "layer")
        given = {k: v for k, v in drawn.arguments.items() if k != "terms"}
        found = tokens.token_saliency(drawn.model, terms="input", **given)
        terms = "input"
    else:
        psi, terms = drawn.arguments.get("psi", "layer"), drawn.arguments.get("terms", "all")
    _, embedded, _ = embedded_scalars(drawn)
    expected = fullgrad.saliency(
        Rest(drawn.model), embedded, drawn.target, layout="BTC", psi=psi, terms=terms
    )
    drawn.close(found, expected.squeeze(1))

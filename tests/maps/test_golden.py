"""The numbers of the paper authors' published code on two small networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import fullgrad
from fullgrad.maps.saliency import saliency_from_decomposition
from networks import ResNetLike, vgg_like

NETWORKS = {"vgg_like": vgg_like, "resnet_like": ResNetLike}
BAR = 1e-10


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest, shared: Path) -> tuple:
    golden = np.load(shared / "golden" / f"{request.param}.npz")
    tensors = {name: torch.from_numpy(golden[name]) for name in golden}
    model = NETWORKS[request.param]()
    prefix = "state/"
    model.load_state_dict(
        {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
    )
    return model, tensors


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=BAR)


def test_gradient_and_every_bias_term(case: tuple) -> None:
    model, golden = case
    d = fullgrad.decompose(model, golden["input"], golden["target"])
    close(d.output, golden["logits"].gather(1, golden["target"][:, None])[:, 0])
    close(d.input_gradients[0], golden["input_gradient"])
    prefix = "bias_gradient/"
    expected = {n[len(prefix) :]: t for n, t in golden.items() if n.startswith(prefix)}
    assert {t.module for t in d.bias_terms} == set(expected)
    for term in d.bias_terms:
        close(term.value, expected[term.module])


def test_map(case: tuple) -> None:
    model, golden = case
    streamed = fullgrad.saliency(model, golden["input"], golden["target"])
    close(streamed, golden["fullgrad"])
    d = fullgrad.decompose(model, golden["input"], golden["target"])
    close(saliency_from_decomposition(d), golden["fullgrad"])


def test_simple_fullgrad(case: tuple) -> None:
    model, golden = case
    got = fullgrad.saliency(model, golden["input"], golden["target"], method="simple_fullgrad")
    close(got, golden["simple_fullgrad"])

"""Everyday slips are named, and the way out that the message gives works."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad import methods
from fullgrad.errors import BlockedGradientError, FullGradError, InputError, TargetError
from fullgrad.maps import tokens
from networks import seeded

IMAGE = torch.rand(
    3,
    12,
    12,
    dtype=torch.float64,
    generator=torch.Generator(torch.get_default_device()).manual_seed(0),
)


def made(build: Any, *args: Any) -> Any:
    return seeded(partial(build, *args)).double()


def features(outputs: int) -> nn.Sequential:
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(-3)
    return nn.Sequential(*layers, nn.Linear(6, outputs))


class Regressor(nn.Module):
    def __init__(self, shape: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.shape = features(1), shape

    def forward(self, x: Tensor) -> Tensor:
        return self.shape(self.net(x))


class Classifier(nn.Module):
    def __init__(self, shape: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.shape = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1)), shape

    def forward(self, x: Tensor) -> Tensor:
        return self.shape(self.conv(x))


@pytest.mark.parametrize("classes", [3, 5])
@pytest.mark.parametrize("target", [None, 1])
def test_an_image_without_a_batch_axis(classes: int, target: int | None) -> None:
    model = made(features, classes)
    for call in (fullgrad.saliency, fullgrad.decompose):
        with pytest.raises(InputError, match=r"convolution in 0 .*axis\? Pass x.unsqueeze\(0\)"):
            call(model, IMAGE, target)
        call(model, IMAGE.unsqueeze(0), target)


def test_a_single_image_has_one_sum_without_a_batch_axis() -> None:
    model = made(features, 1)
    alone, batch = (fullgrad.decompose(model, x) for x in (IMAGE, IMAGE[None]))
    torch.testing.assert_close(alone.input_sums, batch.input_sums)


def test_a_squeezed_number_is_that_of_the_only_sample() -> None:
    squeezed = made(Regressor, torch.squeeze)
    plain = made(Regressor, lambda y: y.squeeze(-1))
    x = IMAGE[None]
    torch.testing.assert_close(fullgrad.saliency(squeezed, x), fullgrad.saliency(plain, x))
    with pytest.raises(TargetError, match="leave the target out"):
        fullgrad.decompose(squeezed, x, 0)
    with pytest.raises(TargetError, match=r"whole batch \(a mean.*squeeze\(-1\)"):
        fullgrad.decompose(made(Regressor, torch.mean), torch.cat([x, x]))
    assert len(fullgrad.decompose(plain, torch.cat([x, x])).output) == 2


@pytest.mark.parametrize("call", [fullgrad.saliency, fullgrad.decompose])
def test_classes_of_one_sample_without_its_axis(call: Any) -> None:
    squeezed, plain = made(Classifier, torch.squeeze), made(Classifier, lambda y: y.flatten(1))
    with pytest.raises(FullGradError, match=r"takes the batch axis .*flatten\(1\)"):
        call(squeezed, IMAGE[None])
    call(plain, IMAGE[None])


class WithoutGradient(Regressor):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize("detached", ["error", "constant"])
def test_a_forward_under_no_grad(detached: str) -> None:
    model = made(WithoutGradient, torch.squeeze)
    with pytest.raises(BlockedGradientError, match=r"'net.0'.*the decorator must go") as error:
        fullgrad.saliency(model, IMAGE[None], detached=detached)
    assert "detached=" not in str(error.value)
    fullgrad.saliency(model.net, IMAGE[None])


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids).tanh().mean(1))


def test_ids_where_embeddings_are_needed() -> None:
    model, ids = made(Text), torch.tensor([[1, 2, 3]])
    with pytest.raises(InputError, match=r"use fullgrad\.maps\.tokens\.attribute_tokens"):
        fullgrad.decompose(model, ids, 0)
    assert tokens.attribute_tokens(model, ids, target=0).scores.shape == (1, 3)


def test_a_method_that_another_call_draws() -> None:
    model, x = made(features, 3), IMAGE[None]
    with pytest.raises(
        ValueError, match=r"'saliency'; known: fullgrad, .*\. .*fullgrad\.methods\.attribute\(name"
    ):
        fullgrad.saliency(model, x, 1, method="saliency")
    assert {"random", "grad_cam"} <= set(methods.names())
    assert methods.attribute("grad_cam", model, x, 1).shape == (1, 1, 12, 12)

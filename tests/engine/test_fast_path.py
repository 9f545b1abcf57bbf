"""PyTorch's fused encoder layers give another output at padding; where it counts, that is said."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullgrad

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
DOUBLE = torch.float64
PADDING = torch.tensor([[False] * 4 + [True] * 2, [False] * 6, [False] * 3 + [True] * 3])


class Encoder(nn.Module):
    def __init__(self, pool: Callable[[Tensor, Tensor], Tensor], **options: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, **options)
        self.head, self.pool = nn.Linear(8, 3), pool
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        self.calls += 1
        return self.head(self.pool(self.encoder(x, src_key_padding_mask=padding), padding))


def mean(y: Tensor, padding: Tensor | None) -> Tensor:
    return y.mean(1)


def mean_of_words(y: Tensor, padding: Tensor | None) -> Tensor:
    assert padding is not None
    return y.masked_fill(padding[..., None], 0).sum(1) / (~padding).sum(1, keepdim=True)


def made(pool: Callable[[Tensor, Tensor], Tensor], **options: Any) -> tuple[Encoder, Tensor]:
    torch.manual_seed(0)
    return Encoder(pool, **options).double().eval(), torch.randn(3, 6, 8, dtype=DOUBLE)


def without_gradients(model: Encoder, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x, PADDING)


def test_both_outputs_are_told_where_they_differ() -> None:
    model, x = made(mean)
    seen, explained = without_gradients(model, x)[:, 1], model(x, PADDING)[:, 1].detach()
    worst = int((seen - explained).abs().argmax())
    assert (seen - explained).abs().max() > 0.01
    calls, message = model.calls.clone(), f"{float(seen[worst]):.6g} in sample {worst}, but "
    with pytest.warns(UserWarning, match=f"{message}{float(explained[worst]):.6g} is explained"):
        d = fullgrad.decompose(model, x, 1, additional_forward_args=PADDING)
    torch.testing.assert_close(d.output, explained)
    assert torch.equal(model.calls, calls)
    with pytest.warns(UserWarning, match="enable_nested_tensor=False"):
        fullgrad.saliency(model, x, layout="BTC", additional_forward_args=PADDING)
    with pytest.warns(UserWarning, match="zeros at padded positions"):
        fullgrad.decompose(model, x, 1, additional_forward_args=PADDING, per_sample=False)


@pytest.mark.parametrize(
    ("pool", "options"), [(mean_of_words, {}), (mean, {"enable_nested_tensor": False})]
)
def test_the_ways_out(pool: Callable[[Tensor, Tensor], Tensor], options: dict[str, Any]) -> None:
    model, x = made(pool, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        d = fullgrad.decompose(model, x, 1, additional_forward_args=PADDING)
    torch.testing.assert_close(d.output, without_gradients(model, x)[:, 1])


def test_nothing_is_said_without_padding_or_in_training_mode() -> None:
    model, x = made(mean)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fullgrad.decompose(model, x, 1)
        fullgrad.decompose(model, x, 1, additional_forward_args=torch.zeros_like(PADDING))
        fullgrad.decompose(model, x, 1, additional_forward_args=PADDING.flip(1))  # never fused
        model.train()
        fullgrad.decompose(model, x, 1, additional_forward_args=PADDING, mode="as_is")

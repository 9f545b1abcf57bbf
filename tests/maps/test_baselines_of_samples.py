"""Baselines with a row for each sample: which fit, and that minibatches get their own rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad import methods
from fullgrad.errors import InputError


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    return nn.Sequential(*layers).double()


class Series(nn.Module):
    """Of shape (time, samples, channels)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.GELU(), nn.Flatten())
        self.head = nn.LazyLinear(3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.inner(x.permute(1, 2, 0)))
        return out


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("batch_size", [None, 1])
def test_rows_for_another_number_of_samples(count: int, batch_size: int | None) -> None:
    x, zero = torch.randn(count, 3, 6, 6).double(), torch.randn(4, 3, 6, 6).double()
    with pytest.raises(InputError, match=rf"must have shape \({count}, 3, 6, 6\) or \(1, 3, 6, 6"):
        fullgrad.complete_map(network(), x, 0, baseline=zero, batch_size=batch_size)
    with pytest.raises(InputError, match="a baseline must have shape"):
        methods.attribute("path_fullgrad", network(), x, 0, baseline=zero, batch_size=batch_size)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("times", [3, 5])
def test_rows_are_on_the_axis_of_the_samples(times: int, steps: int) -> None:
    x, zero = torch.randn(times, 3, 4).double(), torch.randn(times, 3, 4).double()
    model = Series()
    model(x)
    options: dict[str, Any] = {"layout": "TBC", "terms": "input", "steps": steps}
    whole = fullgrad.complete_map(model, x, 1, baseline=zero, **options)
    parts = fullgrad.complete_map(model, x, 1, baseline=zero, batch_size=2, **options)
    torch.testing.assert_close(parts.map, whole.map)
    one = fullgrad.complete_map(model, x, 1, baseline=zero[:, :1], batch_size=2, **options)
    same = fullgrad.complete_map(model, x, 1, baseline=zero[:, :1].expand_as(x), **options)
    torch.testing.assert_close(one.map, same.map)


def test_the_word_in_a_list() -> None:
    x = torch.randn(2, 3, 6, 6).double()
    found = fullgrad.complete_map(network(), x, 0, baseline=["mean"])
    assert found.zero == "the mean over positions of each sample and channel"

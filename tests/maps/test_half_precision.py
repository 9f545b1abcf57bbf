"""Maps that compare with a baseline, of networks in half precision."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad import methods
from fullgrad.maps.combined import combined_map


class Residual(nn.Module):
    """Convolutions, batch norms, activations, residual sums and max-pooling, eight blocks deep."""

    def __init__(self, act: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), act())
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), act())
            for _ in range(8)
        )
        self.act, self.pool, self.head = act(), nn.MaxPool2d(2), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = self.act(x + block(x))
        x = self.pool(x)
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def image() -> Tensor:
    torch.manual_seed(1)
    coarse = nn.functional.interpolate(torch.randn(1, 3, 4, 4), size=24, mode="bilinear")
    return coarse + 0.3 * torch.randn(1, 3, 24, 24)


def alike(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten().double(), b.flatten().double()]))[0, 1])


@pytest.mark.parametrize("act", [nn.ReLU, nn.GELU, nn.Hardswish])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, None])
@pytest.mark.parametrize("method", ["path_fullgrad", "difference_fullgrad", "combined_fullgrad"])
def test_maps_are_those_of_single_precision(
    method: str, dtype: torch.dtype | None, act: type[nn.Module]
) -> None:
    model, x = Residual(act).eval(), image()
    options: dict[str, Any] = {} if method == "difference_fullgrad" else {"steps": 8}
    single = methods.attribute(method, model, x, 3, **options)
    if dtype is None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = methods.attribute(method, model, x, 3, **options)
    else:
        own = copy.deepcopy(model).to(dtype)
        half = methods.attribute(method, own, x.to(dtype), 3, **options)
    assert alike(single, half) > 0.95


@pytest.mark.parametrize("linearization", ["difference", "quotient"])
@pytest.mark.parametrize("act", [nn.ReLU, nn.GELU, nn.Softplus, nn.PReLU, nn.ReLU6])
def test_the_sum_holds_where_points_are_near_or_equal(
    act: type[nn.Module], linearization: Any
) -> None:
    model, x = Residual(act).eval().to(torch.bfloat16), image().bfloat16()
    for zero in (x, x * 1.01):
        found = fullgrad.complete_map(model, x, 3, baseline=zero, linearization=linearization)
        total = found.map.double().sum((1, 2, 3)) + found.elsewhere + found.residual
        torch.testing.assert_close(total, found.output.double(), rtol=1e-4, atol=1e-4)
        assert bool(torch.isfinite(found.map).all())


def test_one_step_is_enough_up_to_the_rounding_of_the_precision() -> None:
    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()
    model = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        found = combined_map(model.to(dtype), image().to(dtype), 3)
        assert found.steps.tolist() == [1]

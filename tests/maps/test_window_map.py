"""Windows over a large input: the same map as that of the whole computation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import InputError, OptionError, TargetError
from fullgrad.maps.windows import window_map


def network(dims: int = 2) -> nn.Module:
    torch.manual_seed(0)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    return nn.Sequential(conv(2, 4, 3, padding=1), nn.GELU(), conv(4, 3, 3, padding=1)).double()


def image(*positions: int) -> Tensor:
    return torch.randn(1, 2, *positions, generator=torch.Generator().manual_seed(1)).double()


def region_of(x: Tensor) -> Tensor:
    """Class 1 in a corner, class 2 against it at one place."""
    region = torch.zeros(3, *x.shape[2:], dtype=torch.float64)
    region[1][tuple(slice(1, n // 2) for n in x.shape[2:])] = 1
    region[2][tuple(n - 2 for n in x.shape[2:])] = -1
    return region


@pytest.mark.parametrize("weights", ["constant", "gaussian"])
@pytest.mark.parametrize("positions", [(12, 15), (9, 8, 10)], ids=["image", "volume"])
def test_it_is_the_map_of_monais_inference(positions: tuple[int, ...], weights: Any) -> None:
    inferers = pytest.importorskip("monai.inferers")
    model, x = network(len(positions)), image(*positions)
    region = region_of(x)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            size = (6,) * len(positions)
            return inferers.sliding_window_inference(x, size, 4, self.model, 0.25, weights)

    got = window_map(model, x, region, size=6, weights=weights)
    target = lambda y: (y * region).flatten(1).sum(1)  # noqa: E731
    whole = fullgrad.complete_map(Whole(), x, target)
    torch.testing.assert_close(got.output, whole.output, rtol=1e-6, atol=1e-9)  # float32 weights
    torch.testing.assert_close(got.map, whole.map, rtol=1e-5, atol=1e-7)
    total = got.map.sum() + got.elsewhere.sum() + got.residual.sum()
    torch.testing.assert_close(total, got.output[0])


def test_one_window_is_the_plain_map() -> None:
    model, x = network(), image(6, 7)
    got = window_map(model, x, region_of(x), size=(6, 7))
    plain = fullgrad.complete_map(model, x, lambda y: (y * region_of(x)).flatten(1).sum(1))
    torch.testing.assert_close(got.map, plain.map)
    weights = torch.rand(6, 7).double() + 0.1
    torch.testing.assert_close(
        window_map(model, x, region_of(x), size=(6, 7), weights=weights).map, plain.map
    )
    assert got.linearization == "jacobian" and got.input_names == ("input",)


def test_windows_that_do_not_matter_are_not_run() -> None:
    class Counted(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Counted.calls += 1
            return x

    region = torch.zeros(2, 40)
    region[0, 3] = 1
    got = window_map(Counted(), image(40), region, size=8, overlap=0)
    assert Counted.calls == 1 and got.map.nonzero()[:, 2].tolist() == [3]


def test_what_has_no_place_is_summed_by_stage() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(2, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            return x + self.dense(x.mean(2)).exp()[..., None]

    x = image(12)
    region = torch.ones(2, 12)
    got = window_map(Pooled(), x, region, size=6, overlap=0)
    assert set(got.elsewhere_by_stage) == {"dense", ""}
    torch.testing.assert_close(got.elsewhere, sum(got.elsewhere_by_stage.values()))
    torch.testing.assert_close(got.map.sum() + got.elsewhere[0], got.output[0])


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        (
            {"size": 20},
            InputError,
            "sizes, each from 1 to the input's 8 x 9, not 20; pad smaller inputs first",
        ),
        ({"size": (4,)}, InputError, "a window must have 2 sizes"),
        ({"overlap": 1.0}, OptionError, "overlap must be from 0 to below 1, not 1.0"),
        (
            {"weights": "linear"},
            OptionError,
            "weights must be 'constant', 'gaussian' or a tensor, not 'linear'",
        ),
        (
            {"weights": torch.zeros(4, 4)},
            InputError,
            r"weights must be positive numbers of shape \(4, 4\)",
        ),
        (
            {"region": torch.ones(3, 8, 8)},
            InputError,
            r"region must have shape \(K, \*\(8, 9\)\), not \(3, 8, 8\)",
        ),
        ({"region": torch.zeros(3, 8, 9)}, TargetError, "the region is zero everywhere"),
        (
            {"region": torch.ones(2, 8, 9)},
            TargetError,
            r"must return shape \(1, \*\(2, 4, 4\)\) for a window",
        ),
        (
            {"inputs": torch.rand(2, 2, 8, 9)},
            InputError,
            "explain one image or volume in each call",
        ),
    ],
    ids=[
        "large",
        "sizes",
        "overlap",
        "weights",
        "zero weights",
        "region",
        "empty",
        "classes",
        "batch",
    ],
)
def test_windows_that_do_not_fit(changes: dict[str, Any], error: Any, says: str) -> None:
    x = image(8, 9)
    call = {"inputs": x, "region": region_of(x), "size": 4, **changes}
    with pytest.raises(error, match=says):
        window_map(network(), **call)

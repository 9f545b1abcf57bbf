"""``grid_sample``: exact, with places where the numbers were read, sample by sample."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import LayoutError


class Transformer(nn.Module):
    """A spatial transformer: where it looks depends on the image."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.where, self.head = nn.Linear(3 * 64, 6), nn.Conv2d(3, 2, 3, padding=1)
        self.options = options
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        theta = 0.05 * self.where(x.flatten(1)).view(-1, 2, 3) + torch.eye(2, 3, dtype=x.dtype)
        grid = F.affine_grid(theta, [len(x), 3, 8, 8], align_corners=False)
        y = F.grid_sample(x, grid, align_corners=False, **self.options)  # type: ignore[arg-type]
        return self.head(y).relu().mean((2, 3))


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_exact(mode: str, padding: str) -> None:
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    model = Transformer(mode=mode, padding_mode=padding)
    d = fullgrad.decompose(model, x, 1)
    assert float(d.relative_residual.max()) < 1e-12
    assert any(t.op == "grid_sampler_2d" for t in d) == (mode != "nearest")


class Moved(nn.Module):
    """Each sample is moved by its own number of columns, then gets a bias."""

    def __init__(self, columns: Tensor) -> None:
        super().__init__()
        self.columns = columns
        self.bias = nn.Parameter(torch.rand(8, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        base = F.affine_grid(
            torch.eye(2, 3, dtype=x.dtype).expand(len(x), 2, 3), list(x.shape), align_corners=True
        )
        shift = 2 * self.columns[: len(x), None, None] / 7
        grid = torch.stack([base[..., 0] + shift, base[..., 1]], -1)
        y = F.grid_sample(x, grid, align_corners=True)
        weight = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0], dtype=x.dtype)
        return ((y * (y + self.bias)).mean(1) * weight).sum((1, 2))


def test_places_differ_by_sample() -> None:
    x = torch.rand(2, 1, 4, 8, dtype=torch.float64)
    model = Moved(torch.tensor([2.0, 5.0], dtype=torch.float64))
    found = fullgrad.saliency(model, x, psi="signed", terms="bias")
    read = [found[i, 0].abs().sum(0).gt(1e-9).nonzero().flatten().tolist() for i in (0, 1)]
    assert read == [[2], [5]]


def test_parts_of_a_batch_and_noisy_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    whole = fullgrad.saliency(Transformer(), x, 1)
    monkeypatch.setattr("fullgrad.engine.terms.AT_ONCE", {"cpu": 1})
    torch.testing.assert_close(fullgrad.saliency(Transformer(), x, 1), whole)
    with pytest.raises(LayoutError, match=r"lie elsewhere in each copy; use method='fullgrad'"):
        fullgrad.saliency(Transformer(), x, 1, method="smooth_fullgrad")
    assert fullgrad.saliency(Transformer(), x, 1, method="fullgrad").shape == whole.shape


def test_other_ways_of_reading_lose_the_places() -> None:
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    for options in ({"mode": "bicubic"}, {"padding_mode": "reflection"}):
        with pytest.raises(LayoutError, match="grid_sampler_2d in the model"):
            fullgrad.saliency(Transformer(**options), x, 1)

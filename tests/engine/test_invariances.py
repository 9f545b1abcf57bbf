"""What must not change a map, and what must (sanity checks of Adebayo et al. 2018)."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.maps.saliency import METHODS
from networks import ResNetLike, seeded, vgg_like


def images(count: int, size: int = 32, seed: int = 0) -> Tensor:
    """Smooth random images with one blob each, so that there is something to see."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    x = torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64)
    return nn.functional.avg_pool2d(x, 5, 1, 2) + 0.5


class TinyViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 8, stride=8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


NETWORKS = {"vgg": vgg_like, "resnet": ResNetLike, "vit": lambda: TinyViT().double()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_map_does_not_depend_on_the_rest_of_the_batch(name: str, method: str) -> None:
    model, x = seeded(NETWORKS[name]), images(4)
    options = {"noise": fullgrad.Noise(3)} if method == "smooth_fullgrad" else {}
    together = fullgrad.saliency(model, x, method=method, **options)
    for rows in ([2], [3, 2], [2, 2, 0]):
        again = fullgrad.saliency(model, x[rows], method=method, **options)
        torch.testing.assert_close(again, together[rows])


class Scaled(nn.Module):
    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) * self.factor


@pytest.mark.parametrize("psi", ["layer", "channel", "signed"])
@pytest.mark.parametrize("name", NETWORKS)
def test_scaling_the_logit_leaves_the_map(name: str, psi: str) -> None:
    model, x = seeded(NETWORKS[name]), images(2)
    # The authors' psi adds 1e-6 against division by zero, which counts where terms are tiny.
    plain, scaled = (
        fullgrad.saliency(Scaled(model, factor), x, 1, psi=psi) for factor in (1e4, 1e5)
    )
    bar = {"rtol": 1e-9, "atol": 1e-9} if psi != "layer" else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(scaled, plain * 10 if psi == "signed" else plain, **bar)


@pytest.mark.parametrize("shift", [(4, 0), (0, 8), (-4, 4)])
def test_a_shift_of_the_image_shifts_the_map(shift: tuple[int, int]) -> None:
    """With a blob on black, by multiples of the network's stride, away from the borders."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(3, 6, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(6, 8, 3, padding=1),
                nn.BatchNorm2d(8),
                nn.SiLU(),
                nn.AvgPool2d(2),
                nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
                nn.ReLU(),
            )
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            u = self.body(x)
            # The largest; of what is equal up to rounding, as the background is, the mean.
            largest = u >= u.amax((2, 3), keepdim=True) - 1e-9
            return self.head((u * largest).sum((2, 3)) / largest.sum((2, 3)))

    torch.manual_seed(0)
    model = seeded(lambda: Pooled().double())
    x = torch.zeros(1, 3, 64, 64, dtype=torch.float64)
    x[:, :, 26:38, 26:38] = images(1, 12)
    # In 64ths the first layer is exact: where the background ties, rounding must not choose.
    with torch.no_grad():
        for t in (x, *model.body[0].parameters()):
            t.mul_(64).round_().div_(64)
    moved = torch.roll(x, shift, (2, 3))
    # The grids' corners are aligned, so maps of coarser grids do not shift by whole pixels: terms
    # of the input's own resolution do.
    first, second = (
        fullgrad.saliency(model, image, 1, terms=["input", "body.0"]) for image in (x, moved)
    )
    inner = slice(16, 48)
    expected = torch.roll(first, shift, (2, 3))[:, :, inner, inner]
    torch.testing.assert_close(second[:, :, inner, inner], expected)
    assert float(expected.std()) > 0
    # Coarser ones: as whole maps they move by as many of their own places.
    maps = [fullgrad.decompose(model, image, 1) for image in (x, moved)]
    for a, b in zip(maps[0].bias_terms, maps[1].bias_terms, strict=True):
        if a.value.dim() == 4:
            stride = 64 // a.shape[2]
            by = (shift[0] // stride, shift[1] // stride)
            inner = slice(16 // stride, 48 // stride)
            whole = torch.roll(a.value, by, (2, 3))[:, :, inner, inner]
            torch.testing.assert_close(b.value[:, :, inner, inner], whole)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_randomised_layers_change_the_map(name: str, method: str) -> None:
    """Adebayo et al. 2018: a map that survives other weights shows the image, not the model."""
    model, x = seeded(NETWORKS[name]), images(4)
    options = {"noise": fullgrad.Noise(3)} if method == "smooth_fullgrad" else {}
    before = fullgrad.saliency(model, x, 1, method=method, **options)
    other = copy.deepcopy(model)
    torch.manual_seed(99)
    with torch.no_grad():
        for p in other.parameters():
            if p.dim() > 1:
                p.copy_(p.flatten()[torch.randperm(p.numel())].view_as(p))
            else:
                p.copy_(p[torch.randperm(len(p))])
    after = fullgrad.saliency(other, x, 1, method=method, **options)
    for a, b in zip(before, after, strict=True):
        ranks = torch.stack([m.flatten().argsort().argsort().double() for m in (a, b)])
        assert float(torch.corrcoef(ranks)[0, 1]) < 0.9
    same = fullgrad.saliency(copy.deepcopy(model), x, 1, method=method, **options)
    torch.testing.assert_close(same, before)

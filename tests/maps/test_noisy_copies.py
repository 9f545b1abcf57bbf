"""Smooth FullGrad where places differ by sample, or from copy to copy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad import Noise, methods
from fullgrad.errors import LayoutError
from snippets import DOUBLE, batch


class Rows(nn.Module):
    """Reads four rows of each sample, from the row that the call gives or the brightest one."""

    def __init__(self, follows: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.follows = follows
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.double()

    def forward(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        if self.follows:
            first = x.detach().mean((1, 3)).argmax(1).clamp(max=8)
        assert first is not None
        rows = first[:, None] + torch.arange(4)
        cut = x.gather(2, rows[:, None, :, None].expand(-1, 2, -1, 5))
        return self.conv(cut).relu().mean((2, 3))


class Together(Rows):
    """Cuts all samples where the first one is brightest."""

    def forward(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        row = min(int(x[0].detach().mean((0, 2)).argmax()), 8)
        return self.conv(x[:, :, row : row + 4]).relu().mean((2, 3))


@pytest.mark.parametrize("size", [None, 2, 4, 7])
@pytest.mark.parametrize("psi", ["layer", "channel", "signed"])
def test_places_that_differ_by_sample_are_those_of_each_sample_alone(size, psi) -> None:
    model, x, first = Rows(), batch(2, 2, 12, 5), torch.tensor([1, 7])

    def smooth(x: Tensor, first: Tensor, size: int | None) -> Tensor:
        return fullgrad.saliency(
            model,
            x,
            1,
            method="smooth_fullgrad",
            noise=Noise(5, 0.3),
            psi=psi,
            additional_forward_args=first,
            batch_size=size,
        )

    together = smooth(x, first, size)
    alone = torch.cat([smooth(x[i : i + 1], first[i : i + 1], None) for i in (0, 1)])
    torch.testing.assert_close(together, alone)
    for i in (0, 1):
        read = together[i, 0].abs().sum(1) > 0
        assert read.nonzero().flatten().tolist() == list(range(first[i], first[i] + 4))


@pytest.mark.parametrize("size", [None, 8])
@pytest.mark.parametrize("model", [Rows(follows=True), Together()])
@pytest.mark.parametrize("count", [1, 2])
def test_places_that_move_from_copy_to_copy_are_refused(
    model: Rows, count: int, size: int | None
) -> None:
    x = batch(count, 2, 12, 5)
    if isinstance(model, Together) and size is not None:
        return  # its copies go through the model together, and are cut alike
    message = r"numbers of convolution in conv lie elsewhere in each copy; use method='fullgrad'"
    with pytest.raises(LayoutError, match=message):
        fullgrad.saliency(
            model, x, 1, method="smooth_fullgrad", noise=Noise(6, 1.0), batch_size=size
        )
    assert fullgrad.saliency(model, x, 1, method="fullgrad").shape == (count, 1, 12, 5)
    assert methods.attribute("fullgrad", model, x, 1).dtype == DOUBLE

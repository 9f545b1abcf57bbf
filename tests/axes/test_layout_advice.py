"""The layouts that messages show can be stated as they stand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import LayoutError


class Regions(nn.Module):
    """A head on the highest numbers of each sample, of which nobody knows where they lie."""

    def __init__(self, regions: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.regions, self.head = regions, nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2).topk(self.regions, 2).values.mT.flatten(0, 1)
        return self.head(rows).tanh().view(-1, self.regions, 2).sum(1)


class Ordered(nn.Module):
    """Sorts a series along time."""

    def __init__(self, time: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.time, self.norm = time, nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.sort(self.time).values).mean(self.time)


@pytest.mark.parametrize(
    ("model", "shape", "layout", "module", "advised"),
    [
        (Regions(5), (2, 3, 4, 4), None, "head", "(B K) C"),
        (Regions(8), (2, 3, 8, 4), None, "head", "(B H=4 W=2) C"),
        (Ordered(1), (2, 5, 4), "BTC", "norm", "B T C"),
        (Ordered(0), (5, 2, 4), "TBC", "norm", "T B C"),
    ],
    ids=["regions", "even regions", "series", "time first"],
)
def test_the_layout_that_a_message_shows_can_be_stated(
    model: nn.Module, shape: tuple[int, ...], layout: str | None, module: str, advised: str
) -> None:
    model, x = model.double(), torch.randn(shape).double()
    with pytest.raises(LayoutError) as refused:
        fullgrad.saliency(model, x, 1, layout=layout)
    stated = {module: advised}
    assert f"State it, as in activation_layouts={stated}" in str(refused.value)
    found = fullgrad.saliency(model, x, 1, layout=layout, activation_layouts=stated)
    assert found.shape[:2] == (2, 1)


def test_no_layout_is_shown_where_samples_have_different_numbers() -> None:
    class Ragged(Regions):
        def forward(self, x: Tensor) -> Tensor:
            rows = x.flatten(2).topk(3, 2).values.mT.flatten(0, 1)[:5]
            y = self.head(rows).tanh()
            return torch.stack([y[:3].sum(0), y[3:].sum(0)])

    model, x = Ragged(3).double(), torch.randn(2, 3, 4, 4).double()
    with pytest.raises(
        LayoutError, match=r"lie in the input\. Explain one sample at a time \(batch"
    ):
        fullgrad.saliency(model, x, 1)
    assert fullgrad.saliency(model, x, 1, terms="input").shape == (2, 1, 4, 4)

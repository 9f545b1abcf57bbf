"""Models that read one sample's numbers as another's: no map is drawn at the wrong sample."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import CompletenessError, LayoutError
from snippets import batch

X = batch(3, 3, 8, 8)


class Net(nn.Module):
    """A network whose samples come out in another order, or inside alone."""

    def __init__(self, order: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.order = order
        self.conv, self.act = nn.Conv2d(3, 4, 3), nn.GELU()
        self.fc = nn.Sequential(nn.Flatten(), nn.Linear(144, 5))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        if self.order == "sequence first":
            return self.fc(self.act(self.conv(x)).transpose(0, 1).contiguous().transpose(0, 1))
        if self.order == "inside":
            return self.fc(self.act(self.conv(x.flip(0)))).flip(0)
        out: Tensor = self.fc(self.act(self.conv(x)))
        return out.flip(0) if self.order == "flipped" else out


@pytest.mark.parametrize("method", ["fullgrad", "simple_fullgrad", "smooth_fullgrad"])
@pytest.mark.parametrize("terms", ["input", "bias", "all"])
def test_another_samples_map_is_refused(method: Any, terms: Any) -> None:
    with pytest.raises(CompletenessError, match=r"another's.*batch_size=1"):
        fullgrad.saliency(Net("flipped"), X, 1, method, terms=terms)
    with pytest.raises(CompletenessError, match="another's"):
        fullgrad.complete_map(Net("flipped"), X, 1)
    alone = fullgrad.saliency(Net("flipped"), X, 1, method, terms=terms, batch_size=1)
    assert torch.equal(alone, fullgrad.saliency(Net(), X, 1, method, terms=terms, batch_size=1))


def test_terms_inside_are_refused_and_the_input_is_drawn() -> None:
    with pytest.raises(LayoutError, match="not known where"):
        fullgrad.saliency(Net("inside"), X, 1, terms="bias", psi="signed")
    found = fullgrad.saliency(Net("inside"), X, 1, terms="input", psi="signed")
    plain = fullgrad.saliency(Net(), X, 1, terms="input", psi="signed")
    torch.testing.assert_close(found, plain)


def test_samples_that_keep_their_order_are_drawn() -> None:
    found = fullgrad.saliency(Net("sequence first"), X, 1)
    torch.testing.assert_close(found, fullgrad.saliency(Net(), X, 1))

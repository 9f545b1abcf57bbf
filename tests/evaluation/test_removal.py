"""What removed pixels become."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fullgrad.evaluation.datasets import Colors
from fullgrad.evaluation.removal import FILLS, fill_color, fill_named, removed
from fullgrad.vision.images import Preprocessing


@pytest.mark.parametrize("name", FILLS)
def test_fills_touch_what_is_removed_alone(name: str) -> None:
    p = Preprocessing(20, (16, 16))
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    gone = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    gone[0, 0, 3:9, 4:12] = True
    gone[1, 0, :, ::2] = True
    before, state = x.clone(), torch.get_rng_state()
    out = fill_named(name, p)(x, gone, [5, 6])
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)
    everywhere = gone.expand_as(x)
    assert torch.equal(out[~everywhere], x[~everywhere])
    assert not torch.isclose(out[everywhere], x[everywhere]).all()
    alone = fill_named(name, p)(x[1:], gone[1:], [6])
    torch.testing.assert_close(alone, out[1:])
    if name == "black":
        pixel = out[0, :, 5, 5] * torch.tensor(p.std) + torch.tensor(p.mean)
        torch.testing.assert_close(pixel, torch.zeros(3), atol=1e-6, rtol=0)
    if name == "mean":
        torch.testing.assert_close(out[0, :, 5, 5], x[0].mean((1, 2)))


def test_unknown_fill_and_an_image_that_is_all_gone() -> None:
    with pytest.raises(
        ValueError, match="unknown fill 'gold'; known: black, mean, blur, noise, road"
    ):
        fill_named("gold", Preprocessing())
    whole = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    with pytest.raises(ValueError, match="road cannot impute an image of which every pixel"):
        fill_named("road", Preprocessing())(torch.rand(1, 3, 8, 8), whole, [0])


def test_an_unknown_order_or_color_is_not_taken_for_another() -> None:
    with pytest.raises(ValueError, match="order must be 'least' or 'most', not 'first'"):
        removed(np.arange(6, dtype=np.uint16)[None], 0.5, "first")
    with pytest.raises(ValueError, match="the color must be 'mean' or 'black', not 'blue'"):
        fill_color("blue", Colors((1.0,), (1.0,)))

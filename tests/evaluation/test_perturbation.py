"""Removing pixels in a map's order, against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fullgrad.errors import InputError
from fullgrad.evaluation.perturbation import area_effect, changes
from fullgrad.evaluation.removal import constant, count_of, first_of, order_of


class Linear(nn.Module):
    """f = sum of weights times pixels, second class always lower."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        f = (x * self.weights).flatten(1).sum(1)
        return torch.stack([f, f - 1], 1)


def test_linear_model_in_closed_form() -> None:
    torch.manual_seed(0)
    w, x = torch.rand(1, 4, 5).double(), torch.rand(3, 1, 4, 5).double() + 0.1
    share = x * w  # what each pixel is worth
    flat = share.flatten(1).sort(1).values
    fractions = (0.05, 0.25, 1.0)
    for order, first in (("least", flat), ("most", flat.flip(1))):
        found = changes(Linear(w), x, share, fractions, order=order)  # type: ignore[arg-type]
        lost = torch.stack([first[:, :n].sum(1) for n in (1, 5, 20)], 1)
        total = flat.sum(1, keepdim=True)
        torch.testing.assert_close(found.relative, lost / total)
        torch.testing.assert_close(found.after, total - lost)
        assert bool(found.class_unchanged.all())
        assert float(found.probability.abs().max()) < 1e-12
    best = changes(Linear(w), x, share, (0.25,)).relative
    for seed in range(20):  # no order of removal changes the output less
        other = torch.rand(share.shape, generator=torch.Generator().manual_seed(seed))
        assert bool((changes(Linear(w), x, other, (0.25,)).relative >= best).all())


def test_a_planted_patch_is_found() -> None:
    w = torch.zeros(1, 8, 8)
    w[:, 2:4, 5:7] = 1
    x = torch.rand(2, 1, 8, 8) + 0.5
    map_ = w.expand(2, 1, 8, 8)
    assert float(changes(Linear(w), x, map_, (60 / 64,)).relative.abs().max()) == 0
    gone = changes(Linear(w), x, map_, (4 / 64,), order="most")
    torch.testing.assert_close(gone.relative, torch.ones(2, 1).double())


def test_places_and_fill() -> None:
    maps = torch.tensor([[3.0, 1.0, 2.0]])[:, None]
    assert order_of(maps, "least").tolist() == [[1, 2, 0]]
    assert order_of(maps, "most").tolist() == [[0, 2, 1]]
    x = torch.arange(6.0).view(1, 2, 3)
    gone = first_of(order_of(maps, "most"), 2, x.shape)
    out = constant(torch.tensor([10.0, 20.0]))(x, gone, [0])
    assert out.tolist() == [[[10, 1, 10], [20, 4, 20]]]
    flat = torch.zeros(1, 1, 50)
    a, b = order_of(flat, "least", 1), order_of(flat, "least", 2)
    assert not torch.equal(a, b)  # ties in random order
    assert sorted(a[0].tolist()) == list(range(50))
    assert [count_of(f, 1000) for f in (0.0001, 0.001, 0.1, 1)] == [1, 1, 100, 1000]


def test_refusals_and_state() -> None:
    model, x = Linear(torch.ones(1, 2, 2)).train(), torch.rand(1, 1, 2, 2)
    changes(model, x, x, (0.5,))
    assert model.training
    with pytest.raises(ValueError, match="order must be 'least' or 'most', not 'best'"):
        changes(model, x, x, (0.5,), order="best")  # type: ignore[arg-type]
    for bad in (0, -0.1, 1.5):
        with pytest.raises(ValueError, match=r"fractions must lie in \(0, 1\]"):
            changes(model, x, x, (bad,))
    with pytest.raises(ValueError, match="at least one fraction is needed"):
        changes(model, x, x, ())
    with pytest.raises(ValueError, match=r"fractions must lie in \(0, 1\], not 2"):
        area_effect(model, x, x[0, 0], lambda out: out[:, 0], share=2)
    with pytest.raises(ValueError, match="cell and draws must be at least 1, not 16 and 0"):
        area_effect(model, x, x[0, 0], lambda out: out[:, 0], draws=0)
    with pytest.raises(InputError, match="maps of shape"):
        changes(model, x, x[..., :1], (0.5,))
    with pytest.raises(InputError, match="maps must be finite"):
        changes(model, x, x * float("nan"), (0.5,))

"""Places that each sample chooses for itself: ``gather`` and ``index`` along one axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fullgrad
from fullgrad.axes.placement import arranged, on_grid, placements_on
from fullgrad.errors import LayoutError

KEPT = 3
Choose = Callable[[Tensor, Tensor], Tensor]

WAYS: dict[str, Choose] = {
    "index": lambda y, i: y[torch.arange(len(y))[:, None], i],
    "negative": lambda y, i: y[torch.arange(len(y))[:, None], i - y.shape[1]],
    "gather": lambda y, i: y.gather(1, i[..., None].expand(-1, -1, y.shape[2])),
    "along": lambda y, i: y.take_along_dim(i[..., None], 1),
    "channels first": lambda y, i: y.mT.gather(2, i[:, None].expand(-1, y.shape[2], -1)).mT,
}


class Pruned(nn.Module):
    """A small vision transformer that goes on with the tokens its class token attends to most."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)
        self.block, self.head = (
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            nn.Linear(8, 3),
        )
        self.double()

    def chosen(self, y: Tensor) -> Tensor:
        """The tokens that go on, shape (B, kept)."""
        scores = (self.query(self.token) @ self.key(y).mT).softmax(-1)[:, 0]
        return scores.topk(KEPT, 1).indices

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).mT
        y = F.silu(WAYS[self.way](y, self.chosen(y)))
        y = self.block(torch.cat([self.token.expand(len(x), -1, -1), y], 1))
        out: Tensor = self.head(y[:, 0])
        return out


def images() -> Tensor:
    return torch.rand(
        3,
        3,
        16,
        16,
        dtype=torch.float64,
        generator=torch.Generator(torch.get_default_device()).manual_seed(2),
    )


def cells_of(term: fullgrad.BiasTerm, sample: int) -> list[tuple[float, ...]]:
    """Of each kept token the rows and columns that it reads: first and last."""
    assert term.axes is not None
    found = []
    for c in term.axes.coordinates:
        assert c is not None
        found.append(c.table[:2, sample])
    return [tuple(float(t[e, k]) for t in found for e in (0, 1)) for k in range(KEPT)]


@pytest.mark.parametrize("way", WAYS)
def test_terms_after_pruning_lie_at_the_kept_tokens(way: str) -> None:
    model, x = Pruned(way), images()
    d = fullgrad.decompose(model, x, 1)
    assert float(d.relative_residual.max()) < 1e-12
    silu = next(t for t in d if t.op == "silu")
    kept_by = model.chosen(model.patches(x).flatten(2).mT).tolist()
    assert len({tuple(sorted(k)) for k in kept_by}) > 1  # they differ by sample
    for sample, kept in enumerate(kept_by):
        expected = [(4 * (k // 4), 4 * (k // 4) + 3, 4 * (k % 4), 4 * (k % 4) + 3) for k in kept]
        assert cells_of(silu, sample) == expected
    assert fullgrad.saliency(model, x, 1).shape == (3, 1, 16, 16)


@pytest.mark.parametrize("way", WAYS)
def test_a_map_s_sum_is_kept_where_tokens_were_chosen(way: str) -> None:
    """Each number of the term is drawn at its token: the sums over cells are the numbers'."""
    model, x = Pruned(way), images()
    d = fullgrad.decompose(model, x, 1)
    silu = next(t for t in d if t.op == "silu")
    assert silu.axes is not None
    kept_by = model.chosen(model.patches(x).flatten(2).mT).tolist()
    (place,) = placements_on(silu.axes, [slice(0, 2)], 3)
    assert place is not None
    numbers, _ = arranged(silu.value, place)
    drawn = on_grid(silu.value.sum(2), place)
    for sample, kept in enumerate(kept_by):
        there = drawn[sample].abs().gt(0).sum()
        assert int(there) == KEPT == len(set(kept))
    torch.testing.assert_close(drawn.sum((1, 2, 3)), numbers.flatten(1).sum(1))


LOST: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "other indices along channels": lambda y, i: y.gather(
        1, (i[..., None] + torch.arange(y.shape[2])) % y.shape[1]
    ),
    "of another sample": lambda y, i: y[torch.arange(len(y)).flip(0)[:, None], i],
    "some channels only": lambda y, i: y.gather(1, i[..., None].expand(-1, -1, 4)),
    "other channels at each place": lambda y, i: y.gather(
        2, (torch.arange(y.shape[1])[:, None] + torch.arange(3)).expand(len(y), -1, -1) % y.shape[2]
    ),
    "samples gathered": lambda y, i: y.gather(0, torch.zeros_like(y, dtype=torch.long)),
    "one of another sample": lambda y, i: y[torch.arange(len(y)).flip(0), i[:, 0]][:, None],
}


@pytest.mark.parametrize("way", LOST)
def test_other_choices_lose_the_places(way: str) -> None:
    class Net(Pruned):
        def forward(self, x: Tensor) -> Tensor:
            y = self.patches(x).flatten(2).mT
            kept = torch.arange(KEPT).repeat(len(x), 1)
            y = F.silu(LOST[way](y, kept))
            return y.sum((1, 2))[:, None]

    x = images()
    if way in ("of another sample", "one of another sample", "samples gathered"):
        x = x[:1].expand(3, -1, -1, -1)
        options: dict[str, Any] = {"per_sample": False}
    else:
        options = {}
    d = fullgrad.decompose(Net("index"), x, 0, **options)
    silu = next(t for t in d if t.op == "silu")
    assert silu.axes is None


ROWS, COLUMNS = torch.tensor([[1, 4], [3, 0]]), torch.tensor([[5, 2], [3, 3]])
# What each sample picks, and the axes of the samples' numbers.
PICKED: dict[str, Callable[[Tensor], Tensor]] = {
    "a pixel of each": lambda y: y[
        torch.arange(len(y)), :, ROWS[: len(y), 0], COLUMNS[: len(y), 0]
    ],
    "a token of each": lambda y: y.flatten(2).mT[
        torch.arange(len(y)), (6 * ROWS + COLUMNS)[: len(y), 0]
    ],
    "counted from the end": lambda y: y.movedim(1, -1)[
        torch.arange(len(y)), ROWS[: len(y), 0] - 5, COLUMNS[: len(y), 0]
    ],
    "two pixels of each": lambda y: y[
        torch.arange(len(y))[:, None], :, ROWS[: len(y)], COLUMNS[: len(y)]
    ],
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("way", PICKED)
def test_a_place_that_each_sample_picks(way: str, batch: int) -> None:
    """The map marks those pixels of each sample, and no other."""

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(PICKED[way](x) + 0.1).flatten(1).sum(1, keepdim=True)

    x = torch.rand(batch, 3, 5, 6, dtype=torch.float64)
    found = fullgrad.saliency(Net(), x, 0, terms="bias", psi="signed")
    for sample in range(batch):
        picked = 2 if "two" in way else 1
        expected = torch.zeros(5, 6, dtype=torch.bool)
        expected[ROWS[sample, :picked], COLUMNS[sample, :picked]] = True
        assert torch.equal(found[sample, 0] != 0, expected), found[sample, 0]


def test_places_that_are_lost_are_reported() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.silu(x.gather(3, x.argsort(3))).sum((1, 2, 3))[:, None]

    with pytest.raises(LayoutError, match="it is not known where the numbers of silu"):
        fullgrad.saliency(Net(), torch.rand(2, 3, 4, 4), 0)

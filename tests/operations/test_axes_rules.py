"""Axes rules are pessimistic: without one, an operation loses the places of its numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fullgrad
from fullgrad.axes.placement import placement_of
from fullgrad.errors import LayoutError
from fullgrad.operations import registry
from snippets import batch


class Applied(nn.Module):
    """Something, a bias of its own for each number, and the sum of all with different weights."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.function(x)).flatten(1)
        return (y * torch.arange(1.0, y.shape[1] + 1, dtype=x.dtype)).sum(1, keepdim=True)


def terms_of(function: Callable[[Tensor], Tensor], *shape: int) -> list[fullgrad.BiasTerm]:
    result = fullgrad.decompose(Applied(function), batch(*shape), 0)
    assert float(result.relative_residual.max()) < 1e-12
    return [t for t in result if t.op == "silu"]


LOST: dict[str, Callable[[Tensor], Tensor]] = {
    "sort": lambda x: x.sort(-1).values,
    "stable sort": lambda x: x.sort(dim=-1, stable=True).values,
    "topk": lambda x: x.topk(5, 2).values,
    "topk of all": lambda x: x.topk(6, -1, largest=False).values,
    "gather": lambda x: x.gather(3, torch.arange(x.numel()).view(x.shape) % 5),
    "glu along places": lambda x: F.glu(x, 3),
    "take": lambda x: x.take(torch.arange(x.numel()).flip(0)).view(x.shape),
    "sorted, then a class token": lambda x: torch.cat([x.sort(-1).values, x[..., :1]], -1),
    "sorted, then stacked": lambda x: torch.stack([x.sort(-1).values, x], 1),
    "sorted, then convolved": lambda x: F.conv2d(
        x.sort(-1).values, torch.ones(2, 4, 1, 1, dtype=x.dtype)
    ),
    "sorted, times pooled": lambda x: x.sort(-1).values * x.mean((2, 3), keepdim=True),
    "sorted queries": lambda x: x.flatten(2).sort(-1).values.mT @ x.flatten(2),
    "written into a constant": lambda x: torch.zeros_like(x).index_put(
        (torch.arange(len(x)),), x.flip(3)
    ),
}


@pytest.mark.parametrize("name", LOST)
def test_lost_places_are_refused_and_the_sum_is_exact(name: str) -> None:
    terms = terms_of(LOST[name], 2, 4, 5, 6)
    assert [t.axes for t in terms] == [None]
    with pytest.raises(LayoutError, match="it is not known where the numbers of"):
        fullgrad.saliency(Applied(LOST[name]), batch(2, 4, 5, 6), 0)


@pytest.mark.parametrize("batch_size", [2, 5])
def test_lost_places_of_two_axes_are_no_dense_layer(batch_size: int) -> None:
    """Rows of positions may be as many as samples: unknown is not taken for the harmless case."""

    def rows(x: Tensor) -> Tensor:
        return x.sort(3).values[:, 0, :, 0]  # (B, rows)

    x = batch(batch_size, 4, 5, 6)
    with pytest.raises(LayoutError, match=r"activation_layouts=\{'': 'B C'\}"):
        fullgrad.saliency(Applied(rows), x, 0)
    assert fullgrad.saliency(Applied(rows), x, 0, activation_layouts={"": "B C"}).shape == (
        batch_size,
        1,
        5,
        6,
    )


DENSE: dict[str, Callable[[Tensor], Tensor]] = {
    "best features": lambda x: x.mean((2, 3)).topk(2, 1).values,
    "sorted features": lambda x: x.mean((2, 3)).sort(1).values,
    "products of features": lambda x: torch.einsum("bi,bj->bij", x.mean((2, 3)), x.mean((2, 3)))[
        :, range(4), range(4)
    ],
}


@pytest.mark.parametrize("name", DENSE)
def test_what_is_made_of_numbers_without_a_place_has_none(name: str) -> None:
    """Whatever the operation, and whether it has a rule or not."""
    (term,) = terms_of(DENSE[name], 2, 4, 5, 6)
    assert term.axes is not None and not term.axes.placed
    with pytest.raises(LayoutError, match="no term of this selection has positions"):
        fullgrad.saliency(Applied(DENSE[name]), batch(2, 4, 5, 6), 0, terms="bias")
    assert fullgrad.saliency(Applied(DENSE[name]), batch(2, 4, 5, 6), 0).shape == (2, 1, 5, 6)


def quarter_turns(k: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x.rot90(k, (2, 3))


def copied_over(x: Tensor) -> Tensor:
    y = x * 1
    y.copy_(x.flip(3))
    return y


KEPT: dict[str, Callable[[Tensor], Tensor]] = {
    "sorted channels": lambda x: x.sort(1).values,
    "best channels": lambda x: x.topk(2, 1).values,
    "gated channels": lambda x: F.glu(x, 1),
    "shuffled channels": lambda x: torch.ops.aten.channel_shuffle(x, 2),
    "running sum": lambda x: x.cumsum(3),
    "added to something with places": lambda x: x.sort(-1).values + x,
    "copied over": copied_over,
    "gelu of erf": lambda x: x * torch.erf(x),
    **{f"{k} quarter turns": quarter_turns(k) for k in (-1, 1, 2, 3)},
}
MOVED = {"copied over", *(k for k in KEPT if k.endswith("turns"))}


@pytest.mark.parametrize("name", KEPT)
def test_kept_places_are_right(name: str) -> None:
    """The numbers are sent through the same operation, where that only moves them."""
    (term,) = terms_of(KEPT[name], 2, 4, 5, 6)
    placement = placement_of(term.axes, 2)
    assert placement is not None
    assert placement.extents == (5, 6)
    sent = torch.arange(30.0).view(1, 1, 5, 6).expand(2, 4, 5, 6)
    expected = KEPT[name](sent)[0, 0].flatten() if name in MOVED else torch.arange(30.0)
    places = torch.arange(30) if placement.places is None else torch.from_numpy(placement.places)
    torch.testing.assert_close(places, expected.long())


def test_scores_of_lost_keys_lie_where_their_query_does() -> None:
    """As in attention within blocks, whose keys are cut out by overlapping windows."""
    (term,) = terms_of(lambda x: x.flatten(2).mT @ x.flatten(2).sort(-1).values, 2, 4, 3, 2)
    placement = placement_of(term.axes, 2)
    assert placement is not None
    assert (placement.extents, placement.positions) == ((3, 2), (1, 2))


def test_an_overwritten_view_keeps_its_places() -> None:
    def in_place(x: Tensor) -> Tensor:
        y = torch.cat([x, x], 1)[:, :3]
        y += x[:, :3]
        return F.conv2d(y, torch.ones(2, 3, 1, 1, dtype=x.dtype))

    (term,) = terms_of(in_place, 2, 4, 5, 6)
    placement = placement_of(term.axes, 2)
    assert placement is not None
    assert (placement.extents, placement.places) == ((5, 6), None)


# -- every operation that the recorder meets ----------------------------------------------------


def without_axes(name: str, patch: pytest.MonkeyPatch) -> None:
    entries: dict[str, Any] = registry.registered()
    entries[name] = replace(entries[name], axes=None)
    patch.setattr(registry, "_ENTRIES", entries)
    patch.setattr(registry, "_OVERLOADS", {})


SIMPLE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "add": lambda x: x + 1,
    "mul": lambda x: x * 2,
    "clone": torch.clone,
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "view": lambda x: x.view(len(x), 4, -1),
    "convolution": lambda x: F.conv2d(x, torch.ones(2, 4, 3, 3, dtype=x.dtype)),
    "native_layer_norm": lambda x: F.layer_norm(x, (6,)),
    "_softmax": lambda x: x.softmax(1),
    "cumsum": lambda x: x.cumsum(1),
    "cat": lambda x: torch.cat([x, x], 1),
    "mean": lambda x: x.mean(1),
    "gelu": F.gelu,
}


@pytest.mark.parametrize("name", SIMPLE)
def test_an_operation_whose_rule_is_taken_away_loses_its_places(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert terms_of(SIMPLE[name], 2, 4, 5, 6)[0].axes is not None
    without_axes(f"aten::{name}", monkeypatch)
    assert [t.axes for t in terms_of(SIMPLE[name], 2, 4, 5, 6)] == [None]
    with pytest.raises(LayoutError, match="it is not known where the numbers of"):
        fullgrad.saliency(Applied(SIMPLE[name]), batch(2, 4, 5, 6), 0)

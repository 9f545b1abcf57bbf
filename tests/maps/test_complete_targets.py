"""Complete maps of several targets for each sample: those of separate calls, from one forward."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fullgrad
from complete_oracle import check_sum
from fullgrad import methods
from fullgrad.errors import CompletenessError, OptionError, TargetError
from fullgrad.maps.complete_sink import in_order
from fullgrad.targets import margin
from networks import ResNetLike, seeded
from snippets import Snippet, batch

X = batch(3, 3, 16, 16)
EACH = [[3, 7, 9], [1, 0, 2], [5, 5, 4]]
COLUMNS = [[3, 1, 5], [7, 0, 5], [9, 2, 4]]


class Attention(nn.Module):
    """Patches, a class token, one block, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 10)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        y = self.patch(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(len(x), -1, -1), y], 1)
        return self.head(self.block(y)[:, 0])


def same(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def compare(found: Any, apart: list[Any]) -> None:
    """Everything that a call with several targets returns, and calls with one."""
    same(found.map, torch.cat([one.map for one in apart], 1))
    for name in ("elsewhere", "output", "positive", "negative"):
        same(getattr(found, name), torch.stack([getattr(one, name) for one in apart], 1))
    stages = list(dict.fromkeys(n for one in apart for n in one.elsewhere_by_stage))
    assert sorted(found.elsewhere_by_stage) == sorted(stages)
    for name in stages:
        parts = [one.elsewhere_by_stage.get(name, torch.zeros(len(X)).double()) for one in apart]
        same(found.elsewhere_by_stage[name], torch.stack(parts, 1))
    total = found.map.flatten(2).sum(2) + found.elsewhere + found.residual
    assert found.residual.shape == found.output.shape
    assert float(found.residual.abs().max()) < 1e-10
    same(total, found.output)  # for each sample and each target


@pytest.mark.parametrize("build", [ResNetLike, Attention])
@pytest.mark.parametrize(
    ("options", "columns"),
    [
        ({"target": [[3, 7, 9]]}, [3, 7, 9]),
        ({"target": EACH}, COLUMNS),
        ({"target": torch.tensor(EACH)}, COLUMNS),
        ({"target": np.array([[2]])}, [2]),
        ({"target": [[margin(3, 7), None, 4]]}, [margin(3, 7), None, 4]),
        ({"target": [[lambda y: y[:, 1] + y[:, 2], 0]]}, [lambda y: y[:, 1] + y[:, 2], 0]),
    ],
)
def test_each_target_is_that_of_a_call_of_its_own(build: Any, options: Any, columns: Any) -> None:
    model = seeded(build)
    found = fullgrad.complete_map(model, X, **options)
    compare(found, [fullgrad.complete_map(model, X, c) for c in columns])
    for size in (1, 2):
        cut = fullgrad.complete_map(model, X, **options, batch_size=size)
        compare(cut, [fullgrad.complete_map(model, X, c) for c in columns])


def test_the_classes_of_the_highest_outputs() -> None:
    model = seeded(ResNetLike)
    classes = model.eval()(X).topk(3).indices
    found = fullgrad.complete_map(model, X, top=3)
    assert torch.equal(found.target, classes)
    compare(found, [fullgrad.complete_map(model, X, c) for c in classes.unbind(1)])
    one = fullgrad.complete_map(model, X, top=1)
    assert (one.output.shape, one.target.shape) == ((3, 1), (3, 1))


@pytest.mark.parametrize(
    "options",
    [
        {"terms": "input"},
        {"terms": "implicit"},
        {"linearization": "balanced"},
        {"placement": "cells"},
        {"baseline": 0.3},
        {"baseline": batch(3, 3, 16, 16, seed=9), "batch_size": 2},
    ],
    ids=str,
)
def test_options(options: dict[str, Any]) -> None:
    model = seeded(ResNetLike)
    found = fullgrad.complete_map(model, X, [[3, 7]], **options)
    compare(found, [fullgrad.complete_map(model, X, c, **options) for c in (3, 7)])


def test_one_forward() -> None:
    model, calls = seeded(ResNetLike), []
    model.register_forward_hook(lambda *_: calls.append(1))
    fullgrad.complete_map(model, X, [[0, 1, 2, 3]])
    assert len(calls) == 1


def test_margins_are_differences_of_their_maps() -> None:
    model = seeded(ResNetLike)
    found = fullgrad.complete_map(model, X, [[3, 7, margin(3, 7)]])
    a, b, difference = found.map.unbind(1)
    torch.testing.assert_close(a - b, difference, rtol=1e-8, atol=1e-10)
    same(found.elsewhere[:, 0] - found.elsewhere[:, 1], found.elsewhere[:, 2])
    assert found.target is None  # a margin has no index


def test_cells_and_regions() -> None:
    model = seeded(ResNetLike)
    found = fullgrad.complete_map(model, X, EACH)
    apart = [fullgrad.complete_map(model, X, c) for c in COLUMNS]
    same(found.pooled(5), torch.cat([one.pooled(5) for one in apart], 1))
    labels = (torch.arange(3 * 256) % 4).view(3, 16, 16)
    for regions in (
        {"labels": labels},
        {"labels": labels[0]},
        {"boxes": {"a": (0, 0, 7.5, 16), "b": (8, 3, 9, 4)}},
    ):
        table = found.by_region(**regions)
        assert table.columns.names == ["sample", "target"]
        assert table.shape[1] == 9
        for k, one in enumerate(apart):
            alone = one.by_region(**regions)
            assert list(table.index) == list(alone.index)
            part = table.xs(k, axis=1, level="target")
            np.testing.assert_allclose(part.to_numpy(), alone.to_numpy(), rtol=1e-9, atol=1e-12)
        sums = table.sum().to_numpy().reshape(3, 3)
        np.testing.assert_allclose(sums, found.output.numpy(), rtol=1e-9)


def test_several_inputs() -> None:
    def add(m: Any, left: Tensor, right: Tensor) -> Tensor:
        return m.fc((m.conv(left).tanh() + right.tanh()).mean((2, 3)))

    model = Snippet(add, conv=nn.Conv2d(3, 4, 3, padding=1))
    pair = {"left": batch(2, 3, 8, 8), "right": batch(2, 4, 8, 8, seed=1)}
    found = fullgrad.complete_map(model, pair, [[0, 2]])
    apart = [fullgrad.complete_map(model, pair, c) for c in (0, 2)]
    for name in pair:
        same(found.map[name], torch.cat([one.map[name] for one in apart], 1))
    total = sum(m.flatten(2).sum(2) for m in found.map.values())
    same(total + found.elsewhere + found.residual, found.output)
    table = found.by_region(boxes=[(0, 0, 4, 8)], input="left")
    np.testing.assert_allclose(table.sum().to_numpy().reshape(2, 2), found.output.numpy())
    assert "right" in table.index
    for one in apart:
        check_sum(one)


def test_a_row_of_indices_into_a_dense_output_stays_one_index() -> None:
    def dense(m: Any, x: Tensor) -> Tensor:
        return m.fc(m.conv(x).tanh().movedim(1, -1)).movedim(-1, 1)

    model, x = Snippet(dense, conv=nn.Conv2d(2, 4, 3, padding=1)), batch(2, 2, 6, 6)
    one = fullgrad.complete_map(model, x, [[0, 1, 2], [2, 5, 3]])
    assert (one.map.shape, one.output.shape) == ((2, 1, 6, 6), (2,))
    one = fullgrad.complete_map(model, x, [[0, 1, 2]])
    assert (one.map.shape, one.output.shape) == ((2, 1, 6, 6), (2,))
    two = fullgrad.complete_map(model, x, [[(0, 1, 2), (2, 5, 3)]])
    assert (two.map.shape, two.output.shape) == ((2, 2, 6, 6), (2, 2))
    same(two.map[:, :1], one.map)


def test_the_sum_of_every_target_is_proved() -> None:
    """A wrong gradient that only one of the targets meets."""

    def run(m: Any, x: Tensor) -> Tensor:
        y = x.mean((2, 3))
        bad = y[:, :1].tanh()
        bad.register_hook(lambda g: 2 * g)
        return torch.cat([m.fc(y), bad], 1)

    model, x = Snippet(run), batch(2, 4, 6, 6)
    assert fullgrad.complete_map(model, x, [[0, 1, 2]]).map.shape == (2, 3, 6, 6)
    for rows in ([[0, 3]], [[3, 0]]):
        with pytest.raises(CompletenessError, match="do not sum to the output"):
            fullgrad.complete_map(model, x, rows)


def test_stages_that_only_one_target_meets_are_in_the_networks_order() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.conv(x).mean((2, 3))
        return torch.cat([m.left(y), m.right(y)], 1)

    def model() -> Snippet:
        parts = {"left": nn.Linear(4, 1), "right": nn.Linear(4, 1)}
        return Snippet(run, conv=nn.Conv2d(3, 4, 3), **parts)

    for rows in ([[0, 1]], [[1, 0]]):
        found = fullgrad.complete_map(model(), batch(2, 3, 8, 8), rows)
        assert sorted(found.elsewhere_by_stage) == ["left", "right"]
        own = rows[0].index(0)
        assert not found.elsewhere_by_stage["left"][:, 1 - own].any()
    assert in_order([["a", "c", "left out"], ["a", "b", "c", "fused"]]) == [
        *("a", "b", "c", "fused", "left out")
    ]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"target": [[3, 10]]}, TargetError, "target 10 is out of range"),
        ({"target": [[3, 7], [1, 2]]}, TargetError, "2 lists of targets for a batch of 3 samples"),
        ({"target": [[3], [1, 2]]}, TargetError, "as many targets as the others"),
        ({"target": (3, 7)}, TargetError, "target=[[3, 7]]), or with fullgrad.complete_map"),
        ({"target": [[lambda y: y[:, 2]] * 2] * 3}, TargetError, "target=[[f, g]]"),
        ({"top": 11}, TargetError, "top=11, but the model has 10 classes"),
        ({"top": 0}, ValueError, "top must be a positive integer, not 0"),
        ({"top": 2, "target": 3}, OptionError, "leave target out, or top"),
    ],
)
def test_refusals(options: dict[str, Any], kind: type, message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        fullgrad.complete_map(seeded(ResNetLike), X, **options)


def test_the_method_explains_one_target() -> None:
    way_out = r"one target for each sample, not 2: fullgrad.saliency\(\) and fullgrad.complete_map"
    with pytest.raises(TargetError, match=way_out):
        methods.attribute("complete_fullgrad", seeded(ResNetLike), X, [[3, 7]])

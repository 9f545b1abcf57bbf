"""Sums of a complete map over cells and regions: exact by overlap, and complete."""

from __future__ import annotations

import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fullgrad
from complete_oracle import DOUBLE, check_sum
from fullgrad.errors import InputError, MissingDependencyError, OptionError
from fullgrad.maps.complete import CompleteMap
from fullgrad.maps.regions import pooled
from networks import seeded, vgg_like
from snippets import batch


def made(*maps: Tensor) -> CompleteMap:
    """A complete map of given numbers, with two stages elsewhere."""
    samples = len(maps[0])
    stages = {s: batch(samples, seed=i) for i, s in enumerate(("head", "fused"))}
    elsewhere = stages["head"] + stages["fused"]
    output = elsewhere + sum(m.flatten(1).sum(1, dtype=DOUBLE) for m in maps)
    names = ("input",) if len(maps) == 1 else tuple(f"input{i}" for i in range(len(maps)))
    packed: Any = maps[0] if len(maps) == 1 else maps
    steps = torch.ones(output.shape, dtype=torch.int64)
    return CompleteMap(packed, elsewhere, stages, output, output * 0, None, names, steps)


def naive_pooled(line: list[float], cells: int) -> list[float]:
    places = len(line)
    found = []
    for i in range(cells):
        start, stop = Fraction(i * places, cells), Fraction((i + 1) * places, cells)
        parts = [max(Fraction(0), min(stop, j + 1) - max(start, j)) for j in range(places)]
        found.append(sum(float(p) * v for p, v in zip(parts, line, strict=True)))
    return found


@settings(max_examples=60)
@given(st.integers(1, 30), st.integers(1, 30))
def test_pooling_cuts_places(places: int, cells: int) -> None:
    x = batch(1, 1, places)
    expected = torch.tensor([[naive_pooled(x[0, 0].tolist(), cells)]], dtype=DOUBLE)
    torch.testing.assert_close(pooled(x, (cells,)), expected)


@pytest.mark.parametrize(("before", "after"), [(13, 227), (224, 7), (300, 224), (14, 224), (5, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pooled_sums_are_exact(before: int, after: int, dtype: torch.dtype) -> None:
    x = batch(2, 1, before, before + 1).to(dtype)
    found = made(x).pooled((after, after + 2))
    assert found.shape == (2, 1, after, after + 2) and found.dtype == dtype
    size = x.abs().sum(dtype=DOUBLE)
    gap = (found.sum((1, 2, 3), dtype=DOUBLE) - x.sum((1, 2, 3), dtype=DOUBLE)).abs().max()
    assert gap <= (1e-14 if dtype == DOUBLE else 1e-7) * size


def test_pooling_to_the_same_size_changes_nothing() -> None:
    x = batch(2, 1, 5, 6, 7)
    assert torch.equal(made(x).pooled((5, 6, 7)), x)
    assert made(x).pooled(2).shape == (2, 1, 2, 2, 2)


@pytest.mark.parametrize("size", [0, 2.0, (2,), "2", (2, 0), True])
def test_sizes_that_do_not_fit(size: Any) -> None:
    with pytest.raises(InputError, match="size must be a positive integer, or 2 of them, not"):
        made(batch(1, 1, 4, 4)).pooled(size)


def test_labels_for_all_samples_and_for_each() -> None:
    x = batch(2, 1, 3, 4)
    found = made(x)
    labels = torch.tensor([[0, 0, 7, 7], [0, -1, -1, 7], [3, 3, 3, 3]])
    for given_labels in (labels, labels.numpy(), torch.stack([labels, labels])):
        table = found.by_region(given_labels)
        assert list(table.index) == [0, 3, 7, "rest", "elsewhere"]
        assert (table.index.name, table.columns.name) == ("region", "sample")
        np.testing.assert_allclose(table.sum(), found.output.numpy(), rtol=1e-12)
        for i in range(2):
            np.testing.assert_allclose(table.loc[7, i], float(x[i, 0][labels == 7].sum()))
            np.testing.assert_allclose(table.loc["rest", i], float(x[i, 0][labels < 0].sum()))
    own = torch.stack([labels, labels.flip(0) + 10])
    table = found.by_region(own)
    assert table.loc[0, 1] == table.loc[17, 0] == 0
    np.testing.assert_allclose(table.sum(), found.output.numpy(), rtol=1e-12)
    for wrong, match in (
        (labels.float(), "labels must be integers, not torch.float32"),
        (
            labels[:2],
            r"labels of shape \(2, 4\) do not fit a map of shape \(2, 1, 3, 4\): \(3, 4\) or",
        ),
    ):
        with pytest.raises(InputError, match=match):
            found.by_region(wrong)


def test_boxes_are_cut_where_borders_run_through_places() -> None:
    x = batch(2, 1, 4, 6)
    found = made(x)
    boxes = {"a": (0, 0, 2.5, 3), "b": (2.5, 1.25, 9.0, 4)}
    table = found.by_region(boxes=boxes)
    assert list(table.index) == ["a", "b", "rest", "elsewhere"]
    first = x[:, 0, :3, :2].sum((1, 2)) + x[:, 0, :3, 2].sum(1) / 2
    np.testing.assert_allclose(table.loc["a"], first)
    rows = 0.75 * x[:, 0, 1] + x[:, 0, 2] + x[:, 0, 3]
    np.testing.assert_allclose(table.loc["b"], rows[:, 3:].sum(1) + rows[:, 2] / 2)
    np.testing.assert_allclose(table.sum(), found.output.numpy(), rtol=1e-12)
    assert list(found.by_region(boxes=[(0, 0, 1, 1)]).index) == [0, "rest", "elsewhere"]
    volume = made(batch(1, 1, 2, 3, 4))
    table = volume.by_region(boxes={"corner": (3, 2, 1, 4, 3, 2)})
    np.testing.assert_allclose(table.loc["corner", 0], float(volume.map[0, 0, 1, 2, 3]))


def test_spans_of_a_series_and_one_of_several_inputs() -> None:
    image, series = batch(2, 1, 3, 3), batch(2, 1, 6, seed=4)
    found = made(image, series)
    table = found.by_region(spans={"word": (1, 2.5)}, input="input1")
    assert list(table.index) == ["word", "rest", "input0", "elsewhere"]
    np.testing.assert_allclose(table.loc["word"], series[:, 0, 1] + series[:, 0, 2] / 2)
    np.testing.assert_allclose(table.loc["input0"], image.sum((1, 2, 3)))
    np.testing.assert_allclose(table.sum(), found.output.numpy(), rtol=1e-12)
    assert list(found.by_region(boxes=[(0, 0, 1, 1)], input=0).index)[2] == "input1"
    for wrong in (None, "x", 2, -1):
        with pytest.raises(OptionError, match="input must be one of 'input0', 'input1' or its num"):
            found.by_region(spans=[(0, 1)], input=wrong)


@pytest.mark.parametrize(
    ("regions", "match"),
    [
        ({"boxes": {"a": (0, 0, 2, 2), "b": (1, 1, 3, 3)}}, "regions 'a' and 'b' overlap, so that"),
        ({"boxes": [(0, 0, 2)]}, r"region 0 must be \(x0, y0, x1, y1\), not \(0, 0, 2\)"),
        ({"boxes": {"a": "four"}}, r"region 'a' must be \(x0, y0, x1, y1\), not 'four'"),
        ({"boxes": [(0, 0, float("nan"), 2)]}, r"region 0 must be"),
        ({"boxes": [(4, 0, 6, 2)]}, r"region 0 holds nothing of a map of \(4, 4\)"),
        ({"boxes": [(2, 0, 1, 2)]}, r"region 0 holds nothing of a map of \(4, 4\)"),
        ({"boxes": {"rest": (0, 0, 1, 1)}}, "a region cannot be called 'rest'"),
        ({"spans": [(0, 1)]}, r"a map of shape \(1, 1, 4, 4\) has boxes, not spans"),
    ],
)
def test_regions_that_cannot_be(regions: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        made(batch(1, 1, 4, 4)).by_region(**regions)


def test_one_kind_of_regions_is_given() -> None:
    found = made(batch(1, 1, 4))
    with pytest.raises(OptionError, match="give one of labels, boxes and spans, not 0 of them"):
        found.by_region()
    with pytest.raises(OptionError, match="give one of labels, boxes and spans, not 2 of them"):
        found.by_region(torch.zeros(4, dtype=torch.long), spans=[(0, 1)])
    with pytest.raises(InputError, match="has spans, not boxes"):
        found.by_region(boxes=[(0, 0, 1, 1)])


def test_pandas_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match=r"pandas .*pip install 'fullgrad\[bench\]'"):
        made(batch(1, 1, 4)).by_region(spans=[(0, 1)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_models_regions(dtype: torch.dtype) -> None:
    model: nn.Module = seeded(vgg_like).to(dtype)
    found = fullgrad.complete_map(model, batch(3, 3, 32, 32).to(dtype))
    check_sum(found, 1e-5 if dtype == torch.float32 else 1e-10)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    labels = torch.arange(32 * 32).reshape(32, 32) % 5
    for table in (found.by_region(labels), found.by_region(boxes=[(1.5, 2.25, 20, 30)])):
        np.testing.assert_allclose(table.sum(), found.output.double().numpy(), rtol=tolerance)
        assert table.shape[1] == 3


def test_a_region_is_not_called_like_another_input() -> None:
    found = made(batch(2, 1, 4, 4), batch(2, 1, 4, 4, seed=7))
    with pytest.raises(InputError, match="cannot be called 'input1', as another input is"):
        found.by_region(boxes={"input1": (0, 0, 2, 2)}, input="input0")
    table = found.by_region(boxes={"input0": (0, 0, 2, 2)}, input="input0")
    assert list(table.index) == ["input0", "rest", "input1", "elsewhere"]
    np.testing.assert_allclose(table.sum(axis=0), found.output.numpy(), rtol=1e-12)

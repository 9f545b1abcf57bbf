"""Data in memory are told apart by what they hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from fullgrad import datasets
from fullgrad.datasets._in_memory import facts_of
from fullgrad.datasets.analysis.pictures import Pictures
from fullgrad.datasets.sources import open_samples
from fullgrad.errors import InputError
from fullgrad.evaluation.store import StoreError
from mapped import Data, Net

X = torch.arange(4 * 3 * 8 * 8).reshape(4, 3, 8, 8) / 768
Y = torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (TensorDataset(X, Y), TensorDataset(-X, Y)),
        (TensorDataset(X, Y), TensorDataset(X, 2 - Y)),
        (X, -X),
        (X.numpy(), -X.numpy()),
        ([*X], [*-X]),
        ([*zip(X, [0, 1, 2, 0], strict=True)], [*zip(X, [1, 1, 2, 0], strict=True)]),
        ([{"image": x, "label": 1} for x in X], [{"image": x, "label": 2} for x in X]),
        (Subset(TensorDataset(X, Y), [0, 1]), Subset(TensorDataset(X, Y), [1, 2])),
        (ConcatDataset([TensorDataset(X, Y)] * 2), ConcatDataset([TensorDataset(-X, Y)] * 2)),
    ],
    ids=["numbers", "labels", "tensor", "array", "list", "pairs", "dicts", "subset", "joined"],
)
def test_other_data_of_the_same_length_are_refused(tmp_path: Path, first: Any, second: Any) -> None:
    how: dict[str, Any] = {"method": "complete_fullgrad"}
    datasets.map(first, Net(), tmp_path, **how)
    assert datasets.map(first, Net(), tmp_path, **how).units_written == 0
    with pytest.raises(StoreError, match=r"data.digest: "):
        datasets.map(second, Net(), tmp_path, **how)
    Pictures.of(datasets.open(tmp_path), first)
    with pytest.raises(InputError, match="the data are not those of the maps"):
        Pictures.of(datasets.open(tmp_path), second)


def test_data_of_earlier_stores_are_found(tmp_path: Path) -> None:
    """Their digests did not count numbers."""
    data = TensorDataset(X, Y)
    earlier = replace(open_samples(data), facts=())
    datasets.map(earlier, Net(), tmp_path, method="complete_fullgrad")
    assert Pictures.of(datasets.open(tmp_path), data).why.endswith("prepared is not stored.")


def test_what_is_read_when_it_is_asked_for_is_not_read_before(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        for data in (mapped, mapped[1:], [mapped], Data(), [image]):
            assert facts_of(data) == []
    assert facts_of([Image.new("RGB", (8, 8), "red")]) != facts_of([Image.new("RGB", (8, 8))])


@pytest.mark.parametrize(
    "value",
    [torch.tensor(1.5).bfloat16(), torch.zeros(0), X.transpose(0, 1), np.float32(2), "text", None],
)
def test_any_value_has_a_digest(value: Any) -> None:
    assert len(facts_of([value])) == 1 and facts_of([value]) == facts_of([value])

"""The maps and rows of a store are those of the calls that explain one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad import datasets, methods
from fullgrad.datasets import encoding
from fullgrad.errors import TargetError, UsageError
from fullgrad.evaluation.sources import DataError
from fullgrad.evaluation.store import StoreError
from mapped import Data, Net, rows, shards


def inputs(count: int) -> Tensor:
    return torch.stack([Data()[i][0] for i in range(count)])


@pytest.mark.parametrize(
    "method",
    [
        "fullgrad",
        "difference_fullgrad",
        "path_fullgrad",
        "combined_fullgrad",
        "input_gradient",
        "grad_cam",
    ],
)
def test_maps_and_numbers_are_those_of_the_method(tmp_path: Path, method: str) -> None:
    net = Net()
    options: dict[str, Any] = {"layer": "stem"} if method == "grad_cam" else {}
    done = datasets.map(Data(), net, tmp_path, method=method, options=options, unit=4, batch_size=3)
    assert (done.units, done.units_written, done.maps, done.errors) == (3, 3, 10, 0)
    store = datasets.open(tmp_path)
    x = inputs(10)
    wanted = methods.attribute(method, net, x, batch_size=None, **options)[:, 0].double().numpy()
    table = store.index
    steps = table["scale"].to_numpy()[:, None, None] * 2.0**-11
    assert (np.abs(store.maps.values - wanted) <= steps + 1e-7).all()
    logits = net(x).detach().double()
    predicted = logits.argmax(1)
    assert table["prediction"].tolist() == table["target"].tolist() == predicted.tolist()
    assert table["label"].tolist() == [i % 3 for i in range(10)]
    own = logits.gather(1, predicted[:, None])[:, 0]
    assert np.allclose(table["logit"], own, atol=1e-6)
    assert np.allclose(table["probability"], logits.softmax(1).max(1).values, atol=1e-6)
    assert np.allclose(table["positive"] + table["negative"], wanted.sum((1, 2)), atol=1e-5)
    stages = {"fullgrad": ("stem", "norm", "head")}
    stages["difference_fullgrad"] = ("stem", "norm", "model", "head")  # its ReLU is the model's
    assert store.plan.stages == stages.get(method, ())
    shares = table[["share.input", *(f"share.{s}" for s in store.plan.stages)]]
    if "fullgrad" not in method:
        assert shares.isna().all(axis=None)
        assert table[["residual", "elsewhere"]].isna().all(axis=None)
        return
    if method in {"path_fullgrad", "combined_fullgrad"}:  # several passes
        assert shares.isna().all(axis=None)
    else:
        assert np.allclose(shares.sum(axis=1) + table["residual"], own, atol=1e-5)
    if method == "fullgrad":
        d = fullgrad.decompose(net, x)
        assert np.allclose(table["share.input"], d.input_sums, atol=1e-6)
        assert np.allclose(table["share.stem"], d.by_module(1)["stem"], atol=1e-6)
        assert table["elsewhere"].isna().all()
        return
    found = fullgrad.methods.get(method).settings({})
    assert (found.steps == 1) == (method == "difference_fullgrad")
    placed = table["positive"] + table["negative"] + table["elsewhere"] + table["residual"]
    assert np.allclose(placed, own, atol=1e-6)


def test_what_cannot_be_read_or_explained_is_a_row_with_its_error(tmp_path: Path) -> None:
    class Odd(Data):
        def __getitem__(self, number: int) -> Any:
            if number == 5:
                return torch.full((3, 8, 8), 99.0), 0
            if number == 6:
                return torch.zeros(3, 9, 9), 0
            if number == 7:
                return torch.full((3, 8, 8), -99.0), 0
            return super().__getitem__(number)

    done = datasets.map(Odd(broken=(2,)), Net(), tmp_path, batch_size=4, unit=8, workers=1)
    assert done.errors == 4 and done.complete
    store = datasets.open(tmp_path)
    again = datasets.map(Odd(broken=(2,)), Net(), tmp_path, batch_size=4, unit=8)
    assert (again.units_written, again.errors, again.errors_there) == (0, 0, 4)
    errors = store.index["error"].dropna().to_dict()
    assert errors == {
        2: "OSError: sample 2 is gone",
        5: "the model cannot run on input of shape (1, 3, 8, 8) (float32): brighter than this model can "
        "bear",
        6: "its map is 9 x 9, those of this store 8 x 8: maps of unequal sizes need grid=",
        7: "KeyError: 'dark'",
    }
    assert np.isnan(store.maps.sel(row=[2, 5, 6, 7])).all()
    assert store.index.loc[[2, 5, 6, 7], "logit"].isna().all()
    good = store.index[store.index["error"].isna()]
    datasets.map(Data(), Net(), tmp_path / "all", batch_size=4, unit=8)
    whole = datasets.open(tmp_path / "all")
    assert np.allclose(good["logit"], whole.index.loc[good.index, "logit"], atol=1e-6)


def test_unequal_sizes_are_pooled_to_a_grid(tmp_path: Path) -> None:
    class Unequal(Data):
        def __getitem__(self, number: int) -> Any:
            own = torch.Generator().manual_seed(number)
            return torch.randn(3, 8, 8 + number, generator=own), 0

    net, data = Net(), Unequal()
    datasets.map(data, net, tmp_path, method="complete_fullgrad", grid=(2, 3), dtype="float32")
    store = datasets.open(tmp_path)
    assert store.maps.shape == (10, 2, 3) and store.plan.pooling == "sum"
    for number in (0, 7):
        found = methods.attribute("complete_fullgrad", net, data[number][0][None])[0, 0].numpy()
        wanted = encoding.pooled(found, (2, 3), "sum")
        assert np.allclose(store.map(number), wanted, atol=1e-6)
        assert store.map(number).sum() == pytest.approx(found.sum(), abs=1e-5)
        assert list(store.index.loc[number, "shape"]) == [8, 8 + number]
    with pytest.raises(fullgrad.FullGradError, match="8 x 8 cannot be pooled to a grid of 9 x 2"):
        datasets.map(Data(), net, tmp_path / "more", grid=(9, 2))


def test_several_targets_of_a_sample_are_rows_of_their_own(tmp_path: Path) -> None:
    net, x = Net(), inputs(10)
    how: dict[str, Any] = {"method": "fullgrad", "unit": 4, "dtype": "float32"}
    datasets.map(Data(), net, tmp_path / "two", target=[2, 0], **how)
    store = datasets.open(tmp_path / "two")
    assert store.maps.shape == (20, 8, 8) and store.plan.rows_of_unit == 8
    assert store.index["id"].tolist()[:4] == ["0", "0", "1", "1"]
    assert store.index["target"].tolist() == [2, 0] * 10
    assert store.index["rank"].tolist() == [0, 1] * 10
    wanted = fullgrad.saliency(net, x, [[2, 0]])
    assert np.allclose(store.maps.values.reshape(10, 2, 8, 8), wanted, atol=1e-6)
    datasets.map(Data(), net, tmp_path / "top", top=2, unit=4)
    by_default = datasets.open(tmp_path / "top").plan
    assert by_default.method == fullgrad.methods.RECOMMENDED
    assert by_default.chosen == {"by": "default", "reason": fullgrad.methods.REASON}
    top = datasets.open(tmp_path / "top").index["target"].to_numpy(int).reshape(10, 2)
    assert np.array_equal(top, net(x).topk(2).indices)


def test_targets_that_are_given(tmp_path: Path) -> None:
    net, x = Net(), inputs(10)
    logits = net(x).detach()
    datasets.map(Data(), net, tmp_path / "true", target="true")
    assert datasets.open(tmp_path / "true").index["target"].tolist() == [i % 3 for i in range(10)]
    wanted = {str(i): (i + 1) % 3 for i in range(10)}
    datasets.map(Data(), net, tmp_path / "each", target=wanted)
    assert datasets.open(tmp_path / "each").index["target"].tolist() == [*wanted.values()]
    contrast = fullgrad.targets.margin(0, 1)
    datasets.map(Data(), net, tmp_path / "margin", target=contrast)
    store = datasets.open(tmp_path / "margin")
    assert store.index["target"].isna().all()
    assert np.allclose(store.index["logit"], logits[:, 0] - logits[:, 1], atol=1e-6)
    predicted = tmp_path / "predicted"
    first = datasets.map(Data(), net, predicted)
    assert first.units_written == datasets.map(Data(), net, predicted, target=None).units
    assert datasets.open(predicted).index["target"].tolist() == logits.argmax(1).tolist()
    with pytest.raises(UsageError, match="class_names is a list of names, not one text: 'cat'"):
        datasets.map(Data(), net, tmp_path / "none", class_names="cat")
    unlabelled = [x[i] for i in range(3)]
    with pytest.raises(UsageError, match="target='true', but 0 has no known class"):
        datasets.map(unlabelled, net, tmp_path / "none", target="true")
    for target, text in (
        ("nosuch", "must be 'predicted', 'true'"),
        ([], "several targets must be"),
    ):
        with pytest.raises(TargetError, match=text):
            datasets.map(Data(), net, tmp_path / "none", target=target)
    with pytest.raises(TargetError, match="leave target out, or top"):
        datasets.map(Data(), net, tmp_path / "none", target=1, top=2)
    with pytest.raises(UsageError, match="top=4, but the model has 3 classes"):
        datasets.map(Data(), net, tmp_path / "none", top=4)
    with pytest.raises(TargetError, match=r"no target for 0 \(9 of 10 samples have none\)"):
        datasets.map(Data(), net, tmp_path / "none", target={"1": 0})
    assert not (tmp_path / "none").exists()


def test_a_second_start_computes_nothing_that_is_there(tmp_path: Path) -> None:
    net = Net()
    datasets.map(Data(), net, tmp_path, unit=3, batch_size=2)
    before = rows(datasets.open(tmp_path)), shards(tmp_path)
    (tmp_path / "index/000001.parquet").unlink()
    seen: list[datasets.Progress] = []
    done = datasets.map(Data(), net, tmp_path, unit=3, progress=seen.append)
    assert (done.units_written, done.units_done) == (1, 4)
    assert [(p.done, p.total) for p in seen] == [(7, 10), (10, 10)]
    pandas.testing.assert_frame_equal(rows(datasets.open(tmp_path)), before[0])
    assert shards(tmp_path) == before[1]
    assert "4 of 4 units are in" in str(done) and "this run: 1 units, 3 rows" in str(done)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    net = Net()
    datasets.map(Data(), net, tmp_path, unit=4)
    other = Net()
    with torch.no_grad():
        other.head.bias += 1
    for data, model, options, text in (
        (Data(11), net, {}, "data.samples: 11 here, 10 there"),
        (Data(), other, {}, "model.digest: "),
        (Data(), net, {"method": "complete_fullgrad"}, 'method: "complete_fullgrad" here'),
        (Data(), net, {"options": {"psi": "channel"}}, 'options.psi: "channel" here, null there'),
        (Data(), net, {"target": 1}, 'target: 1 here, "predicted" there'),
        (Data(), net, {"unit": 5}, "unit: 5 here, 4 there"),
        (Data(), net, {"batch_size": 1}, "batch_size: 1 here, 4 there"),
    ):
        with pytest.raises(StoreError, match=text):
            datasets.map(data, model, tmp_path, **options)


def test_a_users_method_is_part_of_the_plan(tmp_path: Path) -> None:
    def mine(model: nn.Module, x: Tensor, target: Any) -> Tensor:
        return x.abs().sum(1, keepdim=True)

    datasets.map(Data(), Net(), tmp_path, method=mine)
    store = datasets.open(tmp_path)
    assert np.allclose(store.map(4), Data()[4][0].abs().sum(0), atol=1e-2)
    first = store.plan.code

    def mine(model: nn.Module, x: Tensor, target: Any) -> Tensor:
        return x.abs().sum(1, keepdim=True) * 2

    with pytest.raises(StoreError, match=f'code: "{first[:16]}-.*" here, "{first}" there'):
        datasets.map(Data(), Net(), tmp_path, method=mine)


def test_what_a_users_method_holds_is_part_of_the_plan(tmp_path: Path) -> None:
    def times(by: float) -> Any:
        return lambda model, x, target: x.detach().sum(1, keepdim=True) * by

    for by, written in ((2, 1), (2, 0)):
        done = datasets.map(Data(), Net(), tmp_path, method=times(by), unit=16)
        assert done.units_written == written
    with pytest.raises(StoreError, match="holds maps of other settings"):
        datasets.map(Data(), Net(), tmp_path, method=times(3), unit=16)


def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    net, out = Net(), tmp_path / "out"
    for data, options, error, text in (
        ([], {}, DataError, "builtins.list holds no samples"),
        (Data(), {"ids": ["a"] * 10}, DataError, "has the id 'a' 10 times; each sample needs its"),
        (Data(), {"ids": ["a"]}, DataError, "1 ids for 10 samples"),
        (7, {}, DataError, "int is not a data set: give an image folder"),
        (
            Data(broken=tuple(range(10))),
            {},
            DataError,
            "none of the first samples of .* can be read",
        ),
        (["text"] * 3, {}, DataError, "a sample is a str, not a tensor: give transform="),
        ([torch.full((3, 8, 8), 99.0)], {}, UsageError, "can be explained: the model cannot run"),
        (Data(), {"dtype": "int8"}, ValueError, "dtype must be one of float16, uint8, float32"),
        (Data(), {"grid": (0, 2)}, ValueError, "grid must be positive integers"),
        (Data(), {"unit": 0}, ValueError, "unit must be a positive integer, not 0"),
        (Data(), {"workers": -1}, ValueError, "workers must be an integer of at least 0"),
        (Data(), {"batch_size": "all"}, ValueError, "batch_size must be a positive integer or"),
        (Data(), {"part": (2, 2)}, UsageError, r"part must be \(i, n\) with 0 <= i < n"),
        (Data(), {"executor": "cloud"}, ValueError, "executor must be one of here, torchrun, ray"),
        (Data(), {"labels": "folder"}, DataError, "labels='folder' belongs to an image folder"),
    ):
        with pytest.raises(error, match=text):
            datasets.map(data, net, out, **options)
    with pytest.raises(UsageError, match=r"model must be an nn\.Module or load_model"):
        datasets.map(Data(), "resnet", out)  # type: ignore[arg-type]
    assert not out.exists()


def test_batch_size_auto_is_chosen_once(tmp_path: Path) -> None:
    datasets.map(Data(), Net(), tmp_path, batch_size="auto", unit=6)
    size = datasets.open(tmp_path).plan.batch_size
    assert 1 <= size <= 6
    assert datasets.map(Data(), Net(), tmp_path, batch_size="auto").units_written == 0


def test_series_and_volumes(tmp_path: Path) -> None:
    series = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).eval()
    volume = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).eval()
    for name, net, shape, dims in (
        ("series", series, (2, 16), ("row", "time")),
        ("volume", volume, (1, 5, 6, 7), ("row", "z", "y", "x")),
    ):
        torch.manual_seed(1)
        data = [torch.randn(shape) for _ in range(3)]
        net(data[0][None])
        datasets.map(data, net, tmp_path / name, method="fullgrad", dtype="float32")
        store = datasets.open(tmp_path / name)
        assert store.plan.chosen == {"by": "given"}
        assert store.maps.dims == dims and store.maps.shape == (3, *shape[1:])
        wanted = fullgrad.saliency(net, torch.stack(data))[:, 0]
        assert np.allclose(store.maps.values, wanted, atol=1e-6)

"""Texts, sounds, volumes, and samples of several inputs, from Python and from the command line."""

from __future__ import annotations

import cmath
import math
import pickle
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from torch import nn
from torchvision.transforms import Compose, Lambda

import fullgrad
import read_texts
from fullgrad import datasets
from fullgrad._user_code import loaded
from fullgrad.cli.main import main
from fullgrad.datasets._described import plain
from fullgrad.datasets.samples import Reader as Reads
from fullgrad.datasets.sources import open_samples
from fullgrad.errors import UsageError
from fullgrad.evaluation.sources import DataError
from fullgrad.evaluation.store import StoreError
from fullgrad.interop import hugging_face
from fullgrad.maps.combined import combined
from read_texts import TEXTS, Beside, Letters, Pairs, Reader

FILE = f"{Path(read_texts.__file__)}"
HOW: dict[str, Any] = {"transform": Letters(), "method": "complete_fullgrad", "dtype": "float32"}


def batch(text: str) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([own]) for name, own in Letters()(text).items()}


@pytest.mark.parametrize("method", ["complete_fullgrad", "path_fullgrad", "combined_fullgrad"])
def test_texts_are_those_of_the_batch_explained(tmp_path: Path, method: str) -> None:
    model = Reader()
    done = datasets.map(TEXTS, model, tmp_path, **{**HOW, "method": method}, unit=3, tokens=11)
    assert (done.maps, done.errors) == (4, 0)
    store = datasets.open(tmp_path)
    assert store.plan.dims == ("token",) and store.maps.shape == (4, 11)
    assert store.inputs == ("input_ids",) and store.plan.more == {}
    settings = asdict(fullgrad.methods.get(method).settings({}))
    x = batch("the cat sat")
    if method == "combined_fullgrad":
        wanted = combined(lambda **o: hugging_face.explain(model, x, **o).found, **settings)
    else:
        wanted = hugging_face.explain(model, x, **settings).found
    assert np.allclose(store.map(2), wanted.map["input_ids"][0, 0], atol=1e-6)
    table = store.index
    assert table.loc[2, "tokens"].tolist() == list("the_cat_sat")
    assert table["shape"].map(len).tolist() == [1] * 4 and table.loc[1, "shape"][0] == 3
    assert not store.map(1)[3:].any() and store.map(1)[:3].all()
    whole = table["positive"] + table["negative"] + table["elsewhere"] + table["residual"]
    assert np.allclose(whole, table["logit"], atol=1e-6)
    logits = torch.cat([model(**batch(text)) for text in TEXTS])
    assert table["prediction"].tolist() == logits.argmax(1).tolist()


def test_several_inputs_have_an_array_each(tmp_path: Path) -> None:
    model = Beside()
    how: dict[str, Any] = {"method": "complete_fullgrad", "dtype": "float32", "batch_size": 2}
    datasets.map(Pairs(), model, tmp_path / "one", unit=2, tokens=6, target=[2, 0], **how)
    store = datasets.open(tmp_path / "one")
    assert store.inputs == ("input_ids", "pixel_values") and store.complete
    assert store.maps.shape == (10, 6) and store.maps_of("pixel_values").dims == ("row", "y", "x")
    x = {n: torch.stack([Pairs()[i][n] for i in range(5)]) for n in ("input_ids", "attention_mask")}
    x["pixel_values"] = torch.stack([Pairs()[i]["pixel_values"] for i in range(5)])
    wanted = hugging_face.explain(model, x, 2)
    found = store.maps_of("pixel_values")[::2].values
    assert np.allclose(found, wanted.map["pixel_values"][:, 0].detach(), atol=1e-6)
    assert np.allclose(store.map(4)[:4], wanted.map["input_ids"][2, 0], atol=1e-6)
    assert np.array_equal(store.map(4, "pixel_values"), found[2])
    assert store.index["label"].tolist() == [0, 0, 1, 1, 2, 2, 0, 0, 1, 1]
    assert store.index.loc[0, "pixel_values.shape"].tolist() == [6, 5]
    with pytest.raises(UsageError, match=r"no maps of an input 'sound' .* input_ids, pixel_values"):
        store.map(0, "sound")
    shard = tmp_path / "one/maps.zarr/map.pixel_values/c/1/0/0"
    shard.write_bytes(shard.read_bytes()[:-3])
    again = datasets.map(Pairs(), model, tmp_path / "one", target=[2, 0], tokens=6, **how)
    assert again.units_written == 1 and "map.pixel_values/c/1/0/0 has" in again.damaged[0]
    library = datasets.to_huggingface(tmp_path / "one")
    assert np.allclose(library[8]["map.pixel_values"], found[4])
    how["grid"] = (2, 1)  # pools the image alone
    datasets.map(Pairs(), model, tmp_path / "two", target=2, **how)
    small = datasets.open(tmp_path / "two")
    assert small.maps.shape == (5, 512) and small.maps_of("pixel_values").shape == (5, 2, 1)
    sums = small.maps_of("pixel_values").sum(("y", "x"))
    assert np.allclose(sums, found.sum((1, 2)), atol=1e-5)
    assert small.index.loc[0, "pixel_values.shape"].tolist() == [6, 5]


def test_what_texts_cannot_have_is_refused(tmp_path: Path) -> None:
    model = Reader()
    done = datasets.map(TEXTS, model, tmp_path / "short", **HOW, tokens=5)
    assert done.errors == 1
    error = datasets.open(tmp_path / "short").index.loc[2, "error"]
    assert error == "it has 11 tokens, this store keeps 5: a store with tokens=11 keeps all of them"
    assert datasets.map(TEXTS, model, tmp_path / "more", **HOW, tokens=11).errors == 0
    assert datasets.map(TEXTS, model, tmp_path / "more", **HOW).units_written == 0
    with pytest.raises(StoreError, match=r"positions: \[12\] here, \[11\] there"):
        datasets.map(TEXTS, model, tmp_path / "more", **HOW, tokens=12)
    for options, text in (
        ({"method": "grad_cam"}, "grad_cam explains one tensor for each sample, and these hold"),
        ({"batch_size": "auto"}, "measures models of one tensor, and these samples hold input_ids"),
        ({"grid": (2, 2)}, "a map of 5 cannot be pooled to a grid of 2 x 2"),
        ({"transform": None}, "a sample is a str, not a tensor: give transform="),
    ):
        with pytest.raises(fullgrad.FullGradError, match=text):
            datasets.map(TEXTS, model, tmp_path / "none", **{**HOW, **options})
    assert not (tmp_path / "none").exists()


class Scaled:
    """A transform with a setting."""

    def __init__(self, by: float) -> None:
        self.by = by

    def __repr__(self) -> str:
        return f"Scaled({self.by})"

    def __call__(self, x: Any) -> Any:
        return x * self.by


class Unnamed:
    """A transform whose repr tells nothing of its settings."""

    settings: dict[str, Any]

    def apply(self, x: Any) -> Any:
        return x * self.settings["by"]

    __call__ = apply


def test_a_transforms_settings_are_part_of_the_plan() -> None:
    def times(by: float) -> Any:
        return lambda x: x * by

    def after(inner: Any) -> Any:
        return lambda x: inner(x)

    def unnamed(by: float) -> Any:
        found = Unnamed()
        found.settings = {"by": torch.tensor([by])}
        return found

    def typed(text: str) -> Any:  # at a prompt: Python keeps no source of it
        space: dict[str, Any] = {}
        exec(text, space)
        return space["f"]

    def ids(by: float) -> Any:
        return {str(i): torch.full((2000,), by, dtype=torch.bfloat16) for i in range(60)}

    class Other(Letters):
        def get_vocab(self) -> dict[str, int]:
            return {"a": 1}

    for one, same, other in (
        (partial(max, 1, key=abs), partial(max, 1, key=abs), partial(max, 2, key=abs)),
        (Scaled(2), Scaled(2), Scaled(3)),
        (times(2), times(2), times(3)),
        (nn.Upsample(3), nn.Upsample(3), nn.Upsample(4)),
        (Letters(), Letters(), Other()),
        (after(times(2)), after(times(2)), after(times(3))),
        (unnamed(2), unnamed(2), unnamed(3)),
        (unnamed(2).apply, unnamed(2).apply, unnamed(3).apply),
        (ids(2), ids(2), ids(3)),
        (math.sqrt, math.sqrt, cmath.sqrt),  # not written in Python: no source
        *(
            tuple(typed(text.format(n)) for n in (2, 2, 3))
            for text in ("f = lambda x: x * {}", "class f:\n def g(self, x): return x * {}")
        ),
        (Compose([Lambda(times(2))]), Compose([Lambda(times(2))]), Compose([Lambda(times(3))])),
    ):
        assert plain(one) == plain(same) != plain(other)


def test_a_file_is_run_again_where_its_objects_are_taken_to(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_bytes(Path(FILE).read_bytes())
    made, model = loaded(f"{file}:make_model", DataError)
    _, tokenizer = loaded(f"{file}:tokenizer", DataError, again=False)
    assert type(tokenizer) is made.Letters and type(model()) is made.Reader
    reader = Reads(open_samples(TEXTS), tokenizer)
    content = pickle.dumps(reader)
    del sys.modules[made.__name__]  # as in a process that was spawned
    found = pickle.loads(content)[1]
    assert found.value["input_ids"].tolist() == [3, 14, 6]
    file.write_text(file.read_text().replace("else ord(letter) - 97", "else 0"))
    _, other = loaded(f"{file}:tokenizer", DataError, again=False)
    assert other("dog")["input_ids"] == [0, 0, 0], "edited"


@pytest.mark.parametrize(
    ("data", "options", "shape"),
    [
        (
            "texts.csv",
            ["--model", f"{FILE}:make_model", "--transform", f"{FILE}:tokenizer"],
            (4, 512),
        ),
        (f"{FILE}:Pairs", ["--model", f"{FILE}:make_pairs_model", "--tokens", "4"], (5, 4)),
        (f"{FILE}:volumes", ["--model", f"{FILE}:volume_model"], (3, 4, 5, 6)),
        (f"{FILE}:sounds", ["--model", f"{FILE}:sound_model"], (3, 40)),
    ],
    ids=["texts", "images-with-texts", "volumes", "sounds"],
)
def test_the_same_from_the_command_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: str,
    options: list[str],
    shape: tuple[int, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    table = pandas.DataFrame({"text": TEXTS, "label": [0, 1, 0, 0]})
    table.to_csv("texts.csv", index=False)
    line = ["map", data, *options, "--out", "maps", "--quiet", "--workers", "0"]
    assert main([*line, "--dry-run"]) == 0
    assert main(line) == 0
    store = datasets.open("maps")
    assert store.maps.shape == shape and store.index["error"].isna().all()
    assert store.plan.method == fullgrad.methods.RECOMMENDED


def test_mistakes_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pandas.DataFrame({"text": TEXTS}).to_csv("texts.csv", index=False)
    pandas.DataFrame({"text": TEXTS, "file": TEXTS}).to_csv("both.csv", index=False)
    pandas.DataFrame({"text": ["a", None]}).to_parquet("hole.parquet")
    line = ["--model", f"{FILE}:make_model", "--out", "maps"]
    for words, text in (
        (
            ["texts.csv"],
            "a sample is a str, no image, which this model's preprocessing takes: give",
        ),
        (["both.csv"], "has a column 'file' and a column 'text' (it has: text, file); one of"),
        (["hole.parquet"], "row 2 of hole.parquet: text nan is no text"),
        (["texts.csv", "--transform", f"{FILE}:TEXTS"], "is a list, no function"),
        (["texts.csv", "--transform", "x.py:x", "--mean", "0"], "--mean is about the model's own"),
        (["texts.csv", "--transform", f"{FILE}:nosuch"], "has no function 'nosuch'"),
        ([f"{FILE}:tokenizer"], "failed: TypeError: Letters.__call__() missing"),
    ):
        assert main(["map", words[0], *line, *words[1:]]) == 2
        assert text in capsys.readouterr().err
    assert not (tmp_path / "maps").exists()
    with pytest.raises(DataError, match="returned Reader, no map-style data set"):
        open_samples(f"{FILE}:make_model")

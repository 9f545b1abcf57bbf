"""Results that travel: moved, cut by sample, as tables, written to a file and read again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import LayoutError, OptionError, StoredError
from fullgrad.maps.saliency import saliency_from_decomposition
from fullgrad.maps.tokens import TokenScores, attribute_tokens


class Attention(nn.Module):
    """Patches, attention that folds samples with heads, a pooled head."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.attend, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(self.patch(x).flatten(2).transpose(1, 2))
        return self.head((z + self.attend(z, z, z)[0]).mean(1))


class Recurrent(nn.Module):
    """Time first, samples second."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.head = nn.GRU(3, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.steps(x)[0].mean(0))


def convolutional() -> nn.Module:
    conv, norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
    return nn.Sequential(
        conv, norm, nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    )


MODELS = {
    "convolutional": (convolutional, (3, 3, 8, 8), None),
    "attention": (Attention, (3, 3, 8, 8), None),
    "time first": (Recurrent, (6, 3, 3), "TBC"),
}


def made(name: str) -> tuple[nn.Module, Tensor, str | None]:
    torch.manual_seed(0)
    make, shape, layout = MODELS[name]
    return make().double(), torch.rand(shape, dtype=torch.float64), layout


def tokens() -> TokenScores:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3), nn.GELU()).double()
    return attribute_tokens(model, torch.tensor([[3, 1, 4], [1, 5, 2]]), (1, 2))


def every() -> dict[str, Any]:
    model, x, _ = made("convolutional")
    two = fullgrad.complete_map(of_two(), {"a": x, "b": x + 1}, 0)
    return {
        "decomposition": fullgrad.decompose(model, x, 1),
        "map": fullgrad.complete_map(model, x, 1),
        "maps of targets": fullgrad.complete_map(model, x, [[1, 2]]),
        "maps of inputs": two,
        "tokens": tokens(),
    }


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 5)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.one(a).relu().mean((2, 3)) + self.other(b).relu().mean((2, 3))


def of_two() -> nn.Module:
    torch.manual_seed(1)
    return Two().double()


KINDS = list(every())


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal in every bit, type and shape."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bool(torch.equal(a, b))
    if isinstance(a, (tuple, list)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (str, int, float, type(None))):
        return type(a) is type(b) and a == b
    names = getattr(a, "__dataclass_fields__", None)
    if names is None:  # a table of places
        return a.dtype == b.dtype and bool(
            (torch.as_tensor(a).nan_to_num(-7) == torch.as_tensor(b).nan_to_num(-7)).all()
        )
    return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n)) for n in names)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_is_what_was_written(kind: str, tmp_path: Path) -> None:
    result = every()[kind]
    result.save(tmp_path / "r.safetensors")
    again = type(result).load(tmp_path / "r.safetensors")
    assert same(result, again)
    again.save(tmp_path / "s.safetensors")
    assert (tmp_path / "r.safetensors").read_bytes() == (tmp_path / "s.safetensors").read_bytes()
    assert [p.name for p in tmp_path.iterdir()] != [] and len([*tmp_path.iterdir()]) == 2


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_decomposition_makes_the_same_map(name: str, tmp_path: Path) -> None:
    model, x, layout = made(name)
    d = fullgrad.decompose(model, x, 1, layout=layout)
    d.save(tmp_path / "d")
    maps = saliency_from_decomposition(fullgrad.Decomposition.load(tmp_path / "d"))
    assert torch.equal(maps, saliency_from_decomposition(d))


def test_half_and_complex_numbers_are_kept(tmp_path: Path) -> None:
    half = fullgrad.decompose(convolutional().bfloat16(), torch.rand(1, 3, 8, 8).bfloat16(), 1)
    spectral = fullgrad.decompose(
        nn.Linear(4, 2, dtype=torch.complex64),
        torch.rand(1, 4, dtype=torch.complex64),
        lambda y: y.real[:, 0],
    )
    for number, d in enumerate([half, spectral]):
        d.save(tmp_path / str(number))
        assert same(d, fullgrad.Decomposition.load(tmp_path / str(number)))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "index", [1, -1, slice(0, 2), [2, 0]], ids=["one", "last", "slice", "list"]
)
def test_samples_of_a_decomposition_are_those_explained_alone(name: str, index: Any) -> None:
    model, x, layout = made(name)
    axis = 1 if layout == "TBC" else 0
    numbers = torch.arange(3)[index].reshape(-1)
    got = fullgrad.decompose(model, x, [1, 2, 3], layout=layout).samples(index)
    alone = fullgrad.decompose(
        model, x.index_select(axis, numbers), [1 + int(n) for n in numbers], layout=layout
    )
    assert torch.equal(got.inputs[0], alone.inputs[0])
    torch.testing.assert_close(got.input_terms, alone.input_terms)
    assert [t.module for t in got] == [t.module for t in alone]
    for mine, own in zip(got, alone, strict=True):
        torch.testing.assert_close(mine.value.sum(), own.value.sum())
        torch.testing.assert_close(mine.sums, own.sums)
    assert got.target is not None and got.target.tolist() == [1 + int(n) for n in numbers]
    torch.testing.assert_close(saliency_from_decomposition(got), saliency_from_decomposition(alone))


def test_samples_of_maps_and_tokens() -> None:
    model, x, _ = made("convolutional")
    found = fullgrad.complete_map(model, x, 1)
    mask = torch.tensor([True, False, True])
    assert same(found.samples(mask).map, found.map[[0, 2]])
    assert same(
        found.samples(1).elsewhere_by_stage,
        {k: v[1:2] for k, v in found.elsewhere_by_stage.items()},
    )
    assert same(tokens().samples(-1).scores, tokens().scores[1:])


def test_samples_that_are_not_there() -> None:
    s = tokens()
    for wrong in (2, [0, 5], 0.5, "one", torch.zeros(2, 2, dtype=torch.long)):
        with pytest.raises(
            OptionError,
            match="samples must be a number from 0 to 1, a slice, a list of numbers or a mask of 2, not",
        ):
            s.samples(wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="chooses none of the 2 samples"):
        s.samples(slice(2, 2))
    whole = fullgrad.decompose(nn.Linear(4, 2), torch.ones(2, 4), 0, per_sample=False)
    with pytest.raises(
        OptionError, match="decompose with per_sample=True, or one sample at a time"
    ):
        whole.samples(0)


def test_a_term_whose_samples_are_not_known_is_refused() -> None:
    class Strange(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mixed = torch.take(x, torch.arange(12).view(3, 4).t().flatten()).exp()
            return mixed.view(4, 3).t()

    x = torch.rand(3, 4, dtype=torch.float64)
    d = fullgrad.decompose(Strange(), x, 1)
    with pytest.raises(
        LayoutError,
        match=r"exp in the model \(shape \(12,\)\).*decompose\(model, inputs\[i : i \+ 1\]\)",
    ):
        d.samples(1)
    alone = [fullgrad.decompose(Alone(), x[i : i + 1], 1) for i in range(3)]
    assert [len(a) for a in alone] == [1, 1, 1]


class Alone(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.take(x, torch.arange(x.numel()).view(len(x), 4)).exp()


def test_terms_by_module() -> None:
    d = every()["decomposition"]
    assert d["1"] == d.select("1") and len(d[""]) == len(d)
    with pytest.raises(
        OptionError, match="no bias term is in 'layer7'; those there are begin with: 0, 1, 2, 5"
    ):
        d["layer7"]
    with pytest.raises(
        OptionError, match=r"samples\(0\) is the first sample, bias_terms\[0\] the first term"
    ):
        d[0]
    assert len(d.samples(0).output) == 1 and d.bias_terms[0].op


@pytest.mark.parametrize("kind", KINDS)
def test_moved_results(kind: str) -> None:
    result = every()[kind]
    assert same(result, result.cpu())
    half = result.to(dtype=torch.float32)
    assert same(half.residual, result.residual) and same(half.output, result.output)
    cast = {"decomposition": "inputs", "tokens": "scores"}.get(kind, "maps")
    found = getattr(half, cast)
    assert {t.dtype for t in (found if isinstance(found, tuple) else (found,))} == {torch.float32}
    if kind == "decomposition":
        assert {t.gradient.dtype for t in half} == {torch.float32} and half.bias_terms[
            0
        ].sums.dtype == torch.float64
    assert result.to("meta").output.device.type == "meta"
    with pytest.raises(
        OptionError, match=r"dtype must be a type of floats, such as torch.float32, not torch.int64"
    ):
        result.to(dtype=torch.int64)


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_a_table_sum_to_the_output(kind: str) -> None:
    result = every()[kind]
    table = result.to_pandas()
    by = ["sample", "target"] if "target" in table else ["sample"]
    sums = torch.tensor(table.groupby(by)["value"].sum().tolist(), dtype=torch.float64).view(
        result.output.shape
    )
    torch.testing.assert_close(sums.double(), result.output)
    data = result.to_xarray()
    parts = [data[name].sum({*data[name].dims} - {*by}) for name in data if name != "output"]
    torch.testing.assert_close(
        torch.tensor(sum(parts).values.tolist(), dtype=torch.float64), result.output
    )


def test_columns_and_axes() -> None:
    _, x, _ = made("convolutional")
    found = every()
    assert list(found["map"].to_pandas().columns) == ["sample", "part", "name", "y", "x", "value"]
    table = found["maps of targets"].to_pandas()
    row = table[
        (table["sample"] == 2) & (table["target"] == 1) & (table["y"] == 3) & (table["x"] == 5)
    ]
    assert row["value"].item() == found["maps of targets"].map[2, 1, 3, 5].item()
    assert found["maps of targets"].to_xarray()["input"].dims == ("sample", "target", "y", "x")
    assert found["maps of inputs"].to_xarray()["a"].dims == ("sample", "y_a", "x_a")
    named = fullgrad.complete_map(Named(), {"output": x}, 1).to_xarray()
    assert named["map_output"].dims == ("sample", "y", "x") and named["output"].dims == ("sample",)
    words = found["tokens"].to_pandas([["a", "b", "c"], ["d", "e", "f"]])
    assert words[(words["sample"] == 1) & (words["part"] == "bias")]["token"].tolist() == [
        "d",
        "e",
        "f",
    ]
    with pytest.raises(fullgrad.FullGradError, match="tokens must be 2 lists of 3 words"):
        found["tokens"].to_pandas([["a"], ["b"]])
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3))
    deep = attribute_tokens(model, torch.tensor([[[3, 1], [4, 1]]]), lambda y: y[:, 0, 0, 1])
    assert list(deep.to_pandas().columns) == ["sample", "part", "sentence", "position", "value"]
    with pytest.raises(
        fullgrad.FullGradError, match=r"tokens= is for ids of shape \(batch, tokens\): leave"
    ):
        deep.to_pandas([["a", "b"]])


class Named(nn.Module):
    def forward(self, output: Tensor) -> Tensor:
        return output.mean((2, 3))


def test_files_that_are_no_results(tmp_path: Path) -> None:
    path = tmp_path / "r"
    with pytest.raises(StoredError, match=r"there is no file .*r$"):
        TokenScores.load(path)
    path.write_text("hello")
    with pytest.raises(StoredError, match="is not a stored result, or is damaged"):
        TokenScores.load(path)
    save_file({"w": torch.ones(2)}, path)
    with pytest.raises(
        StoredError, match="was not written by fullgrad: it is safetensors of something else"
    ):
        TokenScores.load(path)
    tokens().save(path)
    with pytest.raises(
        StoredError, match=r"holds a TokenScores, not a CompleteMap: use TokenScores.load"
    ):
        fullgrad.CompleteMap.load(path)
    assert same(TokenScores.load(path), tokens())
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    with pytest.raises(StoredError, match="is not a stored result, or is damaged"):
        TokenScores.load(path)
    with pytest.raises(StoredError, match=r"cannot write .*none.*: No such file or directory"):
        tokens().save(tmp_path / "none" / "r")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"schema": 2, "version": "9.9"},
            r"has schema 2, of fullgrad 9\.9; this one, .*, reads schema 1",
        ),
        ({"objects": []}, "is damaged: IndexError"),
        ({"result": {"tensor": "t0"}}, "is damaged: it says TokenScores, and holds something else"),
        ({"result": {"code": "t0"}}, "is damaged: KeyError"),
        ({"objects": [{"class": "Module", "fields": {}}]}, "is damaged: KeyError: 'Module'"),
        ({"objects": [{"class": "TokenScores", "fields": {}}]}, "is damaged: TypeError"),
    ],
    ids=["schema", "lost", "another", "unknown", "class", "fields"],
)
def test_headers_that_do_not_fit(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    from safetensors import safe_open

    tokens().save(tmp_path / "r")
    with safe_open(tmp_path / "r", "pt") as file:
        header, tensors = (
            json.loads(file.metadata()["fullgrad"]),
            {k: file.get_tensor(k) for k in file.keys()},
        )
    save_file(tensors, tmp_path / "r", {"fullgrad": json.dumps({**header, **change})})
    with pytest.raises(StoredError, match=says):
        TokenScores.load(tmp_path / "r")


def test_infinite_numbers_are_kept(tmp_path: Path) -> None:
    from dataclasses import replace

    odd = replace(tokens(), tolerance=math.inf, elsewhere=torch.tensor([math.nan, -0.0]))
    odd.save(tmp_path / "r")
    again = TokenScores.load(tmp_path / "r")
    assert again.tolerance == math.inf and torch.signbit(again.elsewhere)[1]

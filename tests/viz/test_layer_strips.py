"""A strip of layers says what each stage adds, and its file is read back or refused."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from torch import nn

import fullgrad
from drawn import HOSTILE, Net, legible, outside, ramp, texts
from fullgrad.errors import InputError
from fullgrad.viz.layers import NO_MAP, Layer, layer_strip, layers_of, packed, unpacked


def test_the_layers_of_a_decomposition(decomposition: fullgrad.Decomposition) -> None:
    layers = layers_of(decomposition, sample=1)
    maps = fullgrad.layer_maps(decomposition)
    sums = decomposition.by_module(1)
    assert [s.name for s in layers] == [name or "(model)" for name in sums]
    assert [s.sum for s in layers] == [float(v[1]) for v in sums.values()]
    for layer in layers:
        key = "" if layer.name == "(model)" else layer.name
        if key in maps:
            np.testing.assert_array_equal(layer.map, maps[key][1, 0].numpy())
        else:
            assert layer.map is None
    assert next(s for s in layers if s.name == "head").map is None
    figure = layer_strip(layers, float(decomposition.output[1]), "class 1")
    legible(figure)
    assert NO_MAP in texts(figure)
    said = " ".join(texts(figure)).replace("\n", " ")
    assert "Brightness cannot be compared between stages" in said
    signed = layers_of(decomposition, psi="signed")
    legible(layer_strip(signed, float(decomposition.output[0]), sign=True))


@pytest.mark.parametrize(("count", "sign"), [(1, False), (2, True), (7, True), (300, False)])
def test_a_strip_of_any_length(count: int, sign: bool) -> None:
    layers = [Layer(f"blocks.{i}", (-1.0) ** i * i, ramp(4, 4) - 0.5) for i in range(count)]
    figure = layer_strip(layers, 3.0, "title", sign=sign)
    assert outside(figure) == []
    said = " ".join(texts(figure)).replace("\n", " ")
    assert ("252 more stages with smaller sums" in said) == (count == 300)
    if count == 300:
        assert "blocks.299" in texts(figure)
        assert "blocks.3" not in texts(figure)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_strip_with_any_names(name: str) -> None:
    maps = (ramp(2, 40), np.zeros((2, 40)), None, ramp(1, 1))
    legible(layer_strip([Layer(name, 1.0, m) for m in maps], 0.0, name))


def test_no_strip(decomposition: fullgrad.Decomposition) -> None:
    with pytest.raises(InputError, match="at least one stage"):
        layer_strip([], 1.0)
    with pytest.raises(InputError, match="must be finite"):
        layer_strip([Layer("a", math.nan)], 1.0)
    with pytest.raises(ValueError, match="at least one panel is needed, not 0"):
        layer_strip([Layer("a", 1.0)], 1.0, most=0)
    flat = fullgrad.decompose(nn.Linear(4, 2), torch.randn(1, 4), 0)
    with pytest.raises(InputError, match="one input of shape"):
        layers_of(flat)
    whole = fullgrad.decompose(Net(), torch.randn(2, 3, 9, 9), 1, per_sample=False)
    with pytest.raises(InputError, match="leave per_sample=True"):
        layers_of(whole)


def test_layers_in_a_file() -> None:
    layers = (Layer("a", 1.5, ramp()), Layer("ünï", -2.0), Layer("c", 0.0, ramp() * 2))
    again = unpacked(packed(layers))
    assert [(s.name, s.sum) for s in again] == [(s.name, s.sum) for s in layers]
    assert again[1].map is None
    np.testing.assert_allclose(again[2].map, layers[2].map, rtol=1e-6)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least one stage"):
        packed([])
    with pytest.raises(InputError, match="must be of one size"):
        packed([Layer("a", 1.0, ramp()), Layer("b", 1.0, ramp(2, 2))])


def file_of(**arrays: object) -> bytes:
    with io.BytesIO() as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
        return file.getvalue()


GOOD = {
    "names": np.array(["a"]),
    "sums": np.array([1.0]),
    "places": np.array([0]),
    "maps": np.ones((1, 2, 2)),
}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a file of layers"),
        (b"x" * 100, "not a file of layers"),
        (file_of(names=np.array(["a"])), "not a file of layers: KeyError"),
        (file_of(**GOOD)[:-40], "not a file of layers"),
        (file_of(**(GOOD | {"places": np.array([7])})), "maps of no stage"),
        (file_of(**(GOOD | {"sums": np.array([np.nan])})), "names or sums that are not valid"),
        (file_of(**(GOOD | {"maps": np.full((1, 2, 2), np.inf)})), "NaN or infinite"),
        (file_of(**(GOOD | {"names": np.array([{}], object)})), "not a file of layers: ValueError"),
    ],
)
def test_a_damaged_file_of_layers(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        unpacked(content)


def test_a_file_of_layers_that_unpacks_to_too_much() -> None:
    with io.BytesIO() as file:
        np.savez_compressed(file, **(GOOD | {"maps": np.zeros((30, 1000, 1000))}))
        with pytest.raises(InputError, match="holds more than 200 MB"):
            unpacked(file.getvalue())

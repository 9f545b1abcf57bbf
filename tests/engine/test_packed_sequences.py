"""Recurrent layers over sequences of several lengths; packing is a mere rearrangement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import fullgrad
from recurrent import (
    HIDDEN,
    SAMPLES,
    STEPS,
    assert_same_terms,
    directions,
    kinds,
    layer,
    model,
    series,
    unrolled,
)
from snippets import Snippet

LENGTHS = torch.tensor([4, 6, 2])


def packing(first: bool = True, ends: bool = False, alter: bool = False) -> Callable[..., Tensor]:
    def run(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
        x = x if first else x.transpose(0, 1)
        packed = pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=False)
        if alter:
            packed = PackedSequence(packed.data * 1, *packed[1:])
        y, states = m.l(packed)
        if ends:
            return m.fc(sum(s[-1] for s in (states if isinstance(states, tuple) else (states,))))
        y, _ = pad_packed_sequence(y, batch_first=first)
        return m.fc((y if first else y.transpose(0, 1)).cumsum(1).sum(1))

    return run


def alone(m: Snippet, ends: bool) -> Callable[..., Tensor]:
    def run(m: Any, x: Tensor) -> Tensor:
        y, states = m.l(x if m.l.batch_first else x.transpose(0, 1))
        if ends:
            return m.fc(sum(s[-1] for s in (states if isinstance(states, tuple) else (states,))))
        y = y if m.l.batch_first else y.transpose(0, 1)
        weights = torch.arange(STEPS, STEPS - y.shape[1], -1, dtype=x.dtype)
        return m.fc((y * weights.view(1, -1, 1)).sum(1))

    return run


@kinds
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("ends", [False, True])
def test_packed_terms_are_those_of_each_sequence_alone(
    kind: str, layers: int, bidirectional: bool, first: bool, ends: bool
) -> None:
    recurrent = layer(kind, num_layers=layers, bidirectional=bidirectional, batch_first=first)
    x = series()
    m = model(packing(first, ends), recurrent)
    if ends:
        m = Snippet(packing(first, ends), HIDDEN, l=recurrent)
    ours = fullgrad.decompose(m, x, 1, additional_forward_args=(LENGTHS,))
    assert float(ours.relative_residual.max()) < 1e-12
    for i, length in enumerate(LENGTHS.tolist()):
        m.run = alone(m, ends)
        with unrolled():
            theirs = fullgrad.decompose(m, x[i : i + 1, :length], 1)
        torch.testing.assert_close(ours.output[i : i + 1], theirs.output)
        gradient = ours.input_gradients[0][i : i + 1]
        torch.testing.assert_close(gradient[:, :length], theirs.input_gradients[0])
        assert not gradient[:, length:].any()
        for k, (a, b) in enumerate(zip(directions(ours), directions(theirs), strict=True)):
            mine = [Slice(t, i) for t in a]
            assert not any(t.value[length:].any() for t in mine)
            for t in mine:
                t.cut(length)
            assert_same_terms(kind, mine, b, bidirectional and k % 2 == 1)


class Slice:
    """A term of one sequence among several."""

    def __init__(self, term: Any, place: int) -> None:
        self.op = term.op
        self.value = term.value.view(STEPS, SAMPLES, -1)[:, place : place + 1]

    def cut(self, length: int) -> None:
        self.value = self.value[:length]
        self.shape = self.value.shape


@kinds
@pytest.mark.parametrize("padding", [0.0, 1.5])
def test_packed_rows_that_are_changed_or_padded(kind: str, padding: float) -> None:
    def run(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        packed = PackedSequence(torch.tanh(packed.data), *packed[1:])
        state = torch.tanh(x[:, 0, :HIDDEN]).unsqueeze(0)
        y, _ = m.l(packed, (state, state) if isinstance(m.l, nn.LSTM) else state)
        y = PackedSequence(y.data * 2, *y[1:])
        y, n = pad_packed_sequence(
            y, batch_first=True, padding_value=padding, total_length=STEPS + 2
        )
        assert y.shape == (SAMPLES, STEPS + 2, HIDDEN)
        assert torch.equal(n, lengths)
        return m.fc(y.mean(1))

    m, x, lengths = model(run, layer(kind)), series(), torch.tensor([3, 5, 2])
    d = fullgrad.decompose(m, x, 1, additional_forward_args=(lengths,))
    leaf = x.clone().requires_grad_()
    output = m(leaf, lengths)[:, 1]
    (gradient,) = torch.autograd.grad(output.sum(), leaf)
    torch.testing.assert_close(d.output, output.detach())
    torch.testing.assert_close(d.input_gradients[0], gradient)
    assert ("where" in [t.op for t in d]) == bool(padding)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "tanh"])
@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("unsorted", [False, True])
def test_packed_maps_are_those_of_each_sequence_alone(
    kind: str, ends: bool, unsorted: bool
) -> None:
    lengths = LENGTHS if unsorted else LENGTHS.sort(descending=True).values
    m = model(packing(True, ends), layer(kind, batch_first=True))
    ours = fullgrad.saliency(
        m, series(), 1, additional_forward_args=(lengths,), layout="BTC", terms="implicit"
    )
    for i, length in enumerate(lengths.tolist()):
        m.run = alone(m, ends)
        theirs = fullgrad.saliency(
            m, series()[i : i + 1, :length], 1, layout="BTC", terms="implicit"
        )
        torch.testing.assert_close(ours[i : i + 1, :, :length], theirs, rtol=1e-9, atol=1e-10)
        assert not ours[i, :, length:].any()


def test_what_is_wrong_with_lengths_is_what_pytorch_says() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.l(pack_padded_sequence(x, torch.tensor([1, 2, 3]), batch_first=True))[0].data

    with pytest.raises(RuntimeError, match=r"lengths.* must be sorted in decreasing order"):
        fullgrad.decompose(model(run, layer("GRU")), series(), 1)

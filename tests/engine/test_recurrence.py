"""Recurrent layers: all steps at once, term by term what unrolling gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from snippets import Snippet, assert_exact, batch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import fullgrad
from fullgrad.engine import pipeline

INPUTS, HIDDEN, STEPS, SAMPLES = 5, 4, 6, 3
LENGTHS = torch.tensor([4, 6, 2])
KINDS = {
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "tanh": nn.RNN,
    "relu": lambda *a, **o: nn.RNN(*a, nonlinearity="relu", **o),
}
kinds = pytest.mark.parametrize("kind", KINDS)
# Of the values that one step makes, in order of execution.
ROLES = {
    "LSTM": ["hidden", "sigmoid", "sigmoid", "tanh", "sigmoid", "mul", "mul", "tanh", "mul"],
    "GRU": ["hidden", "sigmoid", "sigmoid", "mul", "tanh", "sub", "mul"],
    "tanh": ["hidden", "tanh"],
    "relu": ["hidden"],
}


@contextmanager
def unrolled() -> Iterator[None]:
    """Recurrent layers step by step, as PyTorch unrolls them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "Recurrence", lambda recorder: nullcontext())
        yield


def layer(kind: str, **options: Any) -> nn.Module:
    torch.manual_seed(3)
    return KINDS[kind](INPUTS, HIDDEN, **options)


def model(run: Callable[..., Any], recurrent: nn.Module, **parts: Any) -> Snippet:
    width = (getattr(recurrent, "proj_size", 0) or HIDDEN) * (1 + recurrent.bidirectional)
    return Snippet(run, width, l=recurrent, **parts)


def series() -> Tensor:
    return batch(SAMPLES, STEPS, INPUTS)


def mean(m: Any, x: Tensor) -> Tensor:
    y = m.l(x if m.l.batch_first else x.transpose(0, 1))[0]
    return m.fc((y if m.l.batch_first else y.transpose(0, 1)).cumsum(1).mean(1))


def directions(d: Any) -> list[list[Any]]:
    """The terms of each layer and direction; each begins with its input's projection."""
    samples = len(d.output)
    found: list[list[Any]] = []
    for term in d.select("l"):
        if term.op == "add" or (len(term.shape) == 2 and term.shape[0] > samples):
            found.append([])
        found[-1].append(term)
    return found


def role(op: str) -> str:
    op = op.removesuffix("_")
    return "hidden" if op in ("add", "addmm") else op


def steps_of(terms: list[Any], reverse: bool) -> list[dict[str, list[Tensor]]]:
    """The unrolled terms of each step by role, in the order of the sequence."""
    steps: list[dict[str, list[Tensor]]] = [{}]
    for term in terms:
        if term.op == "addmm" and steps[-1]:
            steps.append({})
        steps[-1].setdefault(role(term.op), []).append(term.value)
    return steps[::-1] if reverse else steps


def assert_same_terms(kind: str, ours: list[Any], theirs: list[Any], reverse: bool) -> None:
    """Terms of one layer and direction: a slice of ours is the unrolled step's term."""
    first, other = ours[0].value, theirs[0].value
    shape = ours[1].shape[:2]
    torch.testing.assert_close(first.view(*shape, -1), other.view(*shape, -1), rtol=0, atol=1e-10)
    steps = steps_of(theirs[1:], reverse)
    assert len(steps) == shape[0]
    for t, step in enumerate(steps):
        start = t == (len(steps) - 1 if reverse else 0)
        mine: dict[str, list[Tensor]] = {}
        for term in ours[1:]:
            mine.setdefault(role(term.op), []).append(term.value[t])
        for name in {*mine, *step}:
            here, there = mine.get(name, []), step.get(name, [])
            if name == "hidden" and len(there) > 1:  # one for each gate, the last one constant
                rest = torch.zeros_like(there[0])
                there = [torch.cat([*there, rest], 1)]
            if len(here) != len(there):  # where a constant state starts, a product has no bias
                assert start or name == "sub", (t, name)
                here = [v for v in here if v.any()]
                there = [v for v in there if v.any()]
            assert len(here) == len(there), (t, name)
            for a, b in zip(here, there, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def compare(kind: str, m: nn.Module, x: Tensor, **options: Any) -> tuple[Any, Any]:
    ours = assert_exact(m, x, **options)
    with unrolled():
        theirs = assert_exact(m, x, **options)
    mine, reference = directions(ours), directions(theirs)
    assert len(mine) == len(reference) == m.l.num_layers * (1 + m.l.bidirectional)
    for k, (a, b) in enumerate(zip(mine, reference, strict=True)):
        assert_same_terms(kind, a, b, m.l.bidirectional and k % 2 == 1)
    torch.testing.assert_close(ours.input_gradients, theirs.input_gradients, rtol=0, atol=1e-10)
    return ours, theirs


@kinds
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_terms_are_those_of_the_unrolled_steps(
    kind: str, layers: int, bidirectional: bool, batch_first: bool
) -> None:
    options = {"num_layers": layers, "bidirectional": bidirectional, "batch_first": batch_first}
    ours, _ = compare(kind, model(mean, layer(kind, **options)), series())
    for terms in directions(ours):
        assert [role(t.op) for t in terms[1:]] == [r for r in ROLES[kind] if r != "sub"]
        assert all(t.shape[:2] == (STEPS, SAMPLES) and t.batch_axis == 1 for t in terms[1:])
    assert len(ours) <= (1 + len(ROLES[kind])) * layers * (1 + bidirectional) + 1
    assert ours.general_path == ()


@kinds
def test_one_step_and_one_sample(kind: str) -> None:
    m = model(mean, layer(kind, batch_first=True))
    ours = assert_exact(m, series()[:1, :1])
    with unrolled():
        theirs = assert_exact(m, series()[:1, :1])
    mine, reference = (
        [v for t in d.select("l") if (v := t.value.flatten()).any()] for d in (ours, theirs)
    )
    assert len(mine) == 1 + len(ROLES[kind]) - {"LSTM": 2, "GRU": 2}.get(kind, 0)
    if kind != "GRU":  # whose constant part comes gate by gate
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-10)
    torch.testing.assert_close(ours.bias_sums, theirs.bias_sums, rtol=0, atol=1e-10)


def test_a_projected_state() -> None:
    for options in ({}, {"num_layers": 2, "bidirectional": True}):
        compare("LSTM", model(mean, layer("LSTM", proj_size=3, **options)), series())


@kinds
def test_no_biases(kind: str) -> None:
    m = model(mean, layer(kind, bias=False))
    ours = assert_exact(m, series())
    with unrolled():
        theirs = assert_exact(m, series())
    assert {t.op for t in ours.select("l")}.isdisjoint({"add", "addmm"})
    torch.testing.assert_close(ours.bias_sums, theirs.bias_sums, rtol=0, atol=1e-10)


# -- initial states -----------------------------------------------------------------------------


def with_states(h: str, c: str) -> Callable[..., Tensor]:
    def state(m: Any, x: Tensor, how: str, number: float) -> Tensor:
        if how == "constant":
            return torch.full((1, len(x), HIDDEN), number, dtype=x.dtype)
        if how == "learned":
            return m.start.expand(1, len(x), HIDDEN)
        return torch.tanh(x[:, 0, :HIDDEN] * number).unsqueeze(0)

    def run(m: Any, x: Tensor) -> Tensor:
        first, second = state(m, x, h, 0.7), state(m, x, c, -0.4)
        states = (first, second) if isinstance(m.l, nn.LSTM) else first
        return m.fc(m.l(x, states)[0].cumsum(1).mean(1))

    return run


@kinds
@pytest.mark.parametrize("h", ["constant", "learned", "dependent"])
@pytest.mark.parametrize("c", ["constant", "learned", "dependent"])
def test_initial_states(kind: str, h: str, c: str) -> None:
    if kind != "LSTM" and c != "constant":
        pytest.skip("the cell has one state")
    start = nn.Parameter(torch.linspace(-1, 1, HIDDEN))
    m = model(with_states(h, c), layer(kind, batch_first=True), start=start)
    ours, _ = compare(kind, m, series())
    assert ("sub" in [t.op for t in ours]) == (kind == "GRU" and h != "dependent")


def last_states(m: Any, x: Tensor) -> Tensor:
    _, states = m.l(x)
    states = states if isinstance(states, tuple) else (states,)
    return m.fc(sum((k + 1) * s[-1] * s[0] for k, s in enumerate(states)))


@kinds
@pytest.mark.parametrize("bidirectional", [False, True])
def test_states_that_the_last_steps_leave(kind: str, bidirectional: bool) -> None:
    recurrent = layer(kind, num_layers=2, bidirectional=bidirectional, batch_first=True)
    m = Snippet(last_states, HIDDEN, l=recurrent)
    compare(kind, m, series())


@kinds
def test_states_go_on_into_a_second_use_of_the_layer(kind: str) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        first, states = m.l(x[:, :2])
        second, _ = m.l(x[:, 2:], states)
        return m.fc(first.sum(1) + second[:, -1])

    m = model(run, layer(kind, batch_first=True))
    ours, parts = assert_exact(m, series()), 2
    assert len(directions(ours)) == parts
    whole = assert_exact(
        model(lambda m, x: m.fc((y := m.l(x)[0])[:, :2].sum(1) + y[:, -1]), m.l), series()
    )
    torch.testing.assert_close(ours.input_gradients, whole.input_gradients)
    for k, (a, b) in enumerate(zip(*directions(ours), strict=False)):
        if k == 0 or a.op == "addmm":
            joined = torch.cat([a.value, b.value])
            torch.testing.assert_close(joined, directions(whole)[0][k].value, rtol=0, atol=1e-10)


@kinds
def test_only_the_last_step_is_used(kind: str) -> None:
    compare(
        kind, model(lambda m, x: m.fc(m.l(x)[0][:, -1]), layer(kind, batch_first=True)), series()
    )


@kinds
def test_samples_are_those_explained_alone(kind: str) -> None:
    m, x = model(mean, layer(kind, num_layers=2, bidirectional=True)), series()
    together = fullgrad.decompose(m, x, 1)
    for i in range(SAMPLES):
        alone = fullgrad.decompose(m, x[i : i + 1], 1)
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a.sums[i : i + 1], b.sums, rtol=1e-10, atol=1e-12)


def test_one_sequence_without_a_batch_axis() -> None:
    m = model(lambda m, x: m.fc(m.l(x[0])[0][-1:]), layer("LSTM"))
    compare("LSTM", m, series()[:1])


# -- maps ---------------------------------------------------------------------------------------


def without_hidden_bias(m: nn.Module) -> nn.Module:
    """The unrolled hidden product lies where its state does, a step before; ours at its step."""
    with torch.no_grad():
        for name, parameter in m.named_parameters():
            if "bias_hh" in name:
                parameter.zero_()
    return m


@kinds
@pytest.mark.parametrize("psi", ["layer", "channel", "signed"])
def test_maps_are_those_of_the_unrolled_steps(kind: str, psi: Any) -> None:
    recurrent = layer(kind, num_layers=2, bidirectional=True, batch_first=True)
    m = without_hidden_bias(model(mean, recurrent))
    ours = fullgrad.saliency(m, series(), 1, layout="BTC", psi=psi)
    with unrolled():
        theirs = fullgrad.saliency(m, series(), 1, layout="BTC", psi=psi)
    assert ours.shape == (SAMPLES, 1, STEPS)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("psi", ["layer", "channel", "signed"])
@pytest.mark.parametrize("padded", [False, True])
def test_maps_of_a_recurrence_over_the_rows_of_a_picture(psi: Any, padded: bool) -> None:
    def run(m: Any, x: Tensor) -> Tensor:  # each column is a sequence of its own
        columns = nn.functional.pad(x.permute(2, 0, 3, 1), [0] * 6 + [int(padded), 0])
        y = m.l(columns.flatten(1, 2))[0]
        return m.fc(torch.tanh(y).unflatten(1, columns.shape[1:3]).mean((0, 2)))

    m, x = without_hidden_bias(model(run, layer("GRU"))), batch(2, INPUTS, 4, 3)
    ours = fullgrad.saliency(m, x, 1, psi=psi)
    with unrolled():
        theirs = fullgrad.saliency(m, x, 1, psi=psi)
    assert ours.shape == (2, 1, 4, 3)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


# -- sequences of several lengths ---------------------------------------------------------------


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
            mine = [Slice(t, sorted(range(SAMPLES), key=lambda j: -LENGTHS[j]).index(i)) for t in a]
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

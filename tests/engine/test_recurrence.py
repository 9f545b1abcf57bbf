"""Recurrent layers: all steps at once, term by term what unrolling gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from recurrent import (
    HIDDEN,
    INPUTS,
    ROLES,
    SAMPLES,
    STEPS,
    compare,
    directions,
    kinds,
    layer,
    mean,
    model,
    role,
    series,
    unrolled,
)
from snippets import Snippet, assert_exact, batch


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

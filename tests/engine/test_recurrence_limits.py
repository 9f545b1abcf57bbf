"""What stays unrolled, what a layer's surroundings may do, and what is refused."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fullgrad
from fullgrad.errors import BlockedGradientError, CompletenessError, ModelError
from fullgrad.operations import cells
from recurrent import HIDDEN, kinds, layer, mean, model, series
from snippets import assert_exact

# -- what stays as it was -----------------------------------------------------------------------


def steps_run_at_once(m: nn.Module, x: Tensor, **options: Any) -> bool:
    d = assert_exact(m, x, **options)
    return any(len(t.shape) == 3 and t.op in ("sigmoid", "tanh") for t in d)


def test_the_model_is_given_back_as_it_was() -> None:
    m = model(mean, layer("LSTM", num_layers=2, dropout=0.5)).train()
    state = {n: t.clone() for n, t in m.state_dict().items()}
    switches = torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()
    fullgrad.saliency(m, series(), 1, layout="BTC")
    assert m.training
    assert m.l.training
    assert (torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()) == switches
    assert all(torch.equal(t, state[n]) for n, t in m.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in m.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in m.modules())


def test_dropout_between_layers_is_unrolled() -> None:
    m = model(mean, layer("GRU", num_layers=2, dropout=0.5)).train()
    d = fullgrad.decompose(m, series()[:1], 1, mode="as_is")
    assert float(d.relative_residual.max()) < 1e-12
    assert all(len(t.shape) == 2 for t in d if t.op.startswith("sigmoid"))
    m.eval()
    assert steps_run_at_once(m, series(), mode="as_is")


def test_a_sequence_that_does_not_depend_is_unrolled() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        state = torch.tanh(x[:, 0, :HIDDEN]).unsqueeze(0)
        return m.fc(m.l(torch.ones_like(x), (state, state))[0][:, -1])

    assert not steps_run_at_once(model(run, layer("LSTM", batch_first=True)), series())


def test_checkpointed_layers_are_unrolled() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.fc(checkpoint(lambda x: m.l(x)[0][:, -1], x, use_reentrant=False))

    assert not steps_run_at_once(model(run, layer("LSTM", batch_first=True)), series())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_unrolled(dtype: torch.dtype) -> None:
    m, x = model(mean, layer("GRU")).to(dtype), series().to(dtype)
    d = fullgrad.decompose(m, x, 1)
    assert all(len(t.shape) == 2 for t in d if t.op.startswith("sigmoid"))


def test_weights_computed_from_the_input_are_unrolled() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        weights = [w * x.mean() for w in m.l._flat_weights]
        start = x.new_zeros(1, 1, HIDDEN)
        return m.fc(torch.gru(x, start, weights, True, 1, 0.0, False, False, True)[0][:, -1])

    assert not steps_run_at_once(model(run, layer("GRU")), series()[:1])


# -- writes and values outside the graph --------------------------------------------------------


@kinds
def test_outputs_may_be_overwritten(kind: str) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y, states = m.l(x)
        y[:, 0] = 0
        y.mul_(2).add_(1)
        (states[0] if isinstance(states, tuple) else states).zero_()
        return m.fc(y.mean(1))

    assert_exact(model(run, layer(kind, batch_first=True)), series())


def test_weights_that_are_overwritten_meanwhile_are_refused() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.l(x)[0]
        with torch.no_grad():
            m.l.weight_hh_l0.mul_(2)
        return m.fc(y[:, -1])

    m = model(run, layer("LSTM", batch_first=True))
    kept = m.l.weight_hh_l0.detach().clone()
    with pytest.raises(ModelError, match="overwrites in-place a value that its gradient"):
        fullgrad.decompose(m, series(), 1)
    assert torch.equal(m.l.weight_hh_l0, kept)


def test_a_state_that_left_the_graph_is_refused() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        state = torch.tanh(x[:, 0, :HIDDEN]).detach().unsqueeze(0)
        return m.fc(m.l(x, state)[0][:, -1])

    m = model(run, layer("GRU", batch_first=True))
    with pytest.raises(BlockedGradientError, match="leave the autograd graph"):
        fullgrad.decompose(m, series(), 1)
    fullgrad.decompose(m, series(), 1, detached="constant")


@kinds
def test_a_wrong_bias_is_found_and_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = {"tanh": "rnn_tanh", "relu": "rnn_relu"}.get(kind, kind.lower())
    cell = cells.CELLS[name]
    whole = cell._hidden_bias
    monkeypatch.setattr(cell, "_hidden_bias", lambda self: whole(self) * 1.5)
    m = model(mean, layer(kind))
    with pytest.raises(CompletenessError, match=rf"l: {cell.__name__.lower()}, relative"):
        fullgrad.decompose(m, series(), 1)


def test_what_was_recorded_is_freed() -> None:
    m = model(mean, layer("LSTM"))
    fullgrad.decompose(m, series(), 1)
    gc.collect()
    gc.disable()
    try:
        before = sum(type(o) is cells.LSTM for o in gc.get_objects())
        fullgrad.saliency(m, series(), 1, layout="BTC")
        assert sum(type(o) is cells.LSTM for o in gc.get_objects()) == before == 0
    finally:
        gc.enable()

"""Fused cells of recurrent layers, which have no forward mode: the same in plain operations."""

from __future__ import annotations

import torch
from torch import Tensor

from fullgrad.axes.algebra import fresh, with_groups
from fullgrad.axes.broadcasting import combined
from fullgrad.operations.propagation import Answer, Propagation
from fullgrad.operations.registry import put


def _cell_axes(p: Propagation) -> Answer:
    """A state lies where what the cell reads does: its step's input, and the state before."""
    gates = p.call.args[:3]  # of the input, of the state; the state
    if p.lost(gates):
        return None
    known = [a for v in gates if (a := p.axes_of(v)) is not None]
    width = fresh(p.shape[1])
    axes = combined([with_groups(a, [a.groups[0], width]) for a in known], p.shape, p.bindings)
    return [axes] * (len(p.call.outputs) - 1) + [None]  # the last is kept for the gradient


def _lstm_cell(
    igates: Tensor,
    hgates: Tensor,
    cx: Tensor,
    b_in: Tensor | None = None,
    b_h: Tensor | None = None,
) -> tuple[Tensor, ...]:
    gates = igates + hgates
    for b in (b_in, b_h):
        gates = gates if b is None else gates + b
    i, f, g, o = gates.chunk(4, 1)
    cy = torch.sigmoid(f) * cx + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cy), cy


put("_thnn_fused_lstm_cell", axes=_cell_axes, equivalent=_lstm_cell, family="recurrent")


def _gru_cell(
    igates: Tensor,
    hgates: Tensor,
    hx: Tensor,
    b_in: Tensor | None = None,
    b_h: Tensor | None = None,
) -> tuple[Tensor, ...]:
    igates = igates if b_in is None else igates + b_in
    hgates = hgates if b_h is None else hgates + b_h
    (ir, iz, inew), (hr, hz, hnew) = igates.chunk(3, 1), hgates.chunk(3, 1)
    z = torch.sigmoid(iz + hz)
    new = torch.tanh(inew + torch.sigmoid(ir + hr) * hnew)
    return (new + z * (hx - new),)


put("_thnn_fused_gru_cell", axes=_cell_axes, equivalent=_gru_cell, family="recurrent")

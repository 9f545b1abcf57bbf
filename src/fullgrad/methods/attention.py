"""Attention rollout and gradient times attention, for models of softmax self-attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad.axes.layouts import ActivationLayouts, InputLayout
from fullgrad.axes.placement import arranged, on_grid
from fullgrad.methods._attention_record import AttentionMatrix, AttentionRecord
from fullgrad.methods.activations import Recording, stretched
from fullgrad.methods.registry import Method


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """What is known of the model.

    Args:
        activation_layouts: layouts of activations that axis propagation cannot follow; see
            :func:`fullgrad.saliency`.
    """

    activation_layouts: ActivationLayouts | None = None


def attention_rollout(
    model: nn.Module,
    inputs: Tensor,
    target: Any,
    *,
    additional_forward_args: Any = None,
    layout: InputLayout = None,
    activation_layouts: ActivationLayouts | None = None,
) -> Tensor:
    """The product of all layers' attention, half of it passed on by the shortcut.

    With A the mean over heads, R = prod (A + I) / 2 (rows sum to one), the last layer first. The
    map is the row of the class token where the model reads that alone, else the mean over the
    tokens that it reads: those at which the last layer's attention has a gradient. What a class
    token gets itself is left out. The explained output matters only for that choice.

    Returns:
        Shape (B, 1, *positions), nothing negative.

    Raises:
        MethodError: attention in windows, over other tokens, or no softmax; names the module.
    """
    matrices, size = _matrices(
        "attention_rollout",
        model,
        inputs,
        target,
        additional_forward_args,
        layout,
        activation_layouts,
    )
    rows = _read_rows(matrices[-1])
    for m in reversed(matrices):
        rows = (rows @ m.weights.mean(1) + rows) / 2
    return _drawn(rows, matrices[-1], size)


def gradient_x_attention(
    model: nn.Module,
    inputs: Tensor,
    target: Any,
    *,
    additional_forward_args: Any = None,
    layout: InputLayout = None,
    activation_layouts: ActivationLayouts | None = None,
) -> Tensor:
    """Attention times its gradient where that is positive, passed on from layer to layer.

    R starts as I, and each layer makes of it R + A R, with A the mean over heads of
    (gradient * attention), negative numbers cut off. The map is a row of R - I, chosen as
    :func:`attention_rollout` does: a token's own share, which a class token's row does not show
    either, is left out.

    Returns:
        Shape (B, 1, *positions), nothing negative.

    Raises:
        MethodError: as :func:`attention_rollout`.
    """
    matrices, size = _matrices(
        "gradient_x_attention",
        model,
        inputs,
        target,
        additional_forward_args,
        layout,
        activation_layouts,
    )
    rows = _read_rows(matrices[-1])
    gained = torch.zeros_like(rows)
    for m in reversed(matrices):
        more = rows @ (m.gradient * m.weights).clamp(min=0).mean(1)
        rows, gained = rows + more, gained + more
    return _drawn(gained, matrices[-1], size)


def _matrices(
    method: str,
    model: nn.Module,
    inputs: Tensor,
    target: Any,
    extra: Any,
    layout: InputLayout,
    activation_layouts: ActivationLayouts | None,
) -> tuple[list[AttentionMatrix], tuple[int, ...]]:
    recording = Recording(method, model, inputs, extra, layout, activation_layouts)
    record = AttentionRecord(recording)
    output = recording.run(target, record.active())
    return record.matrices(output), recording.grid.sizes


def _read_rows(last: AttentionMatrix) -> Tensor:
    """The mean over the tokens that each sample's output reads, shape (B, 1, tokens)."""
    read = (last.gradient != 0).any(-1).any(1).to(last.weights.dtype)
    rows: Tensor = (read / read.sum(-1, keepdim=True).clamp(min=1))[:, None]
    return rows


def _drawn(rows: Tensor, at: AttentionMatrix, size: tuple[int, ...]) -> Tensor:
    placement = at.placement
    return stretched(on_grid(arranged(rows[:, 0], placement)[0], placement), placement, size)


METHODS = (
    Method(
        "attention_rollout",
        attention_rollout,
        options=AttentionOptions,
        signed=False,
        call_options=("layout",),
        about="The attention of all layers, half passed on by the shortcut, multiplied through.",
        reference="Abnar & Zuidema 2020, Quantifying Attention Flow in Transformers",
    ),
    Method(
        "gradient_x_attention",
        gradient_x_attention,
        options=AttentionOptions,
        signed=False,
        call_options=("layout",),
        about="The attention of all layers times its positive gradient, added from layer to layer.",
        reference="Chefer, Gur & Wolf 2021, Generic Attention-model Explainability",
    ),
)

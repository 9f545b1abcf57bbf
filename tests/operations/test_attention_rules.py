"""Fused attention and fused recurrent cells against the same in plain operations."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fullgrad
from fullgrad.operations.registry import registered
from rule_cases import Case, defined_biases, n, outputs_of, recorded_biases, subsets
from snippets import Snippet


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None
) -> Tensor:
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    logits = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        future = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
        logits = logits.masked_fill(future, -math.inf)
    if mask is not None:
        logits = logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask
    return torch.softmax(logits, -1) @ v


@pytest.mark.parametrize("depend", subsets((0, 1, 2)))
@pytest.mark.parametrize("mask", ["none", "bool", "float", "infinite", "causal", "grouped"])
def test_attention(depend: tuple[int, ...], mask: str) -> None:
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    heads = 1 if mask == "grouped" else 2
    values = [n(2, 2, 5, 4)(generator), n(2, heads, 5, 4)(generator), n(2, heads, 5, 4)(generator)]
    shown = torch.rand((5, 5), generator=generator) > 0.4
    shown |= torch.eye(5, dtype=torch.bool)
    added = {
        "bool": shown,
        "float": n(5, 5)(generator),
        "infinite": torch.zeros(5, 5).double().masked_fill(~shown, -math.inf),
    }.get(mask)
    causal = mask == "causal"
    fused = Case(
        lambda q, k, v: F.scaled_dot_product_attention(
            q, k, v, added, is_causal=causal, scale=0.6, enable_gqa=mask == "grouped"
        ),
        *[lambda g: values[0]] * 3,
    )
    plain = Case(lambda q, k, v: plain_attention(q, k, v, added, causal, 0.6))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        try:
            outputs_of(fused.op(*values))
        except RuntimeError as error:  # torch 2.8 has none for it: test_grouped_attention
            assert mask == "grouped" and "No available kernel" in str(error)
            pytest.skip("no fused kernel for grouped attention")
        (got,) = recorded_biases(fused, values, depend)
    (expected,) = defined_biases(plain, values, depend)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["fused", "math"])
def test_grouped_attention(kind: str) -> None:
    """With whatever kernel this version of torch has, also none but the plain operations."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 4).double()

    def grouped(x: Tensor) -> Tensor:
        q, k, v = x.split((2, 1, 1), 1)
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True).sum((1, 3))

    def plain(x: Tensor) -> Tensor:
        return plain_attention(*x.split((2, 1, 1), 1), None, False, None).sum((1, 3))

    backend = torch.nn.attention.SDPBackend
    kernels = [backend.FLASH_ATTENTION, backend.MATH] if kind == "fused" else [backend.MATH]
    with torch.nn.attention.sdpa_kernel(kernels, set_priority=True):
        got = fullgrad.decompose(Snippet(lambda m, x: grouped(x)), x, 1)
    expected = fullgrad.decompose(Snippet(lambda m, x: plain(x)), x, 1)
    torch.testing.assert_close(got.input_terms[0], expected.input_terms[0])
    sums = [sum(float(t.value.sum()) for t in d.bias_terms) for d in (got, expected)]
    assert sums[0] == pytest.approx(sums[1]) and abs(sums[0]) > 0.1


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_equivalents_of_the_fused_cells(kind: str) -> None:
    torch.manual_seed(0)
    cell = (nn.LSTMCell if kind == "lstm" else nn.GRUCell)(3, 4).double()
    x, h, c = torch.randn(2, 3).double(), torch.randn(2, 4).double(), torch.randn(2, 4).double()
    igates, hgates = x @ cell.weight_ih.T, h @ cell.weight_hh.T
    state = c if kind == "lstm" else h
    function = registered()[f"aten::_thnn_fused_{kind}_cell"].equivalent
    assert function is not None
    got = function(igates, hgates, state, cell.bias_ih, cell.bias_hh)
    expected = outputs_of(cell(x, (h, c) if kind == "lstm" else h))
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e)

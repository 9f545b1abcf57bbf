"""Fused scaled-dot-product attention, which has no forward-mode derivative.

With S = scale q k^T + mask, P = softmax(S), y = P v: the derivative in the direction of the
arguments themselves is (dP) v + [v depends] y, dP = P (dS - sum_keys P dS), where dS counts
scale q k^T once for each of q and k that depends on the input, and the mask if it does.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fullgrad.axes.algebra import fresh, neutral, with_groups
from fullgrad.operations._local import Local, each_dependent
from fullgrad.operations._origins import OriginOf
from fullgrad.operations.call import Bias, Call
from fullgrad.operations.propagation import Answer, Propagation
from fullgrad.operations.registry import put


def _per_query_head(kv: Tensor, heads: int) -> Tensor:
    """Grouped-query attention: repeat keys or values for every query head."""
    repeats = heads // kv.shape[-3]
    return kv if repeats == 1 else kv.repeat_interleave(repeats, dim=-3)


def _fused_attention(call: Call) -> tuple[Bias, ...] | None:
    if call.get("dropout_p", 0.0):
        return None  # the dropped positions are not to be had from the kernel
    q, k, v = call.get("query"), call.get("key"), call.get("value")
    mask: Any = call.get("attn_mask", call.get("attn_bias"))
    scale = call.get("scale")
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    causal = bool(call.get("is_causal", False))
    products = call.depends(q) + call.depends(k)
    mask_depends, v_depends = call.depends(mask), call.depends(v)

    def compute(y: Tensor, q: Tensor, k: Tensor, v: Tensor, *masks: Tensor) -> Tensor:
        k, v = _per_query_head(k, q.shape[-3]), _per_query_head(v, q.shape[-3])
        product = (q @ k.transpose(-2, -1)).mul_(scale)
        logits = product
        if masks:
            added = masks[0]
            if added.dtype == torch.bool:
                added = torch.zeros_like(added, dtype=q.dtype).masked_fill_(~added, -math.inf)
            logits = product + added
        if causal:
            future = torch.ones(product.shape[-2:], dtype=torch.bool, device=q.device).triu_(1)
            logits = logits.masked_fill(future, -math.inf)
        p = torch.softmax(logits, -1)
        if masks or causal:  # a row that may read nothing has no weights
            p = p.masked_fill((logits == -math.inf).all(-1, keepdim=True), 0)
        direction = product * products
        if mask_depends:
            direction = direction + torch.where(p == 0, torch.zeros_like(p), masks[0])
        weighted = p * direction
        change = weighted @ v - weighted.sum(-1, keepdim=True) * y
        return -change if v_depends else y - change

    held = [call.output, q.detach(), k.detach(), v.detach()]
    if mask is not None:
        held.append(mask.detach())
    # A mask shared by the samples has fewer axes, or one row.
    return (Bias("implicit", compute, tuple(held), samplewise=True),)


def _attention_axes(p: Propagation) -> Answer:
    """The result lies where the queries do."""
    query, _, value = (p.axes_of(a) for a in p.call.args[:3])
    if query is None:
        if value is None or p.call.depends(p.input):
            return None
        # Queries that do not depend on the input (of objects, for example) read all of it.
        rows, last = fresh(p.shape[-2]), neutral(value.groups[-1])
        return with_groups(value, [*value.groups[:-2], rows, last])
    last = fresh(p.shape[-1]) if value is None else neutral(value.groups[-1])
    return with_groups(query, [*query.groups[:-1], last])


def _constant_weights(call: Call, origin_of: OriginOf) -> Local | None:
    """The attention weights are a gate: all goes to the values, through the kernel's own gradient.

    A kernel's dropout is linear in the values, too.
    """
    value = call.get("value")
    if not call.depends(value):
        return None
    return Local((), each_dependent(call, {2: 1.0}, None))


put(
    [
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_fused_attention_overrideable",
    ],
    _fused_attention,
    _attention_axes,
    family="attention",
    balanced=_constant_weights,
)

"""Normalizations and softmax.

With x = (u - mean) r, r = (var + eps)^(-1/2), normalizing t u and differentiating at t = 1 gives
x eps r^2: what eps leaves of degree 0. Hence b = w x (1 - eps r^2) + beta for layer, group,
instance and batch-statistics normalization. In evaluation mode batch-norm is affine and its bias
is beta - w mean / sigma (Srinivas & Fleuret 2019, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fullgrad.operations._local import Gradients, Local
from fullgrad.operations._origins import WEIGHTS, OriginOf, always
from fullgrad.operations.call import Bias, Call, Kind
from fullgrad.operations.propagation import keeps_axes, reduces
from fullgrad.operations.registry import put

_normalizes = partial(put, axes=keeps_axes, family="normalization")


def _kind(beta: Any) -> Kind:
    return "implicit" if beta is None else "both"


def _channelwise(value: Tensor, dim: int) -> Tensor:
    return value.view((1, -1) + (1,) * (dim - 2))


def _present(*values: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(v.detach() for v in values if v is not None)


def _batch_norm(call: Call) -> tuple[Bias, ...] | None:
    weight, beta = call.get("weight"), call.get("bias")
    if call.depends(weight) or call.depends(beta):
        return None
    training = bool(call.get("training", "with_update" in call.name))
    eps = call.get("epsilon", call.get("eps"))
    dim = call.outputs[0].dim()
    has_weight, has_beta = weight is not None, beta is not None
    held = _present(weight, beta)
    if not training:
        mean, var = call.get("running_mean"), call.get("running_var")

        def affine(m: Tensor, v: Tensor, *rest: Tensor) -> Tensor:
            scale = torch.rsqrt(v + eps)
            if has_weight:
                scale = scale.mul_(rest[0])
            offset = torch.addcmul(rest[-1], m, scale, value=-1) if has_beta else m.neg() * scale
            return _channelwise(offset, dim)

        return (Bias("both", affine, (mean.detach(), var.detach(), *held)),)
    mean, rstd = call.outputs[1], call.outputs[2]

    def normalized(u: Tensor, m: Tensor, r: Tensor, *rest: Tensor) -> Tensor:
        scale = r * (1 - eps * r * r)
        if has_weight:
            scale = scale * rest[0]
        b = (u - _channelwise(m, dim)) * _channelwise(scale, dim)
        return b + _channelwise(rest[-1], dim) if has_beta else b

    u = call.args[0].detach()
    held = (u, mean.detach(), rstd.detach(), *held)
    return (Bias(_kind(beta), normalized, held),)


def _centered(dims: Callable[[Tensor], list[int]]) -> Callable[..., Tensor]:
    """The transposed maps w r (u - mean u), r constant, where the mean is over these axes."""

    def transposed(g: Tensor, scale: Tensor) -> Tensor:
        scaled = g * scale
        return scaled.sub_(scaled.mean(dims(g), keepdim=True))

    return transposed


def _shift(beta: Tensor | None, along: Callable[[Tensor], Tensor]) -> tuple[Bias, ...]:
    return () if beta is None else (Bias("explicit", along, (beta.detach(),)),)


def _balanced_batch_norm(call: Call, origin_of: OriginOf) -> Local | None:
    """Affine in evaluation mode; else 1/sigma is constant and the mean live."""
    weight, beta = call.get("weight"), call.get("bias")
    if call.depends(weight) or call.depends(beta):
        return None
    dim = call.outputs[0].dim()
    if not call.get("training", "with_update" in call.name):
        return Local(tuple(replace(b, kind="explicit") for b in _batch_norm(call) or ()))
    transposed = _centered(lambda g: [d for d in range(dim) if d != 1])
    held = (call.outputs[2].detach(), *_present(weight))

    def transpose(given: Gradients, above: Gradients, *held: Tensor) -> Gradients:
        if above[0] is None:
            return given
        scale = held[0] if len(held) == 1 else held[0] * held[1]
        return [transposed(above[0], _channelwise(scale, dim))]

    return Local(_shift(beta, lambda b: _channelwise(b, dim)), transpose, held)


_batch_normalizes = partial(
    _normalizes, bias=_batch_norm, balanced=_balanced_batch_norm, gradient_in_layout=True
)
_batch_normalizes(
    ["native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"],
    statistics=("running_mean", "running_var"),
)
_batch_normalizes(
    [
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
        "_batch_norm_with_update",
        "_batch_norm_no_update",
    ]
)


def _layer_norm(call: Call) -> tuple[Bias, ...] | None:
    weight, beta, eps = call.get("weight"), call.get("bias"), call.get("eps")
    if call.depends(weight) or call.depends(beta):
        return None
    has_weight, has_beta = weight is not None, beta is not None

    def compute(u: Tensor, mean: Tensor, rstd: Tensor, *rest: Tensor) -> Tensor:
        b = (u - mean).mul_(rstd * (1 - eps * rstd * rstd))
        if has_weight:
            b = b.mul_(rest[0])
        return b.add_(rest[-1]) if has_beta else b

    mean, rstd = call.outputs[1], call.outputs[2]
    held = (call.args[0].detach(), mean.detach(), rstd.detach(), *_present(weight, beta))
    return (Bias(_kind(beta), compute, held, samplewise=_by_rows(call)),)


def _by_rows(call: Call) -> bool:
    """Whether the first axis is not one of those normalized over."""
    return bool(len(call.get("normalized_shape")) < call.outputs[0].dim())


def _balanced_layer_norm(call: Call, origin_of: OriginOf) -> Local | None:
    weight, beta = call.get("weight"), call.get("bias")
    if call.depends(weight) or call.depends(beta):
        return None
    over = list(range(-len(call.get("normalized_shape")), 0))
    transposed, shape = _centered(lambda g: over), call.outputs[0].shape

    def transpose(given: Gradients, above: Gradients, *held: Tensor) -> Gradients:
        if above[0] is None:
            return given
        return [transposed(above[0], held[0] if len(held) == 1 else held[0] * held[1])]

    held = (call.outputs[2].detach(), *_present(weight))
    return Local(_shift(beta, lambda b: b.expand(shape)), transpose, held)


_normalizes("native_layer_norm", _layer_norm, balanced=_balanced_layer_norm)


def _group_norm(call: Call) -> tuple[Bias, ...] | None:
    weight, beta = call.get("weight"), call.get("bias")
    if call.depends(weight) or call.depends(beta):
        return None
    groups, eps = call.get("group"), call.get("eps")
    has_weight, has_beta = weight is not None, beta is not None

    def compute(u: Tensor, mean: Tensor, rstd: Tensor, *rest: Tensor) -> Tensor:
        grouped = u.reshape(len(u), groups, -1)
        mean, rstd = mean.view(len(u), groups, 1), rstd.view(len(u), groups, 1)
        b = (grouped - mean).mul_(rstd * (1 - eps * rstd * rstd)).view(u.shape)
        if has_weight:
            b = b.mul_(_channelwise(rest[0], u.dim()))
        return b.add_(_channelwise(rest[-1], u.dim())) if has_beta else b

    u = call.args[0].detach()
    along = (u.shape[0], groups, *[1] * (u.dim() - 2))
    mean, rstd = call.outputs[1].detach().view(along), call.outputs[2].detach().view(along)
    return (Bias(_kind(beta), compute, (u, mean, rstd, *_present(weight, beta)), samplewise=True),)


def _balanced_group_norm(call: Call, origin_of: OriginOf) -> Local | None:
    weight, beta = call.get("weight"), call.get("bias")
    if call.depends(weight) or call.depends(beta):
        return None
    u, groups = call.args[0], call.get("group")
    dim, along = u.dim(), (u.shape[0], groups, 1)

    def transpose(given: Gradients, above: Gradients, *held: Tensor) -> Gradients:
        if above[0] is None:
            return given
        g = above[0] if len(held) == 1 else above[0] * _channelwise(held[1], dim)
        grouped = g.reshape(along[0], groups, -1)
        return [((grouped - grouped.mean(2, keepdim=True)) * held[0]).view(g.shape)]

    held = (call.outputs[2].detach().view(along), *_present(weight))
    return Local(_shift(beta, lambda b: _channelwise(b, dim)), transpose, held)


_normalizes("native_group_norm", _group_norm, balanced=_balanced_group_norm)


def _rms_norm(call: Call) -> tuple[Bias, ...] | None:
    """``y = w u r``, ``r = (mean u^2 + eps)^(-1/2)``: ``b = y (1 - eps r^2)``."""
    if call.depends(call.get("weight")) or len(call.outputs) < 2:
        return None
    eps = call.get("eps")
    if eps is None:
        eps = torch.finfo(call.args[0].dtype).eps

    def compute(y: Tensor, rstd: Tensor) -> Tensor:
        return y * (1 - eps * rstd * rstd)  # type: ignore[no-any-return]

    held = (call.output, call.outputs[1].detach())
    return (Bias("implicit", compute, held, samplewise=_by_rows(call)),)


def _balanced_rms_norm(call: Call, origin_of: OriginOf) -> Local | None:
    weight = call.get("weight")
    if call.depends(weight) or len(call.outputs) < 2:
        return None

    def transpose(given: Gradients, above: Gradients, *held: Tensor) -> Gradients:
        if above[0] is None:
            return given
        return [above[0] * (held[0] if len(held) == 1 else held[0] * held[1])]

    return Local((), transpose, (call.outputs[1].detach(), *_present(weight)))


_normalizes("_fused_rms_norm", _rms_norm, balanced=_balanced_rms_norm)


def _softmax(call: Call) -> tuple[Bias, ...]:
    dim = call.get("dim")

    def compute(y: Tensor) -> Tensor:
        # b is the same for inputs that differ by a constant, and log y is u less a constant. A
        # masked position has y = 0: its product is 0.
        log = torch.log(y).masked_fill_(y == 0, 0)
        mean = (y * log).sum(dim, keepdim=True)
        return (1 - log).add_(mean).mul_(y)

    y = call.output
    return (Bias("implicit", compute, (y,), samplewise=y.dim() > 1 and dim % y.dim() > 0),)


_normalizes(["_softmax", "_safe_softmax"], _softmax, origin=always(WEIGHTS))


def _log_softmax(call: Call) -> tuple[Bias, ...]:
    dim = call.get("dim")

    def compute(y: Tensor, u: Tensor) -> Tensor:
        p = torch.exp(y)
        safe = torch.where(p == 0, torch.zeros_like(u), u)
        b = y - u + (p * safe).sum(dim, keepdim=True)
        return torch.where(u == -math.inf, torch.zeros_like(b), b)

    return (Bias("implicit", compute, (call.output, call.args[0].detach())),)


_normalizes("_log_softmax", _log_softmax)


def _logsumexp(call: Call) -> tuple[Bias, ...]:
    dims, keep = call.get("dim"), bool(call.get("keepdim", False))

    def compute(y: Tensor, u: Tensor) -> Tensor:
        p = torch.exp(u - (y if keep else _with_axes(y, dims, u.dim())))
        safe = torch.where(p == 0, torch.zeros_like(u), u)
        b: Tensor = y - (p * safe).sum(dims, keepdim=keep)
        return b

    return (Bias("implicit", compute, (call.output, call.args[0].detach())),)


def _with_axes(t: Tensor, dims: Sequence[int], count: int) -> Tensor:
    """A tensor with axes of size 1 where a sum took them away."""
    for d in sorted(d % count for d in dims):
        t = t.unsqueeze(d)
    return t


put("logsumexp", _logsumexp, reduces, family="normalization")
_normalizes(["renorm", "logcumsumexp", "cumprod"])  # they have no formula of their own

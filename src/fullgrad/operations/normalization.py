"""Normalizations and softmax.

With x = (u - mean) r, r = (var + eps)^(-1/2), normalizing t u and differentiating at t = 1 gives
x eps r^2: what eps leaves of degree 0. Hence b = w x (1 - eps r^2) + beta for layer, group,
instance and batch-statistics normalization. In evaluation mode batch-norm is affine and its bias
is beta - w mean / sigma (Srinivas & Fleuret 2019, section 3).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fullgrad.operations.call import Bias, Call, Kind
from fullgrad.operations.propagation import keeps_axes
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
            offset = -m * (scale * rest[0] if has_weight else scale)
            return _channelwise(offset + rest[-1] if has_beta else offset, dim)

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


_batch_normalizes = partial(_normalizes, bias=_batch_norm, gradient_in_layout=True)
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


_normalizes("native_layer_norm", _layer_norm)


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


_normalizes("native_group_norm", _group_norm)


def _rms_norm(call: Call) -> tuple[Bias, ...] | None:
    """Y = w u r, r = (mean u^2 + eps)^(-1/2): b = y (1 - eps r^2)."""
    if call.depends(call.get("weight")) or len(call.outputs) < 2:
        return None
    eps = call.get("eps")
    if eps is None:
        eps = torch.finfo(call.args[0].dtype).eps

    def compute(y: Tensor, rstd: Tensor) -> Tensor:
        return y * (1 - eps * rstd * rstd)  # type: ignore[no-any-return]

    held = (call.output, call.outputs[1].detach())
    return (Bias("implicit", compute, held, samplewise=_by_rows(call)),)


_normalizes("_fused_rms_norm", _rms_norm)


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


_normalizes(["_softmax", "_safe_softmax"], _softmax)


def _log_softmax(call: Call) -> tuple[Bias, ...]:
    dim = call.get("dim")

    def compute(y: Tensor, u: Tensor) -> Tensor:
        p = torch.exp(y)
        safe = torch.where(p == 0, torch.zeros_like(u), u)
        b = y - u + (p * safe).sum(dim, keepdim=True)
        return torch.where(u == -math.inf, torch.zeros_like(b), b)

    return (Bias("implicit", compute, (call.output, call.args[0].detach())),)


_normalizes("_log_softmax", _log_softmax)
_normalizes(["renorm", "logcumsumexp", "cumprod"])  # they have no formula of their own

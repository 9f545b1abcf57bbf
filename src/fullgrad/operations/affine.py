"""Linear operations with a constant part: the bias is that constant.

Which argument is the constant is asked of each call: it is whatever does not depend on the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fullgrad.operations.registry import NO_BIAS, Bias, Call, expand, register


def _constant_tensor(value: Any, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    return torch.full((), value, dtype=like.dtype, device=like.device)


def _explicit(
    value: Tensor, factor: Any, shape: torch.Size, may_be_infinite: bool = True
) -> tuple[Bias, ...]:
    return (
        Bias(
            "explicit",
            lambda c: expand(c if factor == 1 else factor * c, shape),
            (value,),
            may_be_infinite=may_be_infinite,
        ),
    )


def _sum(call: Call, sign: int) -> tuple[Bias, ...]:
    """``add`` and ``sub``: self + sign * alpha * other."""
    first, second = call.get("self"), call.get("other")
    alpha = call.get("alpha", 1)
    y = call.outputs[0]
    if call.depends(first) and call.depends(second):
        return NO_BIAS
    if call.depends(first):
        return _explicit(_constant_tensor(second, y), sign * alpha, y.shape)
    return _explicit(_constant_tensor(first, y), 1, y.shape)


def _rsub(call: Call) -> tuple[Bias, ...]:
    """Other - alpha * self."""
    first, second, y = call.get("self"), call.get("other"), call.outputs[0]
    alpha = call.get("alpha", 1)
    if call.depends(first) and call.depends(second):
        return NO_BIAS
    if call.depends(first):
        return _explicit(_constant_tensor(second, y), 1, y.shape)
    return _explicit(_constant_tensor(first, y), -alpha, y.shape)


def _joined(call: Call) -> tuple[Bias, ...]:
    """``cat`` and ``stack``: the parts that do not depend on the input are constants."""
    parts: Sequence[Tensor] = call.args[0]
    dim = call.get("dim", 0)
    if all(call.depends(p) for p in parts):
        return NO_BIAS
    join = torch.cat if "cat" in call.func._schema.name else torch.stack
    shapes = [p.shape for p in parts]
    constants = tuple(p.detach() for p in parts if not call.depends(p))
    is_constant = [not call.depends(p) for p in parts]

    def compute(*values: Tensor) -> Tensor:
        left = iter(values)
        dtype = torch.promote_types(values[0].dtype, values[-1].dtype)
        filled = [
            next(left).to(dtype) if constant else values[0].new_zeros(shape, dtype=dtype)
            for constant, shape in zip(is_constant, shapes, strict=True)
        ]
        return join(filled, dim)

    return (Bias("explicit", compute, constants, may_be_infinite=True),)


def _multiplied(call: Call, names: tuple[str, str, str]) -> tuple[Bias, ...]:
    """``beta * c + alpha * (a @ b)``: ``addmm``, ``baddbmm``, ``addmv``."""
    c, a, b = (call.get(n) for n in names)
    beta = call.get("beta", 1)
    factors = call.depends(a) + call.depends(b)
    constant = not call.depends(c)
    y = call.outputs[0]
    if factors == 1:
        # Only a batched product takes masks along.
        return _explicit(c.detach(), beta, y.shape, y.dim() > 2) if constant else NO_BIAS
    alpha = call.get("alpha", 1)
    sign = (
        alpha if factors == 0 else -alpha
    )  # all of a constant product, less a product of degree 2
    held = (a.detach(), b.detach(), c.detach())

    def compute(left: Tensor, right: Tensor, added: Tensor) -> Tensor:
        product: Tensor = sign * (left @ right)
        return product + beta * added if constant else product

    return (
        Bias(
            "both" if constant else "implicit",
            compute,
            held,
            may_be_infinite=True,
            samplewise=y.dim() == 3,
        ),
    )


def _convolution(call: Call) -> tuple[Bias, ...]:
    u, weight, bias = call.get("input"), call.get("weight"), call.get("bias")
    y = call.outputs[0]
    factors = call.depends(u) + call.depends(weight)
    free = bias is not None and not call.depends(bias)
    shape = (-1,) + (1,) * (y.dim() - 2)
    if factors == 1:
        if not free:
            return NO_BIAS
        return (Bias("explicit", lambda b: b.view(shape), (bias.detach(),)),)
    sign = 1 - factors
    if bias is None:
        return (Bias("implicit", lambda out: sign * out, (call.output,)),)
    share = factors - (not free)
    return (
        Bias(
            "both" if free else "implicit",
            lambda out, b: sign * out + share * b.view(shape),
            (call.output, bias.detach()),
        ),
    )


def _where(call: Call) -> tuple[Bias, ...]:
    mask, first, second = call.args[:3]
    y = call.outputs[0]
    keep_first, keep_second = not call.depends(first), not call.depends(second)
    if not keep_first and not keep_second:
        return NO_BIAS
    zero = torch.zeros((), dtype=y.dtype, device=y.device)
    held = (
        mask,
        _constant_tensor(first, y) if keep_first else zero,
        _constant_tensor(second, y) if keep_second else zero,
    )
    return (Bias("explicit", torch.where, held, may_be_infinite=True),)


def _masked_fill(call: Call) -> tuple[Bias, ...] | None:
    mask, value = call.get("mask"), call.get("value")
    y = call.outputs[0]
    if call.depends(value):
        return None
    fill = _constant_tensor(value, y)
    zero = torch.zeros((), dtype=y.dtype, device=y.device)
    return (
        Bias(
            "explicit",
            lambda m, v: torch.where(m, v.to(zero.dtype), zero),
            (mask, fill),
            may_be_infinite=True,
        ),
    )


def _pad(call: Call) -> tuple[Bias, ...]:
    value = call.get("value", 0) or 0
    if value == 0:
        return NO_BIAS
    u, pads = call.get("self"), list(call.get("pad"))
    inner = u.new_zeros(()).expand(u.shape)

    def compute(zeros: Tensor) -> Tensor:
        return torch.constant_pad_nd(zeros, pads, value)

    return (Bias("explicit", compute, (inner,), may_be_infinite=True),)


def _extremum_of_two(call: Call) -> tuple[Bias, ...]:
    """``maximum`` and ``minimum``: a constant side is bias where it wins, half of it at a tie."""
    first, second = call.get("self"), call.get("other")
    if call.depends(first) and call.depends(second):
        return NO_BIAS
    u, c = (first, second) if call.depends(first) else (second, first)
    wins = torch.gt if "max" in call.func._schema.name else torch.lt

    def compute(c_: Tensor, u_: Tensor) -> Tensor:
        return torch.where(wins(c_, u_), c_, torch.where(c_ == u_, c_ / 2, torch.zeros_like(c_)))

    return (Bias("explicit", compute, (c.detach(), u.detach()), may_be_infinite=True),)


def _copy(call: Call) -> tuple[Bias, ...]:
    """``copy_``: overwrites its target with a value (which depends) or with a constant."""
    source = call.get("src")
    if call.depends(source):
        return NO_BIAS
    y = call.outputs[0]
    return _explicit(source.detach(), 1, y.shape)


def _fill(call: Call) -> tuple[Bias, ...] | None:
    """``fill_`` and ``zero_``: nothing of the old value is left."""
    value = call.get("value", 0)
    if call.depends(value):
        return None
    y = call.outputs[0]
    return _explicit(_constant_tensor(value, y), 1, y.shape)


def _rolled_sum(call: Call) -> tuple[Bias, ...] | None:
    """``index_add``, ``scatter_add`` and relatives: linear in self and source jointly."""
    source = call.get("source", call.get("src"))
    if call.depends(call.get("self")) and call.depends(source):
        return NO_BIAS
    return None


def install() -> None:
    """Register the affine rules."""
    family = "affine"
    reads: dict[str, Any] = {"family": family, "reads_input": True}
    register("add", lambda c: _sum(c, 1), family=family)
    register("sub", lambda c: _sum(c, -1), family=family)
    register("rsub", _rsub, family=family)
    register(["cat", "stack"], _joined, family=family)
    register("addmm", lambda c: _multiplied(c, ("self", "mat1", "mat2")), **reads)
    register("baddbmm", lambda c: _multiplied(c, ("self", "batch1", "batch2")), **reads)
    register("addmv", lambda c: _multiplied(c, ("self", "mat", "vec")), **reads)
    register("convolution", _convolution, family=family)
    register("where", _where, family=family)
    register("masked_fill", _masked_fill, family=family)
    register("constant_pad_nd", _pad, family=family)
    register(["maximum", "minimum", "fmax", "fmin"], _extremum_of_two, family=family)
    register("copy", _copy, family=family)
    register(["fill", "zero"], _fill, family=family)
    register(["index_add", "scatter_add"], _rolled_sum, **reads)

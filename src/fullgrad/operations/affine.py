"""Linear operations with a constant part: the bias is that constant.

Which argument is the constant is asked of each call: it is whatever does not depend on the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullgrad._decisions import decided, numbers_of
from fullgrad.axes.algebra import Axes, taken
from fullgrad.axes.broadcasting import joined, overwritten, stacked
from fullgrad.axes.coordinates import NOWHERE
from fullgrad.operations import _origins
from fullgrad.operations.call import NO_BIAS, Bias, Call, explicit
from fullgrad.operations.propagation import Answer, Propagation, broadcast, elementwise, keeps_axes
from fullgrad.operations.registry import put


def _constant_tensor(value: Any, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to(like.device)  # PyTorch takes single numbers from the processor
    return torch.full((), value, dtype=like.dtype, device=like.device)


def _sum(call: Call, sign: int) -> tuple[Bias, ...]:
    """``self + sign * alpha * other``."""
    first, second = call.get("self"), call.get("other")
    alpha = call.get("alpha", 1)
    y = call.outputs[0]
    if call.depends(first) and call.depends(second):
        return NO_BIAS
    if call.depends(first):
        return explicit(_constant_tensor(second, y), sign * alpha, y.shape)
    return explicit(_constant_tensor(first, y), 1, y.shape)


put(
    "add",
    lambda c: _sum(c, 1),
    elementwise,
    family="affine",
    origin=_origins.added,
    addends=lambda c: ((c.get("self"), 1), (c.get("other"), c.get("alpha", 1))),
)
put(
    "sub",
    lambda c: _sum(c, -1),
    elementwise,
    family="affine",
    origin=_origins.added,
    addends=lambda c: ((c.get("self"), 1), (c.get("other"), -c.get("alpha", 1))),
)


def _rsub(call: Call) -> tuple[Bias, ...]:
    """``other - alpha * self``."""
    first, second, y = call.get("self"), call.get("other"), call.outputs[0]
    alpha = call.get("alpha", 1)
    if call.depends(first) and call.depends(second):
        return NO_BIAS
    if call.depends(first):
        return explicit(_constant_tensor(second, y), 1, y.shape)
    return explicit(_constant_tensor(first, y), -alpha, y.shape)


put(
    "rsub",
    _rsub,
    elementwise,
    family="affine",
    origin=_origins.added,
    addends=lambda c: ((c.get("self"), -c.get("alpha", 1)), (c.get("other"), 1)),
)


def _joined(call: Call) -> tuple[Bias, ...]:
    """``cat`` and ``stack``: the parts that do not depend on the input are constants."""
    parts: Sequence[Tensor] = call.args[0]
    dim = call.get("dim", 0)
    if all(call.depends(p) for p in parts):
        return NO_BIAS
    join = torch.cat if "cat" in call.name else torch.stack
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


def _cat(p: Propagation) -> Answer:
    tensors = [t for t in p.get("tensors") if tuple(t.shape) != (0,)]
    if p.lost(tensors):
        return None
    dim = (p.get("dim") or 0) % len(p.shape)
    return joined([p.axes_of(t) for t in tensors], [t.shape[dim] for t in tensors], dim)


put("cat", _joined, _cat, family="affine")


def _stack(p: Propagation) -> Answer:
    tensors = p.get("tensors")
    if p.lost(tensors):
        return None
    return stacked([p.axes_of(t) for t in tensors], (p.get("dim") or 0) % len(p.shape))


put("stack", _joined, _stack, family="affine")


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


put("where", _where, elementwise, family="affine")


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


put("masked_fill", _masked_fill, elementwise, family="affine")


def _pad(call: Call) -> tuple[Bias, ...]:
    value = call.get("value", 0) or 0
    if value == 0:
        return NO_BIAS
    u, pads = call.get("self"), list(call.get("pad"))
    inner = u.new_zeros(()).expand(u.shape)

    def compute(zeros: Tensor) -> Tensor:
        return torch.constant_pad_nd(zeros, pads, value)

    return (Bias("explicit", compute, (inner,), may_be_infinite=True),)


def _padded(p: Propagation) -> Answer:
    """What is added has no spatial position."""
    axes: Axes | None = p.first()
    widths = p.get("pad")
    for i in range(len(widths) // 2):
        if axes is None:
            return None
        dim = len(axes.groups) - 1 - i
        index = np.arange(axes.shape[dim])
        before, after = widths[2 * i], widths[2 * i + 1]
        index = index[max(0, -before) : len(index) - max(0, -after)]
        index = np.pad(index, (max(0, before), max(0, after)), constant_values=NOWHERE)
        axes = taken(axes, dim, index)
    return axes


put("constant_pad_nd", _pad, _padded, family="affine")


def _extremum_of_two(call: Call) -> tuple[Bias, ...]:
    """``maximum`` and ``minimum``: a constant side is bias where it wins, half of it at a tie."""
    first, second = call.get("self"), call.get("other")
    if call.depends(first) and call.depends(second):
        return NO_BIAS
    u, c = (first, second) if call.depends(first) else (second, first)
    wins = torch.gt if "max" in call.name else torch.lt

    def compute(c_: Tensor, u_: Tensor) -> Tensor:
        return torch.where(wins(c_, u_), c_, torch.where(c_ == u_, c_ / 2, torch.zeros_like(c_)))

    return (Bias("explicit", compute, (c.detach(), u.detach()), may_be_infinite=True),)


put(["maximum", "minimum", "fmax", "fmin"], _extremum_of_two, elementwise, family="affine")


def _copy(call: Call) -> tuple[Bias, ...]:
    """``copy_``: overwrites its target with a value (which depends) or with a constant."""
    source = call.get("src")
    if call.depends(source):
        return NO_BIAS
    y = call.outputs[0]
    return explicit(source.detach().to(y.device), 1, y.shape)


def _copied(p: Propagation) -> Answer:
    """The numbers lie where the source's do; a constant's where the overwritten numbers lay."""
    source = p.get("src")
    return broadcast(p, [source]) if p.call.depends(source) else keeps_axes(p)


put("copy", _copy, _copied, family="affine")


def _fill(call: Call) -> tuple[Bias, ...] | None:
    """``fill_`` and ``zero_``: nothing of the old value is left."""
    value = call.get("value", 0)
    if call.depends(value):
        return None
    y = call.outputs[0]
    return explicit(_constant_tensor(value, y), 1, y.shape)


put(["fill", "zero"], _fill, keeps_axes, family="affine")


def _rolled_sum(call: Call) -> tuple[Bias, ...] | None:
    """``index_add``, ``scatter_add`` and relatives: linear in self and source jointly."""
    source = call.get("source", call.get("src"))
    if call.depends(call.get("self")) and call.depends(source):
        return NO_BIAS
    return None


put(["index_add", "scatter_add"], _rolled_sum, keeps_axes, family="affine", reads_input=True)


def _overwritten(p: Propagation) -> Answer:
    """Places stay, unless what is written depends on the input and so has places of its own."""
    return None if any(map(p.call.depends, p.call.args[1:])) else keeps_axes(p)


def _rows_written(p: Propagation) -> Answer:
    """``masked_scatter`` of whole rows, as the patches of an image among a text's tokens.

    Where what is written does not depend on the input, places stay.
    """
    source, mask = p.get("source"), p.get("mask").expand(p.shape)
    if not p.call.depends(source):
        return keeps_axes(p)
    axes, new, width = p.first(), p.axes_of(source), p.shape[-1] if p.shape else 0
    if new is None or p.lost([p.input]) or source.dim() < 2 or source.shape[-1] != width:
        return None
    rows = mask[..., 0]
    if not decided((mask == rows[..., None]).all()):
        return None
    numbers = (rows.flatten().cumsum(0) - 1).view(rows.shape).masked_fill(~rows, NOWHERE)
    return overwritten(axes, new, numbers_of(numbers).cpu().numpy())


put("masked_scatter", axes=_rows_written, family="affine")
put(
    [
        "index_put",
        "index_fill",
        "index_copy",
        "scatter",
        "slice_scatter",
        "select_scatter",
        "diagonal_scatter",
    ],
    axes=_overwritten,
    family="affine",
)

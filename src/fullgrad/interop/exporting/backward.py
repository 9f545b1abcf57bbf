"""Backward operators in forward operators, for runtimes that have no backward ones.

PyTorch takes most backward operators apart itself. This table holds those that it does not:
gradients at the input of convolutions, pools, resizing, edge padding and attention. Each equals
PyTorch's own to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fullgrad._compat import outside_modes
from fullgrad.errors import GraphError

Rewrite: TypeAlias = Callable[..., Any]
TO_PYTORCH = "Export to a .pt2 file: format='torch' or format='aot_inductor'."
aten = torch.ops.aten


def _convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, None, Tensor | None]:
    if wanted[1]:
        raise GraphError(
            "the gradient at a convolution's weight, which the model computes from its input, has "
            f"no translation to ONNX. {TO_PYTORCH} Or explain it eagerly."
        )
    dims = range(grad.dim() - 2)
    bias = grad.sum([0, *(d + 2 for d in dims)]) if wanted[2] else None
    if not wanted[0]:
        return None, None, bias
    none = [0 for _ in dims]
    if transposed:
        back = aten.convolution(grad, weight, None, stride, padding, dilation, False, none, groups)
        for d in dims:  # numbers that only the output's padding reads
            back = back.narrow(d + 2, 0, x.shape[d + 2])
        return back, None, bias
    reach = [dilation[d] * (weight.shape[d + 2] - 1) for d in dims]
    if all(s == 1 for s in stride) and all(reach[d] >= padding[d] for d in dims):
        mirrored = _mirrored(weight, groups)
        around = [reach[d] - padding[d] for d in dims]
        steps = [1 for _ in dims]
        back = aten.convolution(grad, mirrored, None, steps, around, dilation, False, none, groups)
        return back, None, bias
    # What the last window leaves over at the end of each axis.
    over = [
        x.shape[d + 2] + 2 * padding[d] - reach[d] - 1 - (grad.shape[d + 2] - 1) * stride[d]
        for d in dims
    ]
    back = aten.convolution(grad, weight, None, stride, padding, dilation, True, over, groups)
    return back, None, bias


def _mirrored(weight: Tensor, groups: int) -> Tensor:
    """From (out, in / groups, ...) to the weight that goes back, (in, out / groups, ...)."""
    out, each = weight.shape[:2]
    apart = weight.reshape(groups, out // groups, each, *weight.shape[2:]).transpose(1, 2)
    joined = apart.reshape(groups * each, out // groups, *weight.shape[2:])
    return joined.flip(list(range(2, weight.dim())))


# What linear operations do along one axis: (n, 1, 2, ..., n, ..., 2) to (n, 1, 2, ..., m, ..., 2).
# (The other axes have two numbers: PyTorch resizes wrongly, with antialias, where they have one.)
Along: TypeAlias = Callable[[int, Tensor], Tensor]


def _transposed(grad: Tensor, sizes: Sequence[int], along: Along) -> Tensor:
    """The transpose of an operation that is linear, and separate along each of its axes.

    Args:
        grad: at its output.
        sizes: of the input along these axes, which are the last ones.
        along: the operation along one of them.
    """
    count, back = len(sizes), grad
    for axis, size in enumerate(sizes):
        with outside_modes(), torch.no_grad():
            one = torch.eye(size, dtype=grad.dtype, device=grad.device)
            one = one.reshape([size, 1, *_one([size], axis, count, 1)])
            one = one.expand([size, 1, *_one([size], axis, count, 2)]).contiguous()
            matrix = along(axis, one).movedim(2 + axis, 1).flatten(2)[..., 0]
        place = grad.dim() - count + axis
        back = (back.movedim(place, -1) @ matrix.t()).movedim(-1, place)
    return back


def _one(values: Sequence[Any], axis: int, count: int, other: Any) -> list[Any]:
    """The value of one axis, and what does nothing along the others."""
    own = values[axis] if len(values) > 1 else values[0]
    return [own if i == axis else other for i in range(count)]


def _average_pool(name: str, count: int) -> Rewrite:
    forward = getattr(aten, name).default

    def backward(
        grad: Tensor,
        x: Tensor,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        ceil_mode: bool,
        with_padding: bool,
        divisor: int | None,
    ) -> Tensor:
        def along(axis: int, one: Tensor) -> Tensor:
            sizes = _one(kernel, axis, count, 1)
            steps = _one(stride or kernel, axis, count, 1)
            around = _one(padding, axis, count, 0)
            each = None if divisor is None else 1
            return forward(one, sizes, steps, around, ceil_mode, with_padding, each)  # type: ignore[no-any-return]

        back = _transposed(grad, x.shape[-count:], along)
        return back if divisor is None else back / divisor

    return backward


def _adaptive_average_pool(name: str, count: int) -> Rewrite:
    forward = getattr(aten, name).default

    def backward(grad: Tensor, x: Tensor) -> Tensor:
        sizes = grad.shape[-count:]

        def along(axis: int, one: Tensor) -> Tensor:
            return forward(one, _one(sizes, axis, count, 2))  # type: ignore[no-any-return]

        return _transposed(grad, x.shape[-count:], along)

    return backward


def _resizing(name: str, count: int, corners: bool) -> Rewrite:
    forward = getattr(aten, name).default

    def backward(
        grad: Tensor, output_size: Sequence[int], input_size: Sequence[int], *rest: Any
    ) -> Tensor:
        aligned, scales = rest[: int(corners)], [*rest[int(corners) :], *[None] * count]

        def along(axis: int, one: Tensor) -> Tensor:
            sizes = _one(output_size, axis, count, 2)
            return forward(one, sizes, *aligned, *_one(scales[:count], axis, count, None))  # type: ignore[no-any-return]

        return _transposed(grad, input_size[-count:], along)

    return backward


def _edge_padding(name: str, count: int) -> Rewrite:
    forward = getattr(aten, name).default

    def backward(grad: Tensor, x: Tensor, padding: Sequence[int]) -> Tensor:
        def along(axis: int, one: Tensor) -> Tensor:
            pairs = [(0, 0)] * count  # from the last axis to the first
            pairs[count - 1 - axis] = (
                padding[2 * (count - 1 - axis)],
                padding[2 * (count - axis) - 1],
            )
            return forward(one, [n for pair in pairs for n in pair])  # type: ignore[no-any-return]

        return _transposed(grad, x.shape[-count:], along)

    return backward


def _max_pool(count: int) -> Rewrite:
    def backward(grad: Tensor, x: Tensor, *rest: Any) -> Tensor:
        indices: Tensor = rest[-1]
        back = torch.zeros_like(x).flatten(-count)
        return back.scatter_add(-1, indices.flatten(-count), grad.flatten(-count)).view(x.shape)

    return backward


def _weights(
    query: Tensor, key: Tensor, causal: bool, mask: Tensor | None, scale: float | None
) -> tuple[Tensor, Tensor, float]:
    """Attention's weights, the keys for each of the query's heads, and the scale."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = query @ key.transpose(-2, -1) * scale
    if causal:
        rows, columns = (torch.arange(n, device=query.device) for n in scores.shape[-2:])
        scores = scores.masked_fill(columns > rows[:, None], -math.inf)
    if mask is not None:
        scores = scores + mask
    dead = (scores == -math.inf).all(-1, keepdim=True)
    weights = scores.masked_fill(dead, 0).softmax(-1).masked_fill(dead, 0)
    return weights, scores, scale


def _grouped(t: Tensor, heads: int) -> Tensor:
    """Keys or values for each of the query's heads, where several heads share them."""
    own = t.shape[1]
    return t if own == heads else t.repeat_interleave(heads // own, 1)


def _summed(grad: Tensor, like: Tensor) -> Tensor:
    if grad.shape == like.shape:
        return grad
    batch, heads, *rest = like.shape
    return grad.reshape(batch, heads, -1, *rest).sum(2)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    heads = query.shape[1]
    weights, scores, _ = _weights(query, _grouped(key, heads), causal, attn_mask, scale)
    return weights @ _grouped(value, heads), scores.logsumexp(-1)


def _attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    dropout: float,
    causal: bool,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    heads = query.shape[1]
    keys, values = _grouped(key, heads), _grouped(value, heads)
    weights, _, scale = _weights(query, keys, causal, attn_mask, scale)
    at_weights = grad @ values.transpose(-2, -1) - (grad * out).sum(-1, keepdim=True)
    at_scores = weights * at_weights * scale
    at_key, at_value = at_scores.transpose(-2, -1) @ query, weights.transpose(-2, -1) @ grad
    return at_scores @ keys, _summed(at_key, key), _summed(at_value, value)


def _put(x: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    flat, size = x.reshape(-1), x.numel()
    places, values = index.reshape(-1), source.reshape(-1)
    places = torch.where(places < 0, places + size, places)
    written = flat.scatter_add(0, places, values) if accumulate else flat.scatter(0, places, values)
    return written.reshape(x.shape)


def _in_memory(x: Tensor) -> tuple[Tensor, list[int]]:
    """A tensor's numbers in the order in which they lie in memory, and how to go back."""
    order = sorted(range(x.dim()), key=lambda axis: (-x.stride()[axis], axis))
    laid = x.permute(order)
    if x.storage_offset() or not laid.is_contiguous():
        raise GraphError(
            f"as_strided, of a tensor with gaps in memory, has no translation to ONNX. {TO_PYTORCH}"
        )
    return laid.reshape(-1), [order.index(axis) for axis in range(x.dim())]


def _strided_places(x: Tensor, size: Sequence[int], stride: Sequence[int], start: int) -> Tensor:
    with outside_modes():
        places = torch.full([1] * len(size), start, device=x.device)
        for axis, (count, step) in enumerate(zip(size, stride, strict=True)):
            along = torch.arange(count, device=x.device) * step
            places = places + along.reshape([-1 if i == axis else 1 for i in range(len(size))])
        return places


def _as_strided(
    x: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    flat, _ = _in_memory(x)
    places = _strided_places(x, size, stride, storage_offset or 0)
    return flat.index_select(0, places.reshape(-1)).reshape(size)


def _as_strided_scatter(
    x: Tensor,
    source: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    storage_offset: int | None = None,
) -> Tensor:
    flat, back = _in_memory(x)
    places = _strided_places(x, size, stride, storage_offset or 0)
    shape = [x.shape[back.index(i)] for i in range(x.dim())]
    written = flat.scatter(0, places.reshape(-1), source.reshape(-1))
    return written.reshape(shape).permute(back)


def _squeeze(x: Tensor, dims: Sequence[int]) -> Tensor:
    """PyTorch's own rule gives an operation without a translation where there is nothing to do."""
    for axis in sorted((d % x.dim() for d in dims), reverse=True):
        x = x.select(axis, 0) if x.shape[axis] == 1 else x
    return x.view(x.shape)  # of nothing to take away too, a view is a tensor of its own


def _shrink_backward(grad: Tensor, x: Tensor, lambd: float) -> Tensor:
    return torch.where(x.abs() <= lambd, torch.zeros_like(grad), grad)


_RESIZED = {
    "upsample_linear1d": (1, True),
    "upsample_bilinear2d": (2, True),
    "upsample_trilinear3d": (3, True),
    "upsample_bicubic2d": (2, True),
    "_upsample_bilinear2d_aa": (2, True),
    "_upsample_bicubic2d_aa": (2, True),
    "upsample_nearest1d": (1, False),
    "upsample_nearest2d": (2, False),
    "upsample_nearest3d": (3, False),
    "_upsample_nearest_exact1d": (1, False),
    "_upsample_nearest_exact2d": (2, False),
    "_upsample_nearest_exact3d": (3, False),
}
_BACKWARD: dict[str, Rewrite] = {
    "convolution": _convolution_backward,
    **{f"avg_pool{n}d": _average_pool(f"avg_pool{n}d", n) for n in (2, 3)},
    **{
        f"_adaptive_avg_pool{n}d": _adaptive_average_pool(f"_adaptive_avg_pool{n}d", n)
        for n in (2, 3)
    },
    **{name: _resizing(name, *kind) for name, kind in _RESIZED.items()},
    **{f"replication_pad{n}d": _edge_padding(f"replication_pad{n}d", n) for n in (1, 2, 3)},
    **{f"max_pool{n}d_with_indices": _max_pool(n) for n in (2, 3)},
    **{f"adaptive_max_pool{n}d": _max_pool(n) for n in (2, 3)},
    "_scaled_dot_product_flash_attention_for_cpu": _attention_backward,
    "hardshrink": _shrink_backward,
    "softshrink": _shrink_backward,
}


def table() -> dict[Any, Rewrite]:
    """From operators to functions that compute the same with forward operators.

    Example:
        >>> import torch
        >>> from fullgrad.interop.exporting.backward import table
        >>> backward = torch.ops.aten.upsample_bilinear2d_backward.default
        >>> given = torch.rand(1, 2, 7, 5), [7, 5], [1, 2, 3, 4], False
        >>> torch.allclose(table()[backward](*given), backward(*given), atol=1e-6)
        True
    """
    theirs = torch.export.default_decompositions().items()
    known: dict[Any, Rewrite] = {op: f for op, f in theirs if "_backward" in str(op)}
    known |= {getattr(aten, f"{n}_backward").default: f for n, f in _BACKWARD.items()}
    # The logsumexp that an ONNX translation of the forward returns is empty: written out as well.
    known[aten._scaled_dot_product_flash_attention_for_cpu.default] = _attention
    known[aten.put.default] = _put
    known[aten.squeeze.dims] = _squeeze
    known[aten.as_strided.default] = _as_strided
    known[aten.as_strided_scatter.default] = _as_strided_scatter
    return known

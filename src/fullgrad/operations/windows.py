"""Sliding windows: convolutions, pooling, resampling, patches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fullgrad._compat import grid_sampler_2d
from fullgrad.axes import windows as taps
from fullgrad.axes.algebra import permuted, read_at, refined, regrouped, taken, windowed
from fullgrad.axes.coordinates import NOWHERE, Indices, Table, Taps
from fullgrad.operations._local import Local, of_factors
from fullgrad.operations._origins import OriginOf
from fullgrad.operations.call import NO_BIAS, Bias, Call, no_bias
from fullgrad.operations.homogeneous import degree_one
from fullgrad.operations.propagation import Answer, AxesRule, Propagation, channels_read, each, slid
from fullgrad.operations.registry import put

_linear = partial(put, bias=no_bias, family="linear")


# -- convolutions -----------------------------------------------------------------------------


def _convolution_bias(call: Call) -> tuple[Bias, ...]:
    return _product_and_shift(call, ("input", "weight"))


def _product_and_shift(call: Call, names: Sequence[str]) -> tuple[Bias, ...]:
    """The shift; all but one copy of the product less, if several of its factors depend."""
    bias = call.get("bias")
    y = call.outputs[0]
    factors = sum(call.depends(call.get(name)) for name in names)
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


def _product_and_constant(call: Call, origin_of: OriginOf) -> Local | None:
    """A weight that depends on the input as well: a product of two."""
    transpose, bias = of_factors(call, (0, 1), origin_of), call.get("bias")
    if transpose is None:
        return None
    if bias is None or call.depends(bias):
        return Local((), transpose)
    shape = (-1,) + (1,) * (call.outputs[0].dim() - 2)
    return Local((Bias("explicit", lambda b: b.view(shape), (bias.detach(),)),), transpose)


def _convolution_axes(p: Propagation) -> Answer:
    weight, dims = p.get("weight"), len(p.shape) - 2
    stride, padding, dilation = (each(p.get(n), dims) for n in ("stride", "padding", "dilation"))
    slide = taps.transposed if p.get("transposed") else taps.sliding

    def window(i: int, before: int, after: int) -> Taps:
        kernel = weight.shape[2 + i]
        return slide(before, after, kernel, stride[i], padding[i], dilation[i])

    return slid(p, dims, window, p.shape[1], p.get("groups"))


put(
    "convolution",
    _convolution_bias,
    _convolution_axes,
    family="affine",
    balanced=_product_and_constant,
)


# -- pooling, padding with numbers of the image, resampling -----------------------------------


def _pool(dims: int) -> AxesRule:
    def rule(p: Propagation) -> Answer:
        kernel = each(p.get("kernel_size"), dims)
        stride = each(p.get("stride") or kernel, dims)
        padding, dilation = each(p.get("padding"), dims), each(p.get("dilation", 1), dims)

        def window(i: int, before: int, after: int) -> Taps:
            return taps.sliding(before, after, kernel[i], stride[i], padding[i], dilation[i])

        return [slid(p, dims, window)] * len(p.call.outputs)

    return rule


def _adaptive(dims: int) -> AxesRule:
    return lambda p: [slid(p, dims, lambda i, n, m: taps.adaptive(n, m))] * len(p.call.outputs)


def _padded(dims: int, *, edge: bool) -> AxesRule:
    def rule(p: Propagation) -> Answer:
        widths = p.get("padding")

        def window(i: int, before: int, after: int) -> Taps:
            at = 2 * (dims - 1 - i)
            return taps.reflected(before, widths[at], widths[at + 1], edge=edge)

        return slid(p, dims, window)

    return rule


def _resized(dims: int, reach: int, *, exact: bool = False, antialias: bool = False) -> AxesRule:
    """Resampling between ``2 * reach`` neighbors, or with ``reach`` 0 from the nearest one."""

    def rule(p: Propagation) -> Answer:
        ends = ("",) if dims == 1 else ("_d", "_h", "_w")[-dims:]
        scales = [p.get(f"scales{end}") for end in ends]

        def window(i: int, before: int, after: int) -> Taps:
            return taps.resized(
                before,
                after,
                reach,
                corners=bool(p.get("align_corners", False)),
                scale=scales[i],
                exact=exact,
                antialias=antialias,
            )

        return slid(p, dims, window)

    return rule


for _d in (1, 2, 3):
    _linear(f"reflection_pad{_d}d", axes=_padded(_d, edge=False))
    _linear(f"replication_pad{_d}d", axes=_padded(_d, edge=True))
    _linear(f"upsample_nearest{_d}d", axes=_resized(_d, 0))
    _linear(f"_upsample_nearest_exact{_d}d", axes=_resized(_d, 0, exact=True))
for _d in (2, 3):
    _linear(f"avg_pool{_d}d", axes=_pool(_d))
    _linear(f"_adaptive_avg_pool{_d}d", axes=_adaptive(_d))
    put(f"max_pool{_d}d_with_indices", degree_one, _pool(_d), family="homogeneous")
    put(f"adaptive_max_pool{_d}d", degree_one, _adaptive(_d), family="homogeneous")
    put(f"fractional_max_pool{_d}d", degree_one, family="homogeneous")  # windows drawn at random
_linear("upsample_linear1d", axes=_resized(1, 1))
_linear("upsample_bilinear2d", axes=_resized(2, 1))
_linear("_upsample_bilinear2d_aa", axes=_resized(2, 1, antialias=True))
_linear("upsample_bicubic2d", axes=_resized(2, 2))
_linear("_upsample_bicubic2d_aa", axes=_resized(2, 2, antialias=True))
_linear("upsample_trilinear3d", axes=_resized(3, 1))


# -- channels and places exchanged ------------------------------------------------------------


def _shuffled(p: Propagation) -> Answer:
    """Channels (C, r, r) go into rows and columns: (C, H, r, W, r)."""
    axes, r = p.first(), p.get("upscale_factor")
    if axes is None:
        return None
    *outer, channels, height, width = axes.shape
    n = len(outer)
    apart = regrouped(axes, [*outer, channels // r**2, r, r, height, width])
    if apart is None:
        return None
    moved = permuted(apart, [*range(n + 1), n + 3, n + 1, n + 4, n + 2])
    return regrouped(refined(moved, {n + 1: n + 2, n + 3: n + 4}), p.shape)


_linear("pixel_shuffle", axes=_shuffled)


def _unshuffled(p: Propagation) -> Answer:
    axes, r = p.first(), p.get("downscale_factor")
    if axes is None:
        return None
    *outer, channels, height, width = axes.shape
    n = len(outer)
    apart = regrouped(axes, [*outer, channels, height // r, r, width // r, r])
    order = [*range(n + 1), n + 2, n + 4, n + 1, n + 3]
    return apart and regrouped(permuted(apart, order), p.shape)


_linear("pixel_unshuffle", axes=_unshuffled)


def _channels_shuffled(p: Propagation) -> Answer:
    axes, groups = p.first(), p.get("groups")
    if axes is None:
        return None
    batch, channels, *places = axes.shape
    apart = regrouped(axes, [batch, groups, channels // groups, *places])
    return apart and regrouped(permuted(apart, [0, 2, 1, *range(3, 3 + len(places))]), axes.shape)


_linear("channel_shuffle", axes=_channels_shuffled)


# -- patches ----------------------------------------------------------------------------------


def _patch_taps(p: Propagation, sizes: Sequence[int]) -> list[Taps]:
    """Which places of rows and columns each patch holds, shape (patches, kernel)."""
    names = ("kernel_size", "dilation", "padding", "stride")
    kernel, dilation, padding, stride = (each(p.get(n), 2) for n in names)

    def along(i: int, n: int) -> Taps:
        after = (n + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        return taps.sliding(n, after, kernel[i], stride[i], padding[i], dilation[i])

    return [along(i, n) for i, n in enumerate(sizes)]


def _patches(p: Propagation) -> Answer:
    """Patches in the last axis; what is in a patch goes into channels (C, kernel, kernel)."""
    axes = p.first()
    if axes is None or len(axes.groups) != 4:
        return None
    found = _patch_taps(p, axes.shape[2:])
    for i, t in enumerate(found):
        moved = taken(axes, 2 + i, t.index.T.reshape(-1))
        if moved is None:
            return None
        axes = moved
    (rows, height), (columns, width) = (t.index.T.shape for t in found)
    apart = regrouped(axes, [*axes.shape[:2], rows, height, columns, width])
    return apart and regrouped(permuted(apart, [0, 1, 2, 4, 3, 5]), p.shape)


_linear("im2col", axes=_patches)


def _folded(p: Propagation) -> Answer:
    """Patches put back: each place reads its number in all patches that hold it."""
    axes, shape = p.first(), p.shape
    if axes is None or len(shape) != 4:
        return None
    found = _patch_taps(p, shape[2:])
    (height, rows), (width, columns) = (t.index.shape for t in found)
    apart = regrouped(axes, [shape[0], shape[1], rows, columns, height, width])
    together = apart and regrouped(
        permuted(apart, [0, 1, 2, 4, 3, 5]), [*shape[:2], rows * height, columns * width]
    )
    return together and windowed(
        together, {2 + i: taps.inverse(t, shape[2 + i]) for i, t in enumerate(found)}
    )


_linear("col2im", axes=_folded)


# -- numbers read at computed places -----------------------------------------------------------


def _sampled_bias(call: Call) -> tuple[Bias, ...] | None:
    """Linear in the image; where the places depend as well, the fallback answers."""
    return None if call.depends(call.get("grid")) else NO_BIAS


def _sampled_axes(p: Propagation) -> Answer:
    """Each number lies where it was read, which differs by sample."""
    axes, grid = p.first(), p.get("grid")
    modes = {0: 1, 1: 0}  # bilinear reads both neighbors, nearest the next one
    reach, padding = modes.get(p.get("interpolation_mode", 0)), p.get("padding_mode", 0)
    corners = p.get("align_corners", True)  # cuDNN's always do
    if axes is None or reach is None or padding not in (0, 1):
        return None
    found = grid.detach().double().cpu().numpy()
    rows, columns = (
        taps.sampled(found[..., 1 - i], axes.shape[2 + i], reach, corners, padding)
        for i in range(2)
    )
    return read_at(axes, (2, 3), p.shape[2:], _pairs(rows, columns))


def _pairs(rows: Indices, columns: Indices) -> tuple[Indices, Indices]:
    """Every row with every column of the same number: both shape (..., rows * columns).

    Neither is anywhere where one of them is not.
    """
    shape = (*rows.shape[:-1], -1)
    first, second = np.broadcast_arrays(rows[..., :, None], columns[..., None, :])
    missing = (first == NOWHERE) | (second == NOWHERE)
    return (
        np.where(missing, NOWHERE, first).reshape(shape),
        np.where(missing, NOWHERE, second).reshape(shape),
    )


put("grid_sampler_2d", _sampled_bias, _sampled_axes, family="affine", equivalent=grid_sampler_2d())


def _cudnn_sampled(image: Tensor, grid: Tensor) -> Tensor:
    return grid_sampler_2d()(image, grid, 0, 0, True)


put("cudnn_grid_sampler", _sampled_bias, _sampled_axes, family="affine", equivalent=_cudnn_sampled)


# -- deformable convolutions ------------------------------------------------------------------


def _deformed_bias(call: Call) -> tuple[Bias, ...] | None:
    """As a convolution's, the mask a third factor; where places depend the fallback answers."""
    if call.depends(call.get("offset")):
        return None
    masked = ("mask",) if call.get("use_mask") else ()
    return _product_and_shift(call, ("input", "weight", *masked))


def _steps(kernel: int, after: int, stride: int, padding: int, dilation: int) -> Tensor:
    """Where a window reads along one axis before it is moved, shape (kernel, places after)."""
    return torch.arange(kernel)[:, None] * dilation + torch.arange(after) * stride - padding


def _moved(
    offset: Tensor, kernel: Sequence[int], options: Sequence[Sequence[int]], groups: int
) -> tuple[Tensor, Tensor]:
    """The rows and columns that are read, shape (B, groups, kernel, height, width) each.

    Args:
        offset: shape (B, groups * kernel * 2, height, width), rows and columns in turn.
        kernel: its height and width.
        options: stride, padding and dilation, of rows and of columns.
        groups: of channels with offsets of their own.
    """
    (height, width), (high, wide) = kernel, offset.shape[2:]
    rows, columns = (
        _steps(n, after, *(o[i] for o in options)).to(offset)
        for i, (n, after) in enumerate(zip(kernel, (high, wide), strict=True))
    )
    moves = offset.reshape(len(offset), groups, height * width, 2, high, wide)
    base = (height, width, high, wide)
    return (
        moves[:, :, :, 0] + rows[:, None, :, None].expand(base).flatten(0, 1),
        moves[:, :, :, 1] + columns[None, :, None, :].expand(base).flatten(0, 1),
    )


def _deformed(
    x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor, *options: int
) -> Tensor:
    """``deform_conv2d`` in operations that have a forward mode.

    The arguments are those of torchvision's operation, in its order.
    """
    stride, padding, dilation = options[0:2], options[2:4], options[4:6]
    groups, offset_groups, masked = options[6:9]
    height, width = x.shape[2:]
    kernel = weight.shape[2:]
    rows, columns = _moved(offset, kernel, (stride, padding, dilation), offset_groups)
    pixels = x.reshape(len(x), offset_groups, -1, height * width)
    read = torch.zeros((), dtype=x.dtype, device=x.device)
    top, left = rows.detach().floor(), columns.detach().floor()
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        down, right = top + i, left + j
        there = (down >= 0) & (down < height) & (right >= 0) & (right < width)
        share = (rows - top if i else down + 1 - rows) * (
            columns - left if j else right + 1 - columns
        )
        place = down.clamp(0, height - 1) * width + right.clamp(0, width - 1)
        index = place.long().flatten(2)[:, :, None].expand(-1, -1, pixels.shape[2], -1)
        values = pixels.gather(3, index).unflatten(3, rows.shape[2:])
        read = read + values * (share * there)[:, :, None]
    if masked:
        read = read * mask.reshape(rows.shape)[:, :, None]
    parts = read.reshape(len(x), groups, -1, rows.shape[3] * rows.shape[4])
    product = weight.reshape(groups, len(weight) // groups, -1) @ parts
    return product.reshape(len(x), len(weight), *rows.shape[3:]) + bias.reshape(-1, 1, 1)


def _deformed_axes(p: Propagation) -> Answer:
    """Each place reads its window's places where the offsets move them, sample by sample."""
    axes, weight, offset = p.first(), p.get("weight"), p.get("offset")
    if axes is None:
        return None
    options = [(p.get(f"{name}_h"), p.get(f"{name}_w")) for name in ("stride", "pad", "dilation")]
    moved = _moved(
        offset.detach().double().cpu(), weight.shape[2:], options, p.get("offset_groups")
    )
    rows, columns = (
        _neighbors(m.flatten(1, 2).movedim(1, -1).numpy(), axes.shape[2 + i])
        for i, m in enumerate(moved)
    )
    pairs = [i.reshape(*p.shape[:1], *p.shape[2:], -1) for i in _pairs(rows, columns)]
    read = read_at(axes, (2, 3), p.shape[2:], pairs)
    return read and channels_read(read, 1, p.get("groups"), p.shape[1])


def _neighbors(places: Table, size: int) -> Indices:
    """The places between which each lies, shape (..., 2); ``NOWHERE`` for what is outside."""
    low = np.floor(places).astype(np.int64)
    index = np.stack([low, np.where(low == places, NOWHERE, low + 1)], -1)
    return np.where((index >= 0) & (index < size), index, NOWHERE)


put(
    "torchvision::deform_conv2d",
    _deformed_bias,
    _deformed_axes,
    family="affine",
    equivalent=_deformed,
)

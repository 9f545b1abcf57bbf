"""Sliding windows: convolutions, pooling, resampling, patches."""

from __future__ import annotations

from functools import partial

from fullgrad.axes.algebra import Atom, Axes, Coordinate, fresh, regrouped
from fullgrad.operations.call import NO_BIAS, Bias, Call, no_bias
from fullgrad.operations.homogeneous import degree_one
from fullgrad.operations.propagation import Answer, Propagation, slid, windowed
from fullgrad.operations.registry import put

_linear = partial(put, bias=no_bias, family="linear")


# -- convolutions -----------------------------------------------------------------------------


def _convolution_bias(call: Call) -> tuple[Bias, ...]:
    """The shift; all but one copy of the product less, if weight and input both depend."""
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


def _convolution_axes(p: Propagation) -> Answer:
    return windowed(len(p.shape) - 2, new_channels=True)(p)


put("convolution", _convolution_bias, _convolution_axes, family="affine")


# -- pooling, padding with numbers of the image, resampling -----------------------------------

for _dims in (1, 2, 3):
    _linear([f"reflection_pad{_dims}d", f"replication_pad{_dims}d"], axes=windowed(_dims))
    _linear([f"upsample_nearest{_dims}d", f"_upsample_nearest_exact{_dims}d"], axes=windowed(_dims))
for _dims in (2, 3):
    _linear([f"avg_pool{_dims}d", f"_adaptive_avg_pool{_dims}d"], axes=windowed(_dims))
    put(
        [
            f"max_pool{_dims}d_with_indices",
            f"adaptive_max_pool{_dims}d",
            f"fractional_max_pool{_dims}d",
        ],
        degree_one,
        windowed(_dims),
        family="homogeneous",
    )
_linear("upsample_linear1d", axes=windowed(1))
_linear(["upsample_bilinear2d", "_upsample_bilinear2d_aa"], axes=windowed(2))
_linear(["upsample_bicubic2d", "_upsample_bicubic2d_aa"], axes=windowed(2))
_linear("upsample_trilinear3d", axes=windowed(3))
put("torchvision::roi_pool", degree_one, family="homogeneous")


# -- channels and places exchanged ------------------------------------------------------------

_linear(["pixel_shuffle", "pixel_unshuffle"], axes=windowed(2, new_channels=True))


def _channels_shuffled(p: Propagation) -> Answer:
    return slid(p.first(), p.shape, len(p.shape) - 2, 0, fresh(p.shape[1]))


_linear("channel_shuffle", axes=_channels_shuffled)


# -- patches ----------------------------------------------------------------------------------


def _patches(p: Propagation) -> Answer:
    """Patches in the last axis, one place each; what is in a patch is channels."""
    before = p.input.shape
    if len(before) != 4 or p.rank != 2:
        return None
    kernel, dilation, padding, stride = (
        p.get(name) for name in ("kernel_size", "dilation", "padding", "stride")
    )
    sizes = [
        (before[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    ]
    cut = slid(p.first(), (*p.shape[:2], *sizes), 2, 2, fresh(p.shape[1]))
    return cut and regrouped(cut, p.shape)


_linear("im2col", axes=_patches)


def _folded(p: Propagation) -> Answer:
    """Patches put back: a grid of the size that is asked for."""
    axes, shape = p.first(), p.shape
    if axes is None or len(shape) != 4 or p.rank != 2:
        return None
    atoms = (Atom(shape[2]), Atom(shape[3]))
    groups = (axes.groups[0], fresh(shape[1]), *((a,) for a in atoms))
    return Axes(groups, tuple(Coordinate(a.size, (a,)) for a in atoms))


_linear("col2im", axes=_folded)

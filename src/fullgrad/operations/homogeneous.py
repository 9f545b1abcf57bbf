"""Operations positively homogeneous of degree k in their dependent arguments: b = (1 - k) y.

By Euler's theorem the derivative of op(t u) at t = 1 is k y. The degree of a product is the
number of its factors that depend on the input; of a quotient, numerator minus denominator.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from fullgrad.operations import _origins
from fullgrad.operations._local import Gradients, Local, degree, product, scaled
from fullgrad.operations._origins import OriginOf
from fullgrad.operations.call import NO_BIAS, Bias, BiasRule, Call, scaled_output
from fullgrad.operations.products import multiplied_again
from fullgrad.operations.propagation import elementwise, keeps_axes, reduces, reorders
from fullgrad.operations.registry import put

_homogeneous = partial(put, family="homogeneous")


def of_degree(degree: float) -> BiasRule:
    """Make the bias rule of an operation of that degree in its first argument.

    Args:
        degree: k, of op(t u) = t^k op(u) for t > 0.

    Returns:
        A rule for calls in which no other argument depends on the input.
    """

    def rule(call: Call) -> tuple[Bias, ...] | None:
        if any(map(call.depends, (*call.args[1:], *call.kwargs.values()))):
            return None
        return scaled_output(call, 1 - degree)

    return rule


degree_one = of_degree(1)

_homogeneous("relu", degree_one, elementwise, origin=_origins.rooted, activation="relu")
_homogeneous(["leaky_relu", "rrelu_with_noise"], degree_one, elementwise, activation="other")
_homogeneous("abs", degree_one, elementwise, origin=_origins.always(_origins.SQUARE))
_homogeneous("sqrt", of_degree(0.5), elementwise, balanced=degree(0.5), origin=_origins.rooted)
_homogeneous("rsqrt", of_degree(-0.5), elementwise, origin=_origins.inverted)
_homogeneous("reciprocal", of_degree(-1), elementwise, origin=_origins.inverted)
_homogeneous(["cummax", "cummin"], degree_one, keeps_axes)
_homogeneous(["sort", "topk"], degree_one, reorders, origin=_origins.carried)
_homogeneous(
    ["amax", "amin", "kthvalue", "median", "nanmedian", "mode"],
    degree_one,
    reduces,
    origin=_origins.reduced,
)
_homogeneous("std", degree_one, reduces, origin=_origins.always(_origins.NORM))
_homogeneous(
    "var", of_degree(2), reduces, balanced=degree(2), origin=_origins.always(_origins.NORM)
)


def _moments(call: Call, origin_of: OriginOf) -> Local | None:
    """``var_mean``: the variance has degree 2, the mean 1."""
    u, mean = call.args[0], call.outputs[1].detach()
    listed = call.get("dim")
    dims = sorted(d % u.dim() for d in (range(u.dim()) if listed is None else listed))
    correction, keeps = call.get("correction", 1), bool(call.get("keepdim", False))
    left = math.prod(u.shape[d] for d in dims) - (1 if correction is None else correction)

    def transpose(given: Gradients, above: Gradients, *held: Tensor) -> Gradients:
        gradient, (u, mean) = above[0], held
        if given[0] is None or gradient is None:
            return given
        for d in () if keeps else dims:
            gradient, mean = gradient.unsqueeze(d), mean.unsqueeze(d)
        return [given[0] - (u - mean) * (gradient / left)]

    return Local((), transpose, (u.detach(), mean))


_homogeneous("var_mean", axes=reduces, balanced=_moments, origin=_origins.always(_origins.NORM))


def _extremum(call: Call) -> tuple[Bias, ...] | None:
    """``max`` and ``min`` of one tensor, along an axis or not; of two tensors see ``affine``."""
    return None if "other" in call.names else NO_BIAS


_homogeneous(["max", "min"], _extremum, reduces, origin=_origins.reduced)


def _norm(call: Call) -> tuple[Bias, ...]:
    """Vector norms have degree 1, but for the zero-"norm", which counts."""
    return scaled_output(call, 1.0 if call.get("ord", 2) == 0 else 0.0)


_homogeneous("linalg_vector_norm", _norm, reduces, origin=_origins.always(_origins.NORM))


def _pow(call: Call) -> tuple[Bias, ...] | None:
    exponent = call.get("exponent")
    if isinstance(exponent, (Tensor, complex)) or isinstance(call.get("self"), (int, float)):
        return None
    return scaled_output(call, 1 - float(exponent))


def _balanced_pow(call: Call, origin_of: OriginOf) -> Local | None:
    exponent = call.get("exponent")
    positive = isinstance(exponent, (int, float)) and exponent > 0
    return degree(exponent)(call, origin_of) if positive else None


_homogeneous(
    "pow", _pow, elementwise, balanced=_balanced_pow, origin=_origins.powered, reads_input=True
)


def _mul(call: Call) -> tuple[Bias, ...]:
    if call.in_place and call.depends(call.args[0]) and call.depends(call.args[1]):
        return scaled_output(call, -1.0)
    return multiplied_again(call, torch.mul)


_homogeneous("mul", _mul, elementwise, balanced=product(0, 1), origin=_origins.multiplied)


def _div(call: Call) -> tuple[Bias, ...] | None:
    if call.get("rounding_mode") is not None:
        return None
    above, below = call.args[:2]
    return scaled_output(call, 1 - (call.depends(above) - call.depends(below)))


def _ratio(call: Call, origin_of: OriginOf) -> Local | None:
    """The denominator is constant."""
    above, below = call.args[:2]
    both = call.depends(above) and call.depends(below) and call.get("rounding_mode") is None
    return Local((), scaled(1.0, None)) if both else None


_homogeneous("div", _div, elementwise, balanced=_ratio, origin=_origins.divided, reads_input=True)


def _prelu(call: Call) -> tuple[Bias, ...] | None:
    """Homogeneous in the activation; in a slope that depends on the input as well, general."""
    return NO_BIAS if not call.depends(call.args[1]) else None


_homogeneous("_prelu_kernel", _prelu, elementwise, activation="other")

# Of degree 0, and their derivative is zero: all of y is bias.
_homogeneous(
    ["sign", "sgn", "floor", "ceil", "round", "trunc"],
    of_degree(0),
    elementwise,
    piecewise_constant=True,
)

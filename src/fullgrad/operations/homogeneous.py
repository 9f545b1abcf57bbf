"""Operations positively homogeneous of degree k in their dependent arguments: b = (1 - k) y.

By Euler's theorem the derivative of op(t u) at t = 1 is k y. The degree of a product is the
number of its factors that depend on the input; of a quotient, numerator minus denominator.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

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

_homogeneous("relu", degree_one, elementwise, activation="relu")
_homogeneous(["leaky_relu", "rrelu_with_noise"], degree_one, elementwise, activation="other")
_homogeneous("abs", degree_one, elementwise)
_homogeneous("sqrt", of_degree(0.5), elementwise)
_homogeneous("rsqrt", of_degree(-0.5), elementwise)
_homogeneous("reciprocal", of_degree(-1), elementwise)
_homogeneous(["cummax", "cummin"], degree_one, keeps_axes)
_homogeneous(["sort", "topk"], degree_one, reorders)
_homogeneous(
    ["amax", "amin", "kthvalue", "median", "nanmedian", "mode", "std"], degree_one, reduces
)
_homogeneous("var", of_degree(2), reduces)


def _extremum(call: Call) -> tuple[Bias, ...] | None:
    """``max`` and ``min`` of one tensor, along an axis or not; of two tensors see ``affine``."""
    return None if "other" in call.names else NO_BIAS


_homogeneous(["max", "min"], _extremum, reduces)


def _norm(call: Call) -> tuple[Bias, ...]:
    """Vector norms have degree 1, but for the zero-"norm", which counts."""
    return scaled_output(call, 1.0 if call.get("ord", 2) == 0 else 0.0)


_homogeneous("linalg_vector_norm", _norm, reduces)


def _pow(call: Call) -> tuple[Bias, ...] | None:
    exponent = call.get("exponent")
    if isinstance(exponent, (Tensor, complex)) or isinstance(call.get("self"), (int, float)):
        return None
    return scaled_output(call, 1 - float(exponent))


_homogeneous("pow", _pow, elementwise, reads_input=True)


def _mul(call: Call) -> tuple[Bias, ...]:
    if call.in_place and call.depends(call.args[0]) and call.depends(call.args[1]):
        return scaled_output(call, -1.0)
    return multiplied_again(call, torch.mul)


_homogeneous("mul", _mul, elementwise)


def _div(call: Call) -> tuple[Bias, ...] | None:
    if call.get("rounding_mode") is not None:
        return None
    above, below = call.args[:2]
    return scaled_output(call, 1 - (call.depends(above) - call.depends(below)))


_homogeneous("div", _div, elementwise, reads_input=True)


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

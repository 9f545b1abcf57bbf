"""Operations positively homogeneous of degree k in their dependent arguments: b = (1 - k) y.

By Euler's theorem the derivative of op(t u) at t = 1 is k y. The degree of a product is the
number of its factors that depend on the input; of a quotient, numerator minus denominator.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fullgrad.operations.registry import NO_BIAS, Bias, Call, register

# Degree 1 in their first argument, which is the only one that may depend on the input.
_DEGREE_ONE = [
    "relu",
    "leaky_relu",
    "abs",
    "rrelu_with_noise",
    "amax",
    "amin",
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "fractional_max_pool2d",
    "fractional_max_pool3d",
    "sort",
    "topk",
    "kthvalue",
    "median",
    "nanmedian",
    "mode",
    "cummax",
    "cummin",
    "std",
]

_DEGREE = {"sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0, "var": 2.0}


def scaled_output(call: Call, factor: float) -> tuple[Bias, ...]:
    """The bias ``factor`` times the output."""
    if factor == 0:
        return NO_BIAS
    return (Bias("implicit", lambda y: factor * y, (call.output,), samplewise=True),)


def _first_only(call: Call, degree: float) -> tuple[Bias, ...] | None:
    if any(call.depends(a) for a in call.args[1:]) or any(map(call.depends, call.kwargs.values())):
        return None
    return scaled_output(call, 1 - degree)


def _of_degree(degree: float) -> Callable[[Call], tuple[Bias, ...] | None]:
    return lambda call: _first_only(call, degree)


def _extremum(call: Call) -> tuple[Bias, ...] | None:
    """``max`` and ``min`` of one tensor, along an axis or not; of two tensors see ``affine``."""
    if len(call.names) > 1 and call.names[1] == "other":
        return None
    return NO_BIAS


def _pow(call: Call) -> tuple[Bias, ...] | None:
    exponent = call.get("exponent")
    if isinstance(exponent, (Tensor, complex)) or isinstance(call.get("self"), (int, float)):
        return None
    return scaled_output(call, 1 - float(exponent))


def _norm(call: Call) -> tuple[Bias, ...]:
    """Vector norms have degree 1, but for the zero-"norm", which counts."""
    return scaled_output(call, 1.0 if call.get("ord", 2) == 0 else 0.0)


def _product(call: Call) -> tuple[Bias, ...]:
    """Matrix products: the degree is the number of factors that depend on the input.

    Multiplied out again when needed, as in :func:`_mul`.
    """
    return _multiplied_again(call, torch.matmul)


def _mul(call: Call) -> tuple[Bias, ...]:
    if call.in_place and call.depends(call.args[0]) and call.depends(call.args[1]):
        return scaled_output(call, -1.0)
    return _multiplied_again(call, torch.mul)


def _multiplied_again(call: Call, multiply: Callable[[Tensor, Tensor], Tensor]) -> tuple[Bias, ...]:
    """Autograd keeps the factors, not the product."""
    left, right = call.args[:2]
    if not (call.depends(left) and call.depends(right)):
        return NO_BIAS
    return (
        Bias(
            "implicit",
            lambda a, b: multiply(a, b).neg_(),
            (left.detach(), right.detach()),
            samplewise=multiply is torch.mul or call.outputs[0].dim() == 3,
        ),
    )


def _div(call: Call) -> tuple[Bias, ...] | None:
    if call.get("rounding_mode") is not None:
        return None
    above, below = call.args[:2]
    return scaled_output(call, 1 - (call.depends(above) - call.depends(below)))


def _prelu(call: Call) -> tuple[Bias, ...] | None:
    """Homogeneous in the activation; in a slope that depends on the input as well, general."""
    return NO_BIAS if not call.depends(call.args[1]) else None


def _constant(call: Call) -> tuple[Bias, ...]:
    """Piecewise constant: the derivative is zero, so all of y is bias."""
    return scaled_output(call, 1.0)


def install() -> None:
    """Register the homogeneous rules."""
    register(_DEGREE_ONE, _of_degree(1), family="homogeneous")
    register(["max", "min"], _extremum, family="homogeneous")
    for name, degree in _DEGREE.items():
        register(name, _of_degree(degree), family="homogeneous")
    register(["sign", "sgn", "floor", "ceil", "round", "trunc"], _constant, family="homogeneous")
    register("linalg_vector_norm", _norm, family="homogeneous")
    register("pow", _pow, family="homogeneous", reads_input=True)
    register(["mm", "bmm", "dot", "mv"], _product, family="homogeneous")
    register("mul", _mul, family="homogeneous")
    register("div", _div, family="homogeneous", reads_input=True)
    register("_prelu_kernel", _prelu, family="homogeneous")

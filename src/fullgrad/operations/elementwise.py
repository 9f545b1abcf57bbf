"""Element-wise non-linearities y = g(u): b = g(u) - g'(u) u, in closed form.

Each formula reads the input (and its output where that is cheaper). What has no formula takes the
forward-mode fallback; it stands here because an operation is element-wise only if a list says so.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fullgrad._decisions import decided
from fullgrad.operations import _origins
from fullgrad.operations._local import (
    Gradients,
    Local,
    each_dependent,
    of_factors,
    scaled,
    secant,
    secant_of,
)
from fullgrad.operations._origins import OriginOf
from fullgrad.operations.call import NO_BIAS, Bias, BiasRule, Call, explicit
from fullgrad.operations.propagation import elementwise, reorders
from fullgrad.operations.registry import put


def _of_input(formula: Callable[[Tensor], Tensor]) -> Callable[[Call], tuple[Bias, ...]]:
    return lambda call: (Bias("implicit", formula, (call.args[0].detach(),), samplewise=True),)


def _silu(y: Tensor, u: Tensor) -> Tensor:
    """- u^2 s (1 - s), s = sigmoid(u): with y = u s that is y (y - u), without another sigmoid."""
    return torch.sub(y, u).mul_(y)


_SIXTH = float(torch.tensor(1 / 6, dtype=torch.float32))


def _gelu(call: Call) -> tuple[Bias, ...]:
    if call.get("approximate", "none") == "none":
        return _of_input(_gelu_exact)(call)
    return _of_input(_gelu_tanh)(call)


def _gelu_exact(u: Tensor) -> Tensor:
    """- u^2 phi(u), phi the normal density, whose constant factor goes into the exponent."""
    square = torch.addcmul(u.new_zeros(()), u, u, value=-1)
    constant = u.new_full((), -0.5 * math.log(2 * math.pi))
    return torch.add(constant, square, alpha=0.5).exp_().mul_(square)


def _gelu_tanh(u: Tensor) -> Tensor:
    """- u^2/2 (1 - tanh^2 v) v'(u), v = sqrt(2/pi) (u + 0.044715 u^3)."""
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    square = u * u
    tanh = torch.tanh(scale * u * (1 + cubic * square))
    return square.mul(-0.5 * scale).mul_(1 - tanh * tanh).mul_(1 + 3 * cubic * square)


def _hardswish(u: Tensor) -> Tensor:
    """- u^2/6 on (-3, 3), where hardswish is u (u + 3)/6, else 0.

    PyTorch's GPU kernel takes one sixth in float32 even for float64 numbers, but not in the
    derivative.
    """
    if u.dtype == torch.float64 and u.device.type != "cpu":
        slope = torch.where(u.abs() < 3, u / 3 + 0.5, (u >= 3).to(u.dtype))
        return F.hardswish(u) - slope * u
    squares = torch.addcmul(u.new_zeros(()), u, u, value=-1)
    return torch.threshold_(squares, -9.0, 0.0).mul_(1 / 6)


def _hardsigmoid(call: Call) -> tuple[Bias, ...]:
    """Near 1/2 between -3 and 3, saturated outside.

    PyTorch's derivative is one sixth in float32 even for float64 numbers; the bias belongs to the
    derivative that back-propagation uses.
    """

    def formula(u: Tensor) -> Tensor:
        inside = (u > -3) & (u < 3)
        return torch.where(inside, F.hardsigmoid(u) - _SIXTH * u, F.hardsigmoid(u))

    return _of_input(formula)(call)


@functools.cache
def _passes_at_limit(name: str) -> bool:
    """Whether a clamp passes the gradient where the input equals its limit; versions differ."""
    limits = {"clamp": {"min": 1.0, "max": 2.0}, "low": {"min": 1.0}, "high": {"max": 1.0}}[name]
    with torch.inference_mode(False), torch.enable_grad():
        u = torch.ones((), requires_grad=True)
        (gradient,) = torch.autograd.grad(u.clamp(**limits), u)
    return bool(gradient == 1)


def _clamp_gradient(u: Tensor, low: float | None, high: float | None) -> Tensor:
    name = "clamp" if low is not None and high is not None else "low" if high is None else "high"
    passes = _passes_at_limit(name)
    inside = torch.ones_like(u, dtype=torch.bool)
    if low is not None:
        inside &= (u >= low) if passes else (u > low)
    if high is not None:
        inside &= (u <= high) if passes else (u < high)
    return inside


def _clamp(call: Call) -> tuple[Bias, ...] | None:
    low, high = call.get("min"), call.get("max")
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return None

    def formula(u: Tensor) -> Tensor:
        return u.clamp(low, high).masked_fill_(_clamp_gradient(u, low, high), 0)

    return _of_input(formula)(call)


def _one_sided(call: Call) -> tuple[Bias, ...] | None:
    """``clamp_min`` and ``clamp_max`` with a number."""
    low, high = call.get("min"), call.get("max")
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return None
    if low == 0 or high == 0:
        return NO_BIAS
    return _clamp(call)


def _hardtanh(call: Call) -> tuple[Bias, ...]:
    """The gradient is zero *at* the ends too, unlike that of ``clamp``."""
    low, high = call.get("min_val", -1), call.get("max_val", 1)

    def formula(u: Tensor) -> Tensor:
        return u.clamp(low, high).masked_fill_((u > low) & (u < high), 0)

    return _of_input(formula)(call)


def _threshold(call: Call) -> tuple[Bias, ...]:
    limit, value = call.get("threshold"), call.get("value")
    if value == 0:
        return NO_BIAS

    def formula(u: Tensor) -> Tensor:
        return torch.where(u > limit, torch.zeros_like(u), torch.full_like(u, value))

    return _of_input(formula)(call)


def _sigmoid(y: Tensor, u: Tensor) -> Tensor:
    return y - y * (1 - y) * u


def _tanh(y: Tensor, u: Tensor) -> Tensor:
    return y - (1 - y * y) * u


def _exp(y: Tensor, u: Tensor) -> Tensor:
    return torch.where(y == 0, y, y * (1 - u))


def _of_both(formula: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call], tuple[Bias, ...]]:
    return lambda call: (
        Bias("implicit", formula, (call.output, call.args[0].detach()), samplewise=True),
    )


def _softplus(call: Call) -> tuple[Bias, ...]:
    beta, threshold = call.get("beta", 1), call.get("threshold", 20)

    def formula(u: Tensor) -> Tensor:
        smooth = F.softplus(u, beta, threshold) - torch.sigmoid(beta * u) * u
        return smooth.masked_fill_(u * beta > threshold, 0)

    return _of_input(formula)(call)


def _elu(call: Call) -> tuple[Bias, ...]:
    """``scale alpha (e^v - 1 - v e^v)`` with v = input_scale u where u <= 0; homogeneous above."""
    alpha, scale = call.get("alpha", 1), call.get("scale", 1)
    input_scale = call.get("input_scale", 1)

    def formula(u: Tensor) -> Tensor:
        v = (u * input_scale).clamp_(max=0)
        return (torch.expm1(v) - v * torch.exp(v)).mul_(alpha * scale)  # type: ignore[no-any-return]

    return _of_input(formula)(call)


def _mish(u: Tensor) -> Tensor:
    """- u^2 (1 - t^2) sigmoid(u), t = tanh(softplus(u))."""
    t = torch.tanh(F.softplus(u))
    return -(u * u) * (1 - t * t) * torch.sigmoid(u)


def _log_sigmoid(u: Tensor) -> Tensor:
    return F.logsigmoid(u) - torch.sigmoid(-u) * u


def _put(name: str, bias: BiasRule, kept: bool = True, activation: str | None = "other") -> None:
    """Enter an operation with a formula; ``kept``: autograd keeps its input, not its result."""
    put(
        name,
        bias,
        elementwise,
        family="element-wise",
        reads_input=True,
        autograd_keeps_input=kept,
        activation=activation,
    )


_put("silu", _of_both(_silu))
_put("gelu", _gelu)
_put("hardswish", _of_input(_hardswish))
_put("hardsigmoid", _hardsigmoid)
_put("hardtanh", _hardtanh)
_put("clamp", _clamp)
_put("clamp_min", _one_sided, activation="relu")
_put("clamp_max", _one_sided, activation=None)
_put("threshold", _threshold, activation="relu")
_put("softplus", _softplus)
_put("mish", _of_input(_mish))
_put("log_sigmoid_forward", _of_input(_log_sigmoid))
_put("elu", _elu, kept=False)
_put("sigmoid", _of_both(_sigmoid), kept=False)
_put("tanh", _of_both(_tanh), kept=False)
_put("exp", _of_both(_exp), kept=False, activation=None)
_put("log", _of_both(lambda y, u: y - 1), activation=None)
_put("sin", _of_both(lambda y, u: y - torch.cos(u) * u), activation=None)
_put("cos", _of_both(lambda y, u: y + torch.sin(u) * u), activation=None)

# -- without a formula ------------------------------------------------------------------------

_ACTIVATIONS = "celu erf hardshrink softshrink"
_OF_ONE = """
acos acosh angle asin asinh atan atanh cosh deg2rad digamma erfc erfinv exp2 expm1 frac i0 lgamma
log10 log1p log2 logit mvlgamma nan_to_num polygamma rad2deg sinc sinh special_entr special_erfcx
special_i0e special_i1 special_i1e special_log_ndtr special_ndtri tan
"""
_OF_SEVERAL = """
addcdiv addcmul atan2 complex copysign fmod hypot lerp logaddexp logaddexp2 polar remainder
special_xlog1py xlogy
"""
# With a reduction they are not, and their shape says so.
_LOSSES = "binary_cross_entropy huber_loss mse_loss smooth_l1_loss soft_margin_loss"

put(_ACTIVATIONS, axes=elementwise, family="element-wise", activation="other")
for _listed in (_OF_ONE, _OF_SEVERAL, _LOSSES):
    put(_listed, axes=elementwise, family="element-wise")


# -- the balanced linearization ---------------------------------------------------------------

_THROUGH_ZERO = """
silu gelu hardswish mish elu celu tanh erf softshrink
asin asinh atan atanh expm1 log1p sin sinh tan
"""
put(_THROUGH_ZERO, balanced=secant())
put("log_sigmoid_forward", balanced=secant(-math.log(2), 0.5))
put(["cos", "cosh"], balanced=secant(1.0, 0.0))
put("exp", balanced=secant(1.0, 1.0), origin=_origins.exponential)
put("exp2", balanced=secant(1.0, math.log(2)))
put("acos", balanced=secant(math.pi / 2, -1.0))


def _softplus_secant(call: Call, origin_of: OriginOf) -> Local | None:
    return secant_of(call, math.log(2) / call.get("beta", 1), 0.5)


def _clamp_secant(call: Call, origin_of: OriginOf) -> Local | None:
    low, high = call.get("min", call.get("min_val")), call.get("max", call.get("max_val"))
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return None
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    if decided(torch.isinf(call.args[0].detach()).any()):
        return None  # masked scores, whose clamped value is a constant
    return secant_of(call, float(min(max(0.0, low), high)), float(low < 0 < high))


put("softplus", balanced=_softplus_secant, origin=_origins.always(_origins.POSITIVE))
put(["clamp", "hardtanh", "clamp_max"], balanced=_clamp_secant, origin=_origins.clamped)
put("clamp_min", balanced=_clamp_secant, origin=_origins.clamped)
put("log_sigmoid_forward", origin=_origins.always(_origins.NEGATIVE))
put(["sigmoid", "hardsigmoid", "erfc"], origin=_origins.always(_origins.GATE))
put(["tanh", "erf"], origin=_origins.always(_origins.SWITCH))


def _added_product(call: Call, origin_of: OriginOf) -> Local | None:
    """``addcmul``: a product of two, added to something."""
    transpose = of_factors(call, (1, 2), origin_of)
    return None if transpose is None else Local(_rest(call), transpose)


def _added_ratio(call: Call, origin_of: OriginOf) -> Local | None:
    """``addcdiv``: a ratio, whose denominator is constant."""
    above, below = call.get("tensor1"), call.get("tensor2")
    if not (call.depends(above) and call.depends(below)):
        return None
    return Local(_rest(call), each_dependent(call, {2: None}))


def _rest(call: Call) -> tuple[Bias, ...]:
    added = call.args[0]
    constant = not call.depends(added)
    return explicit(added.detach(), 1, call.outputs[0].shape) if constant else NO_BIAS


def _between(call: Call, origin_of: OriginOf) -> Local | None:
    """``lerp`` by a gate: linear in both ends."""
    start, end, weight = call.args[:3]
    found = origin_of(weight)
    if found is None or not found.is_gate or not (call.depends(start) and call.depends(end)):
        return None
    return Local((), scaled(1.0, 1.0, None))


put("addcmul", balanced=_added_product)
put("addcdiv", balanced=_added_ratio)
put("lerp", balanced=_between)


def _gated_half(call: Call, origin_of: OriginOf) -> Local | None:
    """``glu``: the first half times a gate made of the second."""
    dim = call.get("dim", -1)

    def transpose(given: Gradients, above: Gradients, *held: Tensor) -> Gradients:
        if given[0] is None:
            return given
        passed, gate = given[0].chunk(2, dim)
        return [torch.cat([passed, torch.zeros_like(gate)], dim)]

    return Local((), transpose)


# Half the channels gate the others; half the positions would lie in two places.
put("glu", axes=reorders, family="element-wise", activation="other", balanced=_gated_half)

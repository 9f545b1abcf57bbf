"""Where a value comes from, as far as the balanced linearization asks: what is a gate.

A gate multiplies an activation and says how much of it passes: softmax, sigmoid, 1 + tanh,
1 + erf, exp(-...), the reciprocal (root) of a norm or variance; also scaled, masked, moved, mixed
by constant weights, 1 - gate, gate times gate. An origin is asked of the program that ran, and of
constants, never of the values of a sample, so that a sample's map does not depend on its batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from torch import Tensor

from fullgrad._decisions import decided, numbers_of
from fullgrad.operations.call import Call, dependents

Made = Literal["gate", "weights", "switch", "shifted", "square", "norm", "exp", "total", ""]


@dataclass(frozen=True, slots=True)
class Origin:
    """What made a value.

    Args:
        made: ``gate``; ``weights`` (a softmax, which is a gate); ``switch`` (tanh, erf: a gate once
            the number is added that makes it positive); ``shifted`` (a number added to
            anything: a gate if it is then clamped between zero and a larger number); ``square``
            (not negative, element by element), ``norm`` (a mean or sum of squares, or its root);
            ``exp``, ``total`` (the sum of such, or with a number added); or nothing of these.
        sign: 1 if the values are never negative, -1 if never positive, 0 if that is not known.
        key: which ``exp`` it was; the factor of a ``switch``; the number of ``shifted``.
    """

    made: Made = ""
    sign: int = 0
    key: Any = None

    @property
    def is_gate(self) -> bool:
        """Whether the value is a gate."""
        return self.made in ("gate", "weights")


OriginOf: TypeAlias = "Callable[[Any], Origin | None]"
# From a call and the origins of its arguments to the origin of its outputs; None for none.
OriginRule: TypeAlias = "Callable[[Call, OriginOf], Origin | None]"

GATE, WEIGHTS, SWITCH = Origin("gate", 1), Origin("weights", 1), Origin("switch", 0, 1.0)
SQUARE, NORM = Origin("square", 1), Origin("norm", 1)
POSITIVE, NEGATIVE = Origin("", 1), Origin("", -1)


def always(origin: Origin) -> OriginRule:
    """The rule of an operation whose output has that origin whatever it is given."""
    return lambda call, origin_of: origin


def carried(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of what only moves numbers: their origin stays."""
    found = [origin_of(t) for t in dependents(call)]
    return found[0] if found and all(o == found[0] for o in found) else None


def mixed(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of linear and affine operations: gates that are mixed, or masked, are gates."""
    found = [origin_of(t) for t in dependents(call)]
    gates = found and all(o is not None and o.is_gate for o in found)
    return Origin("gate") if gates else None  # the weights may have any sign


def reduced(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of sums, means and extrema."""
    found = origin_of(call.args[0])
    if found is None:
        return None
    if found.made in ("square", "norm"):
        return NORM
    if found.made == "exp":
        return replace(found, made="total")
    return found if found.is_gate or found.made == "total" else _signed(found.sign)


def accumulated(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of ``cumsum``."""
    found = origin_of(call.args[0])
    return found if found is None or found.is_gate else _signed(found.sign)


def _signed(sign: int) -> Origin | None:
    return Origin("", sign) if sign else None


def _number(value: Any) -> bool:
    """Whether a constant is one real number."""
    if isinstance(value, Tensor):
        return value.dim() == 0 and not value.is_complex()
    return not isinstance(value, complex)


def _float(constant: Any) -> float:
    """A constant of one number."""
    return float(numbers_of(constant) if isinstance(constant, Tensor) else constant)


def _sign_of(constant: Any, call: Call) -> int:
    """1 or -1 if a constant is never negative, or never positive.

    Only a constant that all samples share is asked: not one that differs along an axis of the
    result which counts samples, nor one of several numbers where that axis is not known.

    Args:
        constant: a factor.
        call: of which it is a factor.
    """
    if not isinstance(constant, Tensor):
        return 0 if isinstance(constant, complex) else 1 if constant >= 0 else -1
    if constant.is_complex() or (constant.numel() > 1 and _may_differ(constant, call)):
        return 0
    return 1 if decided((constant >= 0).all()) else -1 if decided((constant <= 0).all()) else 0


def _may_differ(constant: Tensor, call: Call) -> bool:
    """Whether a factor may hold other numbers for each sample."""
    if call.sample_axes is None:
        return True
    ahead = call.outputs[0].dim() - constant.dim()
    return any(constant.shape[d - ahead] != 1 for d in call.sample_axes if d >= ahead)


def negated(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of ``neg``."""
    found = origin_of(call.args[0])
    return None if found is None else _times(found, -1, call)


def _times(found: Origin, factor: Any, call: Call) -> Origin | None:
    """A value times (or divided by) a constant."""
    if found.made == "switch":
        if not _number(factor):
            return None
        return replace(found, key=found.key * abs(_float(factor)))
    sign = found.sign * _sign_of(factor, call) if found.sign else 0
    if found.is_gate or (found.made in ("exp", "total") and _number(factor)):
        return replace(found, sign=sign)
    return found if found.made in ("square", "norm") and sign > 0 else _signed(sign)


def added(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of ``add``, ``sub`` and ``rsub``."""
    first, second = call.args[:2]
    ours, theirs = origin_of(first), origin_of(second)
    less = "add" not in call.name
    if call.depends(first) and call.depends(second):
        if ours is None or theirs is None:
            return None
        if ours.is_gate and theirs.is_gate:
            return Origin("gate", 0 if less else min(ours.sign, theirs.sign))
        if ours.made == theirs.made and ours.made in ("square", "norm") and not less:
            return ours
        return None if less or ours.sign != theirs.sign else _signed(ours.sign)
    found, constant = (ours, second) if call.depends(first) else (theirs, first)
    number = _float(constant) if _number(constant) else None
    more = number is not None and not less and number >= 0
    sign = 1 if found is not None and found.sign > 0 and more else 0
    if found is None or found.made in ("", "shifted"):
        return None if number is None or less else Origin("shifted", sign, number)
    if found.made == "switch":  # s tanh + s, s - s tanh
        return GATE if number is not None and math.isclose(number, found.key) else None
    if found.is_gate:
        return Origin("gate", sign)
    if found.made == "exp":
        return replace(found, made="total") if more else None
    return replace(found, sign=sign) if number is not None else None


def multiplied(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of ``mul`` and of matrix products."""
    first, second = call.args[:2]
    ours, theirs = origin_of(first), origin_of(second)
    by_element = "mul" in call.name
    if not (call.depends(first) and call.depends(second)):
        found, constant = (ours, second) if call.depends(first) else (theirs, first)
        if not by_element:
            return mixed(call, origin_of)
        return None if found is None else _times(found, constant, call)
    gates = ours is not None and theirs is not None and ours.is_gate and theirs.is_gate
    if by_element and first is second and not gates:
        return None if call.outputs[0].is_complex() else SQUARE
    if ours is None or theirs is None:
        return None
    sign = ours.sign * theirs.sign
    return Origin("gate", sign) if gates else _signed(sign)


def divided(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of ``div``."""
    above, below = call.args[:2]
    ours, theirs = origin_of(above), origin_of(below)
    if not call.depends(below):
        return None if ours is None else _times(ours, below, call)
    if theirs is None:
        return None
    if not call.depends(above):
        return GATE if theirs.made in ("norm", "total") else None
    if ours is None:
        return None
    if ours.made == "exp" and theirs.made == "total" and ours.key is theirs.key:
        return WEIGHTS
    return GATE if ours.is_gate and theirs.is_gate else None


def powered(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of ``pow`` with a number."""
    exponent, found = call.get("exponent"), origin_of(call.args[0])
    if not isinstance(exponent, (int, float)) or call.outputs[0].is_complex():
        return None
    if found is not None and found.is_gate:
        return found if exponent > 0 else None
    if found is not None and found.made == "norm":
        return NORM if exponent > 0 else GATE
    return SQUARE if exponent > 0 and exponent % 2 == 0 else None


def rooted(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of ``sqrt`` and ``relu``."""
    found = origin_of(call.args[0])
    kept = found is not None and (found.is_gate or found.made in ("square", "norm"))
    return found if kept else POSITIVE


def inverted(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of ``reciprocal`` and ``rsqrt``."""
    found = origin_of(call.args[0])
    return GATE if found is not None and found.made in ("norm", "total") else None


def clamped(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of clamps: hard-sigmoid written out is a gate."""
    low = call.get("min", call.get("min_val"))
    high = call.get("max", call.get("max_val"))
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return None
    found = origin_of(call.args[0])
    if found is not None and (found.is_gate or found.made in ("norm", "square")):
        return found
    if low is None or low < 0:
        return None
    shift = found.key if found is not None and found.made == "shifted" else 0.0
    return GATE if low == 0 and high is not None and 0 < shift < high else POSITIVE


def exponential(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of ``exp``."""
    found = origin_of(call.args[0])
    if found is not None and found.sign < 0:
        return GATE
    return Origin("exp", 1, object())

"""Where a value comes from, as far as the balanced linearization asks: what is a gate.

A gate multiplies an activation and says how much of it passes: softmax, sigmoid, 1 + tanh,
1 + erf, exp(-...), the reciprocal (root) of a norm or variance; also scaled, masked, moved, mixed
by constant weights, 1 - gate, gate times gate. An origin is asked of the program that ran, and of
constants, never of the values of a sample, so that a sample's map does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from torch import Tensor

from fullgrad.operations.call import Call, dependents

Made = Literal["gate", "switch", "shifted", "square", "norm", "exp", "total", ""]


@dataclass(frozen=True, slots=True)
class Origin:
    """What made a value.

    Args:
        made: ``gate``; ``switch`` (tanh, erf: a gate once a number is added); ``shifted`` (a
            number added to anything: a gate if it is then clamped between zero and a number);
            ``square`` (not negative, element by element), ``norm`` (a mean or sum of squares, or
            its root); ``exp``, ``total`` (the sum of such); or nothing of these.
        sign: 1 if the values are never negative, -1 if never positive, 0 if that is not known.
        key: which ``exp`` it was.
    """

    made: Made = ""
    sign: int = 0
    key: Any = None

    @property
    def is_gate(self) -> bool:
        """Whether the value is a gate."""
        return self.made == "gate"


OriginOf: TypeAlias = "Callable[[Any], Origin | None]"
# From a call and the origins of its arguments to the origin of its outputs; None for none.
OriginRule: TypeAlias = "Callable[[Call, OriginOf], Origin | None]"

GATE, SWITCH = Origin("gate", 1), Origin("switch")
SQUARE, NORM, POSITIVE = Origin("square", 1), Origin("norm", 1), Origin("", 1)


def always(origin: Origin) -> OriginRule:
    """The rule of an operation whose output has that origin whatever it is given."""
    return lambda call, origin_of: origin


def carried(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of what only moves numbers: they come from where they came from."""
    found = [origin_of(t) for t in dependents(call)]
    return found[0] if found and all(o == found[0] for o in found) else None


def mixed(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of linear and affine operations: gates that are mixed, or masked, are gates."""
    found = [origin_of(t) for t in dependents(call)]
    return GATE if found and all(o is not None and o.is_gate for o in found) else None


def reduced(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of sums and means."""
    found = origin_of(call.args[0])
    if found is None:
        return None
    if found.made in ("square", "norm"):
        return NORM
    if found.made == "exp":
        return replace(found, made="total")
    return (
        found if found.made in ("gate", "total") else Origin("", found.sign) if found.sign else None
    )


def _number(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.dim() == 0


def _sign_of(value: Any) -> int:
    """1 or -1 if a constant is never negative, or never positive."""
    if not isinstance(value, Tensor):
        return 1 if value >= 0 else -1
    return 1 if bool((value >= 0).all()) else -1 if bool((value <= 0).all()) else 0


def negated(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of ``neg``."""
    found = origin_of(call.args[0])
    return None if found is None else _times(found, -1)


def _times(found: Origin, factor: Any) -> Origin | None:
    """A value times a constant."""
    if found.is_gate or (found.made in ("switch", "exp", "total") and _number(factor)):
        return found
    sign = found.sign * _sign_of(factor) if found.sign else 0
    if found.made in ("square", "norm") and sign > 0:
        return found
    return Origin("", sign) if sign else None


def added(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of ``add``, ``sub`` and ``rsub``."""
    first, second = call.args[:2]
    ours, theirs = origin_of(first), origin_of(second)
    if call.depends(first) and call.depends(second):
        if ours is None or theirs is None or ours.made != theirs.made:
            return None
        less = "add" not in call.name
        return ours if ours.is_gate or (ours.made in ("square", "norm") and not less) else None
    found, constant = (ours, second) if call.depends(first) else (theirs, first)
    if found is None or found.made in ("", "shifted"):
        return Origin("shifted") if _number(constant) and "add" in call.name else None
    if found.made == "switch":
        return GATE if _number(constant) else None
    return found if _number(constant) or found.is_gate else None


def multiplied(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of ``mul`` and of matrix products."""
    first, second = call.args[:2]
    ours, theirs = origin_of(first), origin_of(second)
    if not (call.depends(first) and call.depends(second)):
        found, constant = (ours, second) if call.depends(first) else (theirs, first)
        if found is None:
            return None
        return _times(found, constant) if "mul" in call.name else mixed(call, origin_of)
    if "mul" in call.name and first is second:
        return SQUARE
    if ours is None or theirs is None:
        return None
    if ours.is_gate and theirs.is_gate:
        return GATE
    sign = ours.sign * theirs.sign
    return Origin("", sign) if sign else None


def divided(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of ``div``."""
    above, below = call.args[:2]
    ours, theirs = origin_of(above), origin_of(below)
    if not call.depends(below):
        return None if ours is None else _times(ours, below)
    if theirs is None:
        return None
    if not call.depends(above):
        return GATE if theirs.made == "norm" else None
    if ours is None:
        return None
    softmax = ours.made == "exp" and theirs.made == "total" and ours.key == theirs.key
    return GATE if softmax or (ours.is_gate and theirs.is_gate) else None


def powered(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of ``pow`` with a number."""
    exponent = call.get("exponent")
    if not isinstance(exponent, (int, float)):
        return None
    found = origin_of(call.args[0])
    if found is not None and found.made == "norm":
        return NORM if exponent > 0 else GATE
    return SQUARE if exponent > 0 and exponent % 2 == 0 else None


def rooted(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of ``sqrt``, and of ``clamp_min`` and ``relu`` as far as norms go."""
    found = origin_of(call.args[0])
    return found if found is not None and found.made in ("square", "norm") else POSITIVE


def inverted(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of ``reciprocal`` and ``rsqrt``."""
    found = origin_of(call.args[0])
    return GATE if found is not None and found.made == "norm" else None


def clamped(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of ``clamp`` and ``hardtanh``: hard-sigmoid written out is a gate."""
    low = call.get("min", call.get("min_val"))
    high = call.get("max", call.get("max_val"))
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return None
    found = origin_of(call.args[0])
    if found is not None and (found.is_gate or found.made in ("norm", "square")):
        return found
    if low is not None and low >= 0:
        shifted = found is not None and found.made == "shifted"
        return GATE if shifted and low == 0 and high is not None else POSITIVE
    return None


def exponential(call: Call, origin_of: OriginOf) -> Origin | None:
    """The rule of ``exp``."""
    found = origin_of(call.args[0])
    if found is not None and found.sign < 0:
        return GATE
    return Origin("exp", 1, object())

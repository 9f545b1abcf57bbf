"""What a test is asked to do, as values that can be compared and stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fullgrad.methods.choice import MethodChoice as MethodChoice  # noqa: PLC0414

FRACTIONS = (0.001, 0.00316, 0.01, 0.0316, 0.1)
ORDERS = ("least", "most")


def digest_of(values: Mapping[str, Any]) -> str:
    """Return sixteen hexadecimal digits that change with any of the values."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_methods(labels: Sequence[str]) -> None:
    """See that there are methods, none of them twice.

    Raises:
        ValueError: there are none, or one is there twice.
    """
    if not labels:
        raise ValueError("at least one method is needed")
    twice = sorted({label for label in labels if list(labels).count(label) > 1})
    if twice:
        raise ValueError(f"asked for twice: {', '.join(twice)}")


def check_fractions(fractions: Sequence[float]) -> None:
    """See that fractions lie in (0, 1], in ascending order.

    Raises:
        ValueError: they do not.
    """
    if not fractions or list(fractions) != sorted(set(fractions)):
        raise ValueError("fractions must be given once each, in ascending order")
    for f in fractions:
        if not 0 < f <= 1:
            raise ValueError(f"fractions must lie in (0, 1], not {f!r}")


def check_order(order: str) -> None:
    """See that an order is ``least`` or ``most`` salient first.

    Raises:
        ValueError: it is not.
    """
    if order not in ORDERS:
        raise ValueError(f"order must be 'least' or 'most', not {order!r}")


def check_least(plan: object, **least: int) -> None:
    """See that numbers of a plan or of settings are large enough.

    Args:
        plan: that has them.
        **least: the smallest value that each may have.

    Raises:
        ValueError: one is smaller.
    """
    for name, value in least.items():
        if getattr(plan, name) < value:
            raise ValueError(f"{name} must be at least {value}, not {getattr(plan, name)}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Holds all that the numbers of a test depend on, but for the code and the machine.

    Args:
        choices: the methods, each with a ``label``.

    Raises:
        ValueError: no method, or the same twice.
    """

    choices: tuple[Any, ...]

    def __post_init__(self) -> None:
        check_methods([choice.label for choice in self.choices])

    def values(self) -> dict[str, Any]:
        """Return the plan as JSON can hold it."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        found["choices"] = [choice.label for choice in self.choices]
        return found

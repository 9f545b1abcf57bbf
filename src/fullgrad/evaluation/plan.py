"""What a test is asked to do, as values that can be compared and stored."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fullgrad import methods

FRACTIONS = (0.001, 0.00316, 0.01, 0.0316, 0.1)
ORDERS = ("least", "most")


@dataclass(frozen=True, slots=True)
class MethodChoice:
    """Names a method and its options.

    Args:
        name: in :mod:`fullgrad.methods`.
        options: that differ from the defaults.

    Raises:
        ValueError: an unknown method or option.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        methods.get(self.name).settings(self.options)

    @property
    def label(self) -> str:
        """The name in tables and figures: ``fullgrad:terms=explicit``."""
        given = ",".join(f"{k}={_written(v)}" for k, v in sorted(self.options.items()))
        return f"{self.name}:{given}" if given else self.name

    @classmethod
    def parse(cls, text: str) -> MethodChoice:
        """Reads ``NAME`` or ``NAME:OPTION=VALUE,OPTION=VALUE``; ``+`` joins several values.

        Raises:
            ValueError: not of that form, or an unknown method or option.
        """
        name, _, rest = text.partition(":")
        options: dict[str, Any] = {}
        for part in rest.split(",") if rest else []:
            key, equals, value = part.partition("=")
            if not equals or not key.isidentifier():
                raise ValueError(f"{text!r} is not METHOD or METHOD:OPTION=VALUE,...")
            options[key] = tuple(value.split("+")) if "+" in value else _value(value)
        return cls(name, options)


def _written(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


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

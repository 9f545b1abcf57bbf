"""What an experiment is asked to do, as values that can be compared and stored."""

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
    """Sixteen hexadecimal digits that change with any of the values."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_asked(choices: Sequence[MethodChoice], fractions: Sequence[float]) -> None:
    """See that methods and fractions make an experiment.

    Raises:
        ValueError: no method or the same twice, fractions out of order or out of range.
    """
    labels = [c.label for c in choices]
    if not labels:
        raise ValueError("at least one method is needed")
    twice = sorted({x for x in labels if labels.count(x) > 1})
    if twice:
        raise ValueError(f"asked for twice: {', '.join(twice)}")
    if not fractions or list(fractions) != sorted(set(fractions)):
        raise ValueError("fractions must be given once each, in ascending order")
    for f in fractions:
        if not 0 < f <= 1:
            raise ValueError(f"fractions must lie in (0, 1], not {f!r}")


@dataclass(frozen=True, slots=True)
class PerturbationPlan:
    """A pixel-perturbation run; all that its numbers depend on, but for the images' content.

    Args:
        model: what ``fullgrad.vision.models.load_model`` was asked for.
        weights: the same.
        checkpoint: SHA-256 of the weights' file, if it is known.
        images: where they come from.
        count: how many.
        content: digest of the images' names and bytes.
        choices: the methods.
        random_runs: how many orders a method with a ``seed`` that needs no model is tried with.
        fractions: of the pixels that are removed, ascending.
        orders: ``least`` (the paper's), ``most`` or both.
        fills: see :data:`fullgrad.evaluation.fills.FILLS`.
        seed: of ties, noise and random orders.
        batch_size: images at a time.

    Raises:
        ValueError: no method or the same twice, fractions out of range, an unknown order.
    """

    model: str
    weights: str | None
    checkpoint: str | None
    images: str
    count: int
    content: str
    choices: tuple[MethodChoice, ...]
    random_runs: int = 5
    fractions: tuple[float, ...] = FRACTIONS
    orders: tuple[str, ...] = ("least",)
    fills: tuple[str, ...] = ("black",)
    seed: int = 0
    batch_size: int = 10

    def __post_init__(self) -> None:
        check_asked(self.choices, self.fractions)
        for order in self.orders:
            if order not in ORDERS:
                raise ValueError(f"order must be 'least' or 'most', not {order!r}")
        if self.random_runs < 1:
            raise ValueError(f"at least one random order is needed, not {self.random_runs}")

    def values(self) -> dict[str, Any]:
        """As JSON can hold it."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        found["choices"] = [c.label for c in self.choices]
        return found

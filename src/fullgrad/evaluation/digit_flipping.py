"""Digit flipping: erase what makes a digit one class rather than another.

Shrikumar et al. 2017, and the supplement of Srinivas & Fleuret 2019: pixels are ranked by the
signed map for the digit's class less that for another class, the highest positive ones are erased,
and the log-odds of the two classes should change as much as possible.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad import methods
from fullgrad.engine.model_state import guarded
from fullgrad.evaluation.digits import Digits
from fullgrad.evaluation.plan import MethodChoice
from fullgrad.evaluation.store import Store
from fullgrad.methods.controls import NOISE

PAIRS = ((8, 3), (8, 6), (9, 1), (9, 4))
PIXELS = (10, 20, 40, 80, 157)
ABSOLUTE = "absolute"


@dataclass(frozen=True, slots=True)
class FlippingPlan:
    """What the numbers depend on.

    Args:
        digits: where they come from.
        content: digest of them.
        choices: the methods.
        pairs: (class of the digits, class that they are compared with).
        pixels: how many are erased, ascending.
        count: digits of each pair, at most.
        test_share: of the digits, that the network does not learn from.
        epochs: of its training.
        seed: of everything.

    Raises:
        ValueError: pairs, pixels or counts that cannot be.
    """

    digits: str
    content: str
    choices: tuple[Choice, ...]
    pairs: tuple[tuple[int, int], ...] = PAIRS
    pixels: tuple[int, ...] = PIXELS
    count: int = 50
    test_share: float = 0.2
    epochs: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.choices or len({c.label for c in self.choices}) != len(self.choices):
            raise ValueError("methods must be given once each, at least one")
        for a, b in self.pairs:
            if not (0 <= a <= 9 and 0 <= b <= 9) or a == b:
                raise ValueError(f"a pair is two different digits, not {a} and {b}")
        if len(set(self.pairs)) != len(self.pairs) or not self.pairs:
            raise ValueError("pairs must be given once each, at least one")
        if not self.pixels or list(self.pixels) != sorted(set(self.pixels)) or self.pixels[0] < 1:
            raise ValueError("pixels must be positive, once each, in ascending order")
        if self.pixels[-1] > 784:
            raise ValueError(f"a digit has 784 pixels, {self.pixels[-1]} cannot be erased")
        if self.count < 1 or self.epochs < 1 or not 0 < self.test_share < 1:
            raise ValueError("count and epochs must be at least 1, test_share between 0 and 1")

    def values(self) -> dict[str, Any]:
        """As JSON can hold it."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        found["choices"] = [c.label for c in self.choices]
        return found


@dataclass(frozen=True, slots=True)
class Choice:
    """A method, and whether its maps keep their sign.

    Args:
        method: with its options.
        signed: otherwise the sizes of its numbers are compared.
    """

    method: MethodChoice
    signed: bool = True

    @property
    def label(self) -> str:
        """In tables and figures."""
        plain = self.signed or self.method.name in NOISE
        return self.method.label if plain else f"{self.method.label} ({ABSOLUTE})"

    @classmethod
    def parse(cls, text: str) -> Choice:
        """``METHOD``, ``METHOD:OPTION=VALUE,...``, either with ``/absolute`` behind.

        Raises:
            ValueError: an unknown method or option, or one without a sign.
        """
        name, slash, rest = text.partition("/")
        if slash and rest != ABSOLUTE:
            raise ValueError(f"{text!r}: only '/{ABSOLUTE}' may stand behind a method")
        method = MethodChoice.parse(name)
        found = methods.get(method.name)
        if not slash and method.name not in NOISE:
            found.require_sign(found.settings(method.options))
        return cls(method, not slash and method.name not in NOISE)


def ranked(difference: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels in the order of their erasure, and how many of them are positive.

    Args:
        difference: map for the digit's class less that for the other, shape (B, 1, H, W).

    Returns:
        Shapes (B, H·W) and (B,).
    """
    flat = difference.flatten(1)
    return flat.argsort(dim=1, descending=True, stable=True), (flat > 0).sum(1)


def erased(x: Tensor, order: Tensor, positive: Tensor, count: int) -> Tensor:
    """Digits with at most so many of their highest positive pixels set to the background."""
    place = torch.arange(order.shape[1], device=x.device)
    within = (place < count) & (place < positive[:, None])
    gone = torch.zeros_like(within).scatter_(1, order, within)
    return x.masked_fill(gone.view(len(x), 1, *x.shape[2:]), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Flipping:
    """A plan with its network and test digits.

    Args:
        plan: what is asked for.
        model: trained.
        test: digits that it has not seen.
    """

    plan: FlippingPlan
    model: nn.Module
    test: Digits

    def chosen(self, a: int) -> Tensor:
        """Indices of the test digits of a class that are told right."""
        own = (self.test.labels == a).nonzero()[:, 0]
        with guarded(self.model, evaluate=True), torch.no_grad():
            right = self.model(self.test.rows(own).inputs()).argmax(1) == a
        return own[right][: self.plan.count]

    def difference(self, choice: Choice, x: Tensor, a: int, b: int) -> Tensor:
        """The map for one class less that for another, shape (B, 1, 28, 28)."""
        options = dict(choice.method.options)
        if choice.method.name in NOISE:
            options["seed"] = options.get("seed", 0) + self.plan.seed + 100 * a + b
            return methods.attribute(choice.method.name, self.model, x, a, **options)
        first, second = (
            methods.attribute(
                choice.method.name, self.model, x, digit, signed=choice.signed, **options
            )
            for digit in (a, b)
        )
        return first - second

    def part(self, number: int) -> list[dict[str, Any]]:
        """The rows of one pair of digits."""
        a, b = self.plan.pairs[number]
        index = self.chosen(a)
        x = self.test.rows(index).inputs()
        rows: list[dict[str, Any]] = []
        if not len(index):
            return rows
        before = self.log_odds(x, a, b)
        for choice in self.plan.choices:
            order, positive = ranked(self.difference(choice, x, a, b))
            for count in self.plan.pixels:
                after = self.log_odds(erased(x, order, positive, count), a, b)
                rows += [
                    {
                        "pair": f"{a}→{b}",
                        "digit": int(index[i]),
                        "method": choice.label,
                        "pixels": count,
                        "erased": min(count, int(positive[i])),
                        "odds_before": float(before[i]),
                        "odds_after": float(after[i]),
                        "change": float(before[i] - after[i]),
                    }
                    for i in range(len(index))
                ]
        return rows

    def log_odds(self, x: Tensor, a: int, b: int) -> Tensor:
        """Log-odds of two classes: the difference of their logits, shape (B,), float64."""
        with guarded(self.model, evaluate=True), torch.no_grad():
            logits = self.model(x).double()
        odds: Tensor = logits[:, a] - logits[:, b]
        return odds


def run(flipping: Flipping, store: Store, say: Callable[[int, int], None]) -> int:
    """Do the pairs that are not done; the number of those done now."""
    total = len(flipping.plan.pairs)
    missing = store.missing(total)
    for done, number in enumerate(missing):
        say(total - len(missing) + done, total)
        store.put(number, flipping.part(number), {})
    return len(missing)

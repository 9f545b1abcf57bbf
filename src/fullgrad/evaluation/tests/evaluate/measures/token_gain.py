"""Symmetric relevance gain of tokens: least less most relevant ones replaced.

As :mod:`.relevance_gain`, with a text's tokens in place of an image's cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from fullgrad.evaluation.options import Option
from fullgrad.evaluation.plan import check_fractions
from fullgrad.evaluation.removal import count_of, order_of
from fullgrad.evaluation.tests.evaluate.measure import Measure, Score
from fullgrad.evaluation.tests.evaluate.token_methods import REPLACEMENTS, ExplainedTexts

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.75)


@dataclass(frozen=True)
class TokenGain(Measure):
    """Replaces the most and the least relevant tokens and compares what is left.

    Special tokens stay.

    Args:
        replacements: what becomes of tokens, of :data:`~.token_methods.REPLACEMENTS`.
        fractions: of the text's own tokens that are replaced, in (0, 1).

    Raises:
        ValueError: an unknown replacement, or fractions out of range or not ascending.
    """

    replacements: tuple[str, ...] = REPLACEMENTS
    fractions: tuple[float, ...] = FRACTIONS

    name = "token-gain"
    title = "symmetric relevance gain of tokens: least less most relevant ones replaced"
    chance = 0.0
    random_runs = True
    explains = "texts"
    options: ClassVar[Sequence[Option]] = (
        Option("--replacements", "what becomes of tokens", REPLACEMENTS, choices=REPLACEMENTS),
        Option(
            "--fractions", "shares of the tokens that are replaced, in (0, 1)", FRACTIONS, float
        ),
    )

    def __post_init__(self) -> None:
        check_fractions(self.fractions)
        if self.fractions[-1] >= 1:
            raise ValueError("token gain needs fractions below 1")
        unknown = [r for r in self.replacements if r not in REPLACEMENTS]
        if unknown or not self.replacements:
            raise ValueError(f"unknown replacement {unknown}; known: {', '.join(REPLACEMENTS)}")

    def scores(self, explained: ExplainedTexts) -> Iterator[Score]:
        """Yield a score for each text and replacement."""
        order = torch.cat(
            [
                order_of(one[None], "most", explained.seed_of(number))
                for one, number in zip(explained.maps, explained.numbers, strict=True)
            ]
        )
        size = order.shape[1]
        counts = [count_of(fraction, size) for fraction in self.fractions]
        for replacement in self.replacements:
            parts = {
                k: explained.subject.measured(
                    torch.stack(
                        [
                            explained.without(chosen, replacement)
                            for chosen in (order[:, size - k :], order[:, :k])
                        ]
                    ),
                    explained.numbers,
                )
                for k in set(counts)
            }
            values = torch.stack([parts[k] for k in counts])
            gain = (values[:, 0] - values[:, 1]).mean(0)
            scale = (explained.before - explained.replaced(order, replacement)).abs()
            drops = [(explained.before - values[:, i]).mean(0).tolist() for i in (0, 1)]
            rows = zip(explained.numbers, gain.tolist(), scale.tolist(), *drops, strict=True)
            for number, value, reach, low, high in rows:
                yield Score(number, value, replacement, reach, {"least": low, "most": high})

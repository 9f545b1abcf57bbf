"""How relevant a text's tokens are: by any method of maps, by leaving out, or by a control."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fullgrad import methods
from fullgrad.errors import MethodError
from fullgrad.evaluation.plan import MethodChoice
from fullgrad.evaluation.tests.evaluate.text_subject import TextSubject
from fullgrad.maps.tokens.embeddings import embed
from fullgrad.methods.controls import NOISE

REPLACEMENTS = ("removed", "mask")
_APART = 1_000_003  # between the seeds of two random orders


@dataclass(frozen=True, slots=True)
class TokenMethod:
    """A way to order tokens that only texts have.

    Args:
        name: how it is asked for.
        function: from explained texts to numbers of shape (B, T).
        about: what it computes.
    """

    name: str
    function: Callable[[ExplainedTexts], Tensor]
    about: str

    @property
    def label(self) -> str:
        """The text for tables."""
        return self.name


@dataclass(frozen=True, eq=False)
class ExplainedTexts:
    """Some texts of equally many tokens and one method; what a test of texts is given.

    Args:
        subject: the model with its texts.
        choice: the method.
        numbers: of the texts.
        seed: of noise, ties and everything else that is drawn.
        run: which one of several draws of noise.
    """

    subject: TextSubject
    choice: MethodChoice | TokenMethod
    numbers: tuple[int, ...]
    seed: int = 0
    run: int = 0

    @cached_property
    def ids(self) -> Tensor:
        """The tokens, shape (B, T)."""
        return torch.stack([self.subject.ids[n] for n in self.numbers])

    @cached_property
    def words(self) -> Tensor:
        """The places of the texts' own tokens, shape (B, K)."""
        found = self.subject.text_model.words(self.ids)
        return found.nonzero()[:, 1].view(len(self.ids), -1)

    @cached_property
    def maps(self) -> Tensor:
        """How relevant each of the texts' own tokens is, shape (B, 1, K)."""
        found = self._maps() if isinstance(self.choice, MethodChoice) else self._numbers()
        return found.gather(1, self.words)[:, None]

    @cached_property
    def before(self) -> Tensor:
        """The explained numbers of the texts as they are, shape (B,)."""
        return self.subject.values[list(self.numbers)]

    def seed_of(self, number: int) -> int:
        """Return a text's own seed, whatever other texts it is explained with."""
        return (self.seed * _APART + number) % 2**63

    def replaced(self, chosen: Tensor, replacement: str) -> Tensor:
        """Return the explained numbers without some tokens, shape (B,).

        Args:
            chosen: which of the texts' own tokens, counted among them, shape (B, k).
            replacement: ``removed`` makes the text shorter; ``mask`` puts the mask token there.

        Raises:
            MethodError: the tokenizer has no mask token, or nothing would be left of the text.
            ValueError: an unknown replacement.
        """
        return self.subject.measured(self.without(chosen, replacement)[None], self.numbers)[0]

    def without(self, chosen: Tensor, replacement: str) -> Tensor:
        """Return the tokens that are left, shape (B, T) or (B, T - k); see :meth:`replaced`."""
        gone = torch.zeros_like(self.ids, dtype=torch.bool)
        gone.scatter_(1, self.words.gather(1, chosen), True)
        if replacement == "mask":
            mask = getattr(self.subject.text_model.tokenizer, "mask_token_id", None)
            if mask is None:
                raise MethodError(
                    f"the tokenizer of {self.subject.name} has no mask token; use "
                    "--replacements removed, and leave_one_out for mask_one_out"
                )
            return self.ids.masked_fill(gone, mask)
        if replacement != "removed":
            raise ValueError(f"replacement must be 'removed' or 'mask', not {replacement!r}")
        if bool(gone.all()):
            raise MethodError(
                f"the tokenizer of {self.subject.name} puts no special tokens around a text, so "
                "nothing is left when all tokens are removed; use --replacements mask"
            )
        return self.ids[~gone].view(len(self.ids), -1)

    def _maps(self) -> Tensor:
        choice, model = self.choice, self.subject.text_model
        assert isinstance(choice, MethodChoice)
        options: dict[str, Any] = dict(choice.options)
        if choice.name in NOISE:
            drawn = self.seed + _APART * self.run + self.numbers[0]
            options["seed"] = options.get("seed", 0) + drawn
        found = methods.attribute(
            choice.name,
            model.embedded(),
            embed(model.embedding, self.ids),
            self.subject.predicted[list(self.numbers)],
            additional_forward_args=(self.ids, *self.subject.extra(self.numbers)),
            layout="BTC",
            **options,
        )
        return found[:, 0].double()

    def _numbers(self) -> Tensor:
        assert isinstance(self.choice, TokenMethod)
        return self.choice.function(self).double()


def _one_out(explained: ExplainedTexts, replacement: str) -> Tensor:
    found = torch.zeros(explained.ids.shape, dtype=torch.float64, device=explained.ids.device)
    samples, count = explained.words.shape
    every = [torch.full((samples, 1), i, device=found.device) for i in range(count)]
    versions = torch.stack([explained.without(one, replacement) for one in every])
    falls = explained.before - explained.subject.measured(versions, explained.numbers)
    return found.scatter(1, explained.words, falls.t())


def _leave_one_out(explained: ExplainedTexts) -> Tensor:
    return _one_out(explained, "removed")


def _mask_one_out(explained: ExplainedTexts) -> Tensor:
    return _one_out(explained, "mask")


def _length(explained: ExplainedTexts) -> Tensor:
    convert = _converter(explained)
    rows = [[len(token.strip("#Ġ▁ ")) for token in convert(row)] for row in explained.ids.tolist()]
    return torch.tensor(rows, device=explained.ids.device)


def _converter(explained: ExplainedTexts) -> Callable[[list[int]], list[str]]:
    found = getattr(explained.subject.text_model.tokenizer, "convert_ids_to_tokens", None)
    if found is None:
        raise MethodError(
            "token_length needs a tokenizer with convert_ids_to_tokens, as transformers' have"
        )
    convert: Callable[[list[int]], list[str]] = found
    return convert


def _rarity(explained: ExplainedTexts) -> Tensor:
    subject = explained.subject
    texts = [*subject.ids, *subject.other_ids]
    counts = Counter(i for ids in texts for i in set(ids.tolist()))
    rows = [[-counts[i] for i in row] for row in explained.ids.tolist()]
    return torch.tensor(rows, device=explained.ids.device)


def _shared(explained: ExplainedTexts) -> Tensor:
    if not explained.subject.text_model.pairs:
        raise MethodError("token_overlap needs pairs of texts: give TextModel a vector=")
    rarity = _rarity(explained)
    others = [explained.subject.other_ids[n] for n in explained.numbers]
    shared = [torch.isin(ids, other) for ids, other in zip(explained.ids, others, strict=True)]
    return torch.where(torch.stack(shared), rarity - int(rarity.min()) + 1, 0)


TOKEN_METHODS = {
    method.name: method
    for method in (
        TokenMethod("leave_one_out", _leave_one_out, "The fall when the token is removed."),
        TokenMethod("mask_one_out", _mask_one_out, "The fall when the mask token replaces it."),
        TokenMethod("token_length", _length, "Letters of the token: knows nothing of the model."),
        TokenMethod(
            "token_rarity",
            _rarity,
            "In how few of the texts the token occurs: knows nothing of the model.",
        ),
        TokenMethod(
            "token_overlap",
            _shared,
            "Tokens that the other text has too, the rarer first: knows nothing of the model.",
        ),
    )
}


def choice_of(text: str) -> MethodChoice | TokenMethod:
    """Read a method of texts or of maps, with its options.

    Raises:
        ValueError: an unknown method or option.
    """
    if text in TOKEN_METHODS:
        return TOKEN_METHODS[text]
    if text.partition(":")[0] in TOKEN_METHODS:
        raise ValueError(f"{text.partition(':')[0]} has no options, but {text!r} is asked for")
    try:
        return MethodChoice.parse(text)
    except ValueError as error:
        if "unknown method" not in str(error):
            raise
        raise ValueError(f"{error}; for texts also: {', '.join(TOKEN_METHODS)}") from error

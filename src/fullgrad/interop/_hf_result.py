"""What an explanation holds: maps, and the tokens and words of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from fullgrad._results import Result, storable
from fullgrad.errors import OptionError
from fullgrad.interop._hf_batch import listed
from fullgrad.maps.complete import CompleteMap

_BEGINS = ("Ġ", "▁")  # a space before a token, as byte-level and sentence-piece tokenizers write it


@dataclass(frozen=True, slots=True)
class Text:
    """The tokens of one text.

    Args:
        tokens: as they are shown.
        words: the text of each word, its first token, and one past its last.
    """

    tokens: tuple[str, ...]
    words: tuple[tuple[str, int, int], ...]


storable(Text)


@dataclass(frozen=True, slots=True, eq=False)
class Explanation(Result):
    """An output as a sum over tokens, pixels and samples of sound.

    Args:
        found: the complete map; its ``map`` is a dict from the names of the batch (``input_ids``,
            ``pixel_values``, ...) to maps. The sum of all maps, ``found.elsewhere`` and
            ``found.residual`` is ``found.output``.
        texts: for each explained name of tokens, those of each sample.
        targets: what each target is, in words; of targets that differ by sample the first's.
    """

    found: CompleteMap
    texts: dict[str, tuple[Text, ...]]
    targets: tuple[str, ...]

    @property
    def map(self) -> dict[str, Tensor]:
        """The maps by name: (B, targets, T) of tokens, (B, targets, H, W) of images."""
        found: dict[str, Tensor] = self.found.map
        return found

    def tokens(
        self, sample: int = 0, target: int = 0, name: str = "input_ids"
    ) -> list[tuple[str, float]]:
        """Each token of a sample with its part of the output.

        Args:
            sample: of the batch.
            target: its number, if several are explained.
            name: of the ids.

        Raises:
            OptionError: no such tokens were explained.
        """
        scores = self._scores(sample, target, name)
        return list(zip(self.texts[name][sample].tokens, scores, strict=True))

    def words(
        self, sample: int = 0, target: int = 0, name: str = "input_ids"
    ) -> list[tuple[str, float]]:
        """Each word with its part of the output, the sum of its tokens'.

        Words are those of the tokenizer's ``word_ids``, which fast tokenizers have; without them
        each token is a word.

        Args:
            sample: of the batch.
            target: its number, if several are explained.
            name: of the ids.

        Raises:
            OptionError: no such tokens were explained.
        """
        scores = self._scores(sample, target, name)
        return [(text, sum(scores[i:j])) for text, i, j in self.texts[name][sample].words]

    def _scores(self, sample: int, target: int, name: str) -> list[float]:
        if name not in self.texts:
            raise OptionError(
                f"no tokens {name!r} were explained; {listed('there are', self.texts)}"
            )
        values = self.map[name]
        if not (
            -len(values) <= sample < len(values) and -values.shape[1] <= target < values.shape[1]
        ):
            raise OptionError(
                f"sample {sample}, target {target}: there are {len(values)} samples with "
                f"{values.shape[1]} targets"
            )
        found: list[float] = values[sample, target].detach().cpu().double().tolist()
        return found

    def __repr__(self) -> str:
        return f"Explanation({', '.join(self.map)}; {len(self.targets)} targets; {self.found!r})"


def texts_of(ids: Tensor, batch: Any, tokenizer: Any) -> tuple[Text, ...]:
    """The texts of a batch of ids.

    Args:
        ids: shape (B, ...); tokens of texts sentence by sentence are put one behind the other.
        batch: that they come from; its ``encodings``, those of fast tokenizers, know words. There
            may be more ids than they know: an answer, say, whose tokens are words of their own.
        tokenizer: has ``convert_ids_to_tokens``; None shows what ``encodings`` have, or numbers.
    """
    encodings = getattr(batch, "encodings", None) or [None] * len(ids)
    rows = ids.flatten(1).tolist()
    return tuple(_text(row, e, tokenizer) for row, e in zip(rows, encodings, strict=False))


def _text(ids: list[int], encoding: Any, tokenizer: Any) -> Text:
    known = [] if encoding is None else list(encoding.ids)
    words: list[int | None] = [None] * len(ids)
    tokens = list(map(str, ids))
    if known == ids[: len(known)] and known:
        words[: len(known)] = encoding.word_ids
        tokens[: len(known)] = encoding.tokens
    if tokenizer is not None:
        tokens = list(tokenizer.convert_ids_to_tokens(ids))
    found = []
    for _, places in groupby(range(len(ids)), lambda i: -1 - i if words[i] is None else words[i]):
        own = list(places)
        found.append((_word(tokens[own[0] : own[-1] + 1], tokenizer), own[0], own[-1] + 1))
    return Text(tuple(tokens), tuple(found))


def _word(tokens: list[str], tokenizer: Any) -> str:
    """The text that some tokens make."""
    join = getattr(tokenizer, "convert_tokens_to_string", None)
    if join is not None and len(tokens) > 1:
        return str(join(tokens)).strip()
    text = "".join(t.removeprefix("##") for t in tokens)
    for mark in _BEGINS:
        text = text.removeprefix(mark)
    return text or tokens[0]


def beside(parts: Sequence[Explanation]) -> Explanation:
    """Explanations of groups of targets as one."""
    found = [_with_targets(p.found) for p in parts]
    first = found[0]
    stages = dict.fromkeys(name for f in found for name in f.elsewhere_by_stage)

    def joined(values: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(values), 1)

    whole = replace(
        first,
        map={n: joined([f.map[n] for f in found]) for n in first.map},
        elsewhere=joined([f.elsewhere for f in found]),
        elsewhere_by_stage={
            s: joined([f.elsewhere_by_stage.get(s, torch.zeros_like(f.elsewhere)) for f in found])
            for s in stages
        },
        output=joined([f.output for f in found]),
        residual=joined([f.residual for f in found]),
        steps=joined([f.steps for f in found]),
    )
    return replace(parts[0], found=whole, targets=tuple(t for p in parts for t in p.targets))


def _with_targets(found: CompleteMap) -> CompleteMap:
    """One target as several of which there is one."""
    if found.output.dim() == 2:
        return found
    return replace(
        found,
        elsewhere=found.elsewhere[:, None],
        elsewhere_by_stage={s: v[:, None] for s, v in found.elsewhere_by_stage.items()},
        output=found.output[:, None],
        residual=found.residual[:, None],
        steps=found.steps[:, None],
    )

"""A text model with its texts, as tests of token relevances take them."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from fullgrad._files import printable
from fullgrad.engine.model_state import guarded
from fullgrad.errors import ModelLoadError
from fullgrad.evaluation.sources import DataError
from fullgrad.maps.tokens.text_model import TextModel
from fullgrad.vision.models import LoadedModel

_FORWARD = 256  # texts that go through the model together


@dataclass(frozen=True, slots=True)
class Text:
    """A text, and the one it is compared with.

    Args:
        name: where it stands in its file.
        text: what is explained.
        other: the second text; None without one.
    """

    name: str
    text: str
    other: str | None = None


@dataclass(frozen=True, slots=True)
class TextSource:
    """Holds texts.

    Args:
        items: in the order of the file.
        excluded: (name, why) of those that cannot be used.
        content: digest of all texts.
    """

    items: tuple[Text, ...]
    excluded: tuple[tuple[str, str], ...] = ()
    content: str = ""


def open_texts(path: str, limit: int | None = None) -> TextSource:
    """Read texts from a file.

    Args:
        path: a CSV file with a column ``text``, and ``other`` for pairs; any other file has one
            text on each line. Lines without a text are left out.
        limit: up to how many, spread evenly over all of them; None for all.

    Raises:
        DataError: the file cannot be read, has no such column, or holds no text.
        ValueError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"at least one text is needed, not {limit}")
    name = printable(path)
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file)) if path.lower().endswith(".csv") else None
            lines = [] if rows is not None else file.read().splitlines()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name} cannot be read: {error}") from error
    if rows is None:
        found = [Text(f"text {n}", line.strip()) for n, line in enumerate(lines, 1)]
    else:
        if rows and "text" not in rows[0]:
            raise DataError(f"{name} has no column 'text' (it has: {', '.join(rows[0])})")
        found = [
            Text(f"text {n}", (row["text"] or "").strip(), (row.get("other") or "").strip() or None)
            for n, row in enumerate(rows, 1)
        ]
    excluded = tuple((text.name, "it is empty") for text in found if not text.text)
    found = [text for text in found if text.text]
    if not found:
        raise DataError(f"{name} holds no texts")
    if limit is not None and limit < len(found):
        found = [found[i * len(found) // limit] for i in range(limit)]
    digest = hashlib.sha256(repr([(t.name, t.text, t.other) for t in found]).encode())
    return TextSource(tuple(found), excluded, digest.hexdigest()[:16])


@dataclass(frozen=True, eq=False)
class TextSubject:
    """A text model and the texts on which its explanations are tested.

    Args:
        name: of the model, in tables.
        model: loaded; its module is a :class:`fullgrad.maps.tokens.TextModel`.
        source: the texts.

    Raises:
        ModelLoadError: the model is another one.
        DataError: a text of pairs has no other, a text has fewer than two tokens of its own or
            more than the model takes.
    """

    name: str
    model: LoadedModel
    source: TextSource

    def __post_init__(self) -> None:
        if not isinstance(self.model.module, TextModel):
            raise ModelLoadError(
                f"{self.name} gives {type(self.model.module).__name__}, not a "
                "fullgrad.maps.tokens.TextModel, which holds the model and its tokenizer"
            )
        most = getattr(self.text_model.tokenizer, "model_max_length", None)
        for item, ids in zip(self.source.items, self.ids, strict=True):
            if self.text_model.pairs and item.other is None:
                raise DataError(
                    f"{item.name} has no other text to compare with: give a CSV file with "
                    "the columns 'text' and 'other'"
                )
            if int(self.text_model.words(ids).sum()) < 2:
                raise DataError(f"{item.name} has fewer than two tokens; leave it out")
            if most is not None and len(ids) > most:
                raise DataError(
                    f"{item.name} has {len(ids)} tokens, and the model takes {most}; cut it"
                )

    def __len__(self) -> int:
        return len(self.source.items)

    @property
    def text_model(self) -> TextModel:
        """The model."""
        module = self.model.module
        assert isinstance(module, TextModel)
        return module

    def items(self, numbers: Sequence[int]) -> list[Text]:
        """Return some of the texts."""
        return [self.source.items[n] for n in numbers]

    @cached_property
    def ids(self) -> list[Tensor]:
        """Each text's tokens, shape (T,) each."""
        return [self.text_model.encoded(item.text) for item in self.source.items]

    @cached_property
    def other_ids(self) -> list[Tensor]:
        """The tokens of each text's other one, of those that have one."""
        others = [item.other for item in self.source.items if item.other is not None]
        return [self.text_model.encoded(other) for other in others]

    @cached_property
    def others(self) -> Tensor | None:
        """The vectors of the other texts, shape (N, D); None for a classifier."""
        model = self.text_model
        if not model.pairs:
            return None
        with guarded(model, evaluate=True), torch.no_grad():
            return torch.cat([model.vectors(ids[None]) for ids in self.other_ids])

    @cached_property
    def predicted(self) -> Tensor:
        """The predicted class of each text, shape (N,); 0 of pairs."""
        numbers = range(len(self))
        outputs = [self._outputs(self.ids[n][None], self.extra([n])) for n in numbers]
        return torch.cat(outputs).argmax(1)

    def extra(self, numbers: Sequence[int], times: int = 1) -> tuple[Tensor, ...]:
        """Return what the model takes beside the ids of some texts, ``times`` times."""
        if self.others is None:
            return ()
        return (self.others[list(numbers)].repeat(times, 1),)

    @cached_property
    def values(self) -> Tensor:
        """The explained numbers of the texts as they are, float64 of shape (N,)."""
        return torch.cat([self.measured(ids[None, None], [n])[0] for n, ids in enumerate(self.ids)])

    def measured(self, ids: Tensor, numbers: Sequence[int]) -> Tensor:
        """Return the explained number of texts with other tokens, float64 of shape (J, B).

        Args:
            ids: shape (J, B, T): J versions of each text.
            numbers: of the B texts.
        """
        versions = len(ids)
        outputs = self._outputs(ids.flatten(0, 1), self.extra(numbers, versions))
        classes = self.predicted[list(numbers)].repeat(versions)
        return outputs.gather(1, classes[:, None])[:, 0].view(versions, -1)

    def _outputs(self, ids: Tensor, extra: tuple[Tensor, ...]) -> Tensor:
        with guarded(self.text_model, evaluate=True), torch.no_grad():
            parts = zip(*(t.split(_FORWARD) for t in (ids, *extra)), strict=True)
            return torch.cat([self.text_model(*part).double() for part in parts])

    def groups(self, size: int) -> Iterator[tuple[int, ...]]:
        """Yield the numbers of texts with equally many tokens, up to ``size`` at a time.

        Args:
            size: texts at a time.
        """
        of: dict[tuple[int, int], list[int]] = {}
        for n, ids in enumerate(self.ids):
            of.setdefault((len(ids), int(self.text_model.words(ids).sum())), []).append(n)
        for _, numbers in sorted(of.items()):
            for i in range(0, len(numbers), size):
                yield tuple(numbers[i : i + size])

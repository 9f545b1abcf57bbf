"""A text model with its tokenizer and the number that is explained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullgrad.engine.targets import main_tensor
from fullgrad.errors import InputError, ModelError
from fullgrad.maps.tokens.embeddings import Embedded, path_of, token_embedding

_ADDED = ("cls", "sep", "bos", "eos", "pad")  # the tokens that tokenizers put around a text


class TextModel(nn.Module):
    """A model of token ids, as ``fullgrad bench evaluate-texts`` takes it.

    The output is the cosine similarity to another text, or the logits of a classifier.

    Args:
        model: takes ``input_ids`` of shape (B, T), all texts of one length and none padded.
        tokenizer: as those of transformers: called with a text it returns ``input_ids``.
        vector: from the model's output to a vector of each text, shape (B, D). Then the cosine
            of two texts' vectors is explained; None for the logits of a classifier.
        embedding: of the tokens; see :func:`attribute_tokens`.

    Raises:
        ModelError: it is not known which embedding holds the tokens.

    Example:
        >>> import torch
        >>> from fullgrad.maps.tokens import TextModel
        >>> def tokenizer(text):
        ...     return {"input_ids": [ord(letter) - 97 for letter in text]}
        >>> net = torch.nn.Sequential(torch.nn.Embedding(26, 4), torch.nn.Linear(4, 3))
        >>> model = TextModel(net, tokenizer, vector=lambda output: output.mean(1))
        >>> other = model.vectors(model.encoded("cat")[None])
        >>> model(model.encoded("act")[None], other).shape
        torch.Size([1, 1])
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        vector: Callable[[Any], Tensor] | None = None,
        embedding: nn.Embedding | str | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.vector = vector
        self._path = path_of(model, token_embedding(model, embedding))

    @property
    def pairs(self) -> bool:
        """Whether a text is explained beside another one."""
        return self.vector is not None

    @property
    def device(self) -> torch.device:
        """Where the token embedding is."""
        return self.embedding.weight.device

    def encoded(self, text: str) -> Tensor:
        """Return a text's ids with the special tokens around them, shape (T,)."""
        ids = self.tokenizer(text)["input_ids"]
        return torch.tensor(ids, dtype=torch.long, device=self.device)

    def words(self, ids: Tensor) -> Tensor:
        """Return which tokens are those of the text itself, bool of the ids' shape."""
        names = [f"{name}_token_id" for name in _ADDED]
        added = [getattr(self.tokenizer, name, None) for name in names]
        special = [i for i in added if i is not None]
        return ~torch.isin(ids, torch.tensor(special, dtype=ids.dtype, device=ids.device))

    def vectors(self, ids: Tensor) -> Tensor:
        """Return vectors of length 1, shape (B, D).

        Args:
            ids: shape (B, T).

        Raises:
            ModelError: the model has no vectors, or not one for each text.
        """
        if self.vector is None:
            raise ModelError("the model is a classifier: give TextModel a vector= to compare texts")
        found = self.vector(self.model(ids))
        if found.dim() != 2 or len(found) != len(ids):
            raise ModelError(
                f"vector= must return shape (texts, numbers), here ({len(ids)}, ...), not "
                f"{tuple(found.shape)}"
            )
        return F.normalize(found, dim=1)

    def forward(self, input_ids: Tensor, other: Tensor | None = None) -> Tensor:
        """Return the cosine with the other texts, shape (B, 1), or logits, shape (B, classes).

        Args:
            input_ids: shape (B, T).
            other: vectors of the other texts, of length 1, shape (B, D).

        Raises:
            InputError: a cosine without another text, or logits with one.
            ModelError: logits of another shape.
        """
        if self.pairs:
            if other is None:
                raise InputError("a cosine needs other=, the vectors of the other texts")
            return (self.vectors(input_ids) * other).sum(1, keepdim=True)
        if other is not None:
            raise InputError("a classifier takes no other=: leave it out, or give a vector=")
        logits, _ = main_tensor(self.model(input_ids))
        if logits.dim() != 2:
            raise ModelError(
                f"a classifier of texts returns shape (texts, classes), not {tuple(logits.shape)}; "
                "give TextModel a vector=, or a model that picks the logits"
            )
        return logits

    def embedded(self) -> Embedded:
        """Return the same model as one of embedded tokens, called with (embedded, ids, other)."""
        return Embedded(self, self.embedding)

    @property
    def embedding(self) -> nn.Embedding:
        """The embedding that holds the tokens."""
        found = self.model.get_submodule(self._path)
        assert isinstance(found, nn.Embedding)
        return found

"""A text model with its tokenizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fullgrad import methods
from fullgrad.errors import InputError, ModelError
from fullgrad.maps.tokens import TextModel
from fullgrad.maps.tokens.embeddings import embed


class Tokenizer:
    cls_token_id = 1
    unk_token_id = 3

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [1, *(len(word) for word in text.split())]}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x).relu()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(9, 4), nn.Embedding(9, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        found: Tensor = self.head(x)
        return found


def mean(output: Tensor) -> Tensor:
    return output.mean(1)


def test_ids_and_which_of_them_are_words() -> None:
    model = TextModel(Net(), Tokenizer(), vector=mean, embedding="words")
    ids = model.encoded("all cats are here")
    assert ids.tolist() == [1, 3, 4, 3, 4]
    assert model.words(ids).tolist() == [False, True, True, True, True]  # an unknown word is one


def test_cosines_and_logits() -> None:
    model = TextModel(Net(), Tokenizer(), vector=mean, embedding="words")
    ids = torch.tensor([[1, 3, 4], [1, 2, 2]])
    vectors = model.vectors(ids)
    torch.testing.assert_close(model(ids, vectors), torch.ones(2, 1))
    torch.testing.assert_close(model(ids[:1], vectors[1:]), (vectors[0] @ vectors[1]).view(1, 1))
    classifier = TextModel(nn.Sequential(Net(), nn.Flatten()), Tokenizer(), embedding="0.words")
    assert classifier(ids).shape == (2, 9)


def test_calls_that_do_not_fit() -> None:
    ids = torch.tensor([[1, 3, 4]])
    model = TextModel(Net(), Tokenizer(), vector=mean, embedding="words")
    with pytest.raises(InputError, match="a cosine needs other="):
        model(ids)
    classifier = TextModel(Net(), Tokenizer(), embedding="words")
    with pytest.raises(InputError, match="a classifier takes no other=: leave it out"):
        classifier(ids, torch.ones(1, 3))
    with pytest.raises(ModelError, match=r"returns shape \(texts, classes\), not \(1, 3, 3\)"):
        classifier(ids)
    with pytest.raises(ModelError, match="is a classifier: give TextModel a vector= to compare"):
        classifier.vectors(ids)
    wrong: Any = TextModel(Net(), Tokenizer(), vector=lambda output: output, embedding="words")
    with pytest.raises(
        ModelError, match=r"vector= must return shape .*\(1, \.\.\.\), not \(1, 3, 3"
    ):
        wrong.vectors(ids)
    with pytest.raises(ModelError, match=r"which nn\.Embedding holds the tokens"):
        TextModel(Net(), Tokenizer())


def test_blocks_of_a_model_of_embedded_tokens_are_found() -> None:
    model = TextModel(Net(), Tokenizer(), vector=mean, embedding="words").double()
    ids = torch.tensor([[1, 3, 4], [1, 2, 2]])
    maps = methods.attribute(
        "fullgrad_plus",
        model.embedded(),
        embed(model.embedding, ids),
        0,
        additional_forward_args=(ids, model.vectors(ids).detach()),
        layout="BTC",
    )
    assert maps.shape == (2, 1, 3)
    assert bool(maps.any())

"""A model of letters and one of a text beside an image, for tests of samples with several inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

TEXTS = ["a cat", "dog", "the cat sat", "cat"]
CLASSES = ["cat", "dog", "cow"]


class Letters:
    """A tokenizer whose tokens are letters."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        ids = [26 if letter == " " else ord(letter) - 97 for letter in text]
        return {"input_ids": ids, "attention_mask": [1] * len(ids)}

    def get_vocab(self) -> dict[str, int]:
        return {chr(97 + i): i for i in range(26)}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        names = {i: letter for letter, i in self.get_vocab().items()}
        return [names.get(i, "_") for i in ids]


class Reader(nn.Module):
    """Three classes of texts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(27, 4)
        self.mix = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits."""
        found = self.mix(self.words(input_ids)).relu() * attention_mask[..., None]
        return self.head(found.sum(1) / attention_mask.sum(1, keepdim=True))


class Beside(Reader):
    """Three classes of images with a text."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Conv2d(3, 3, 3)

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor
    ) -> Tensor:
        """Logits."""
        return super().forward(input_ids, attention_mask) + self.see(pixel_values).relu().mean(
            (2, 3)
        )


class Pairs(torch.utils.data.Dataset[Any]):
    """Images with texts of one length."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, number: int) -> Any:
        own = torch.Generator().manual_seed(number)
        ids = torch.randint(0, 27, (4,), generator=own)
        image = torch.randn(3, 6, 5, generator=own)
        entries = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": number % 3}
        return {**entries, "pixel_values": image}


def make_model() -> nn.Module:
    return Reader()


def make_pairs_model() -> nn.Module:
    return Beside()


def volumes() -> list[tuple[Tensor, int]]:
    torch.manual_seed(0)
    return [(torch.randn(1, 4, 5, 6), i % 2) for i in range(3)]


def volume_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))


def sounds() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, 40) for _ in range(3)]


def sound_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(1, 2, 5), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))


tokenizer = Letters()

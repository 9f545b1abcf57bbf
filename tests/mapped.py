"""A small classifier and small data, for tests that compute stores."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas
import torch
from torch import Tensor, nn

from fullgrad.datasets.index import WHERE_AND_WHEN
from fullgrad.datasets.opened import Opened


class Net(nn.Module):
    """Three classes of images of any size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        if bool((x > 50).any()):
            raise RuntimeError("brighter than this model can bear")
        if bool((x < -50).any()):
            raise KeyError("dark")
        return self.head(self.norm(self.stem(x)).relu().mean((2, 3)))


class Data(torch.utils.data.Dataset[Any]):
    """Random images with classes; those whose number is in ``broken`` cannot be read."""

    def __init__(self, count: int = 10, broken: tuple[int, ...] = (), side: int = 8) -> None:
        self.count, self.broken, self.side = count, broken, side

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        if number in self.broken:
            raise OSError(f"sample {number} is gone")
        own = torch.Generator().manual_seed(number)
        return torch.randn(3, self.side, self.side, generator=own), number % 3


def rows(store: Opened) -> pandas.DataFrame:
    """The index without the columns in which equal runs differ."""
    return store.index.drop(columns=list(WHERE_AND_WHEN))


def shards(folder: Path) -> dict[str, str]:
    """The digest of each shard."""
    found = sorted((folder / "maps.zarr" / "map" / "c").rglob("*"))
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in found
        if p.is_file()
    }

"""Handwritten digits and a small network that tells them apart."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fullgrad._files import printable
from fullgrad._optional import require
from fullgrad.errors import FullGradError, ImageError
from fullgrad.evaluation.sources import open_source

SIZE = 28
CLASSES = 10
_IMAGES, _LABELS = 2051, 2049  # what idx files of images and of labels begin with


class DigitsError(FullGradError):
    """The digits cannot be read, or are too few."""


@dataclass(frozen=True, slots=True, eq=False)
class Digits:
    """Digits in memory.

    Args:
        pixels: uint8 of shape (N, 28, 28), 0 is the background.
        labels: int64 of shape (N,).
        spec: where they come from.
    """

    pixels: Tensor
    labels: Tensor
    spec: str

    def inputs(self) -> Tensor:
        """Float32 in [0, 1], shape (N, 1, 28, 28)."""
        return self.pixels[:, None].float() / 255

    def digest(self) -> str:
        """Of all pixels and labels."""
        found = hashlib.sha256(self.pixels.numpy().tobytes())
        found.update(self.labels.numpy().tobytes())
        return found.hexdigest()[:16]

    def rows(self, index: Tensor) -> Digits:
        """Some of them."""
        return Digits(self.pixels[index], self.labels[index], self.spec)


def load_digits(spec: str, download: bool = False) -> Digits:
    """Read digits.

    Args:
        spec: a folder with MNIST's idx files (``*images*idx3*`` and ``*labels*idx1*``, gzipped or
            not; several pairs are joined), an image folder with a sub-folder for each digit
            (``0`` to ``9``), or ``torchvision:ROOT``.
        download: let torchvision fetch them.

    Raises:
        DigitsError: there are none, or they are damaged.
    """
    if spec.startswith("torchvision:"):
        return _torchvision(spec, download)
    folder = Path(spec)
    if not folder.is_dir():
        raise DigitsError(
            f"{printable(spec)} is no folder: give MNIST's idx files, an image folder, or "
            "torchvision:ROOT"
        )
    images = sorted(folder.glob("*images*idx3*"))
    return _idx(folder, images) if images else _folder(folder)


def _idx(folder: Path, images: list[Path]) -> Digits:
    pixels, labels = [], []
    for path in images:
        partner = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
        if not partner.is_file():
            raise DigitsError(f"{printable(path)} has no labels: {printable(partner.name)}")
        pixels.append(_read_idx(path, _IMAGES, 3))
        labels.append(_read_idx(partner, _LABELS, 1))
        if len(pixels[-1]) != len(labels[-1]):
            raise DigitsError(
                f"{printable(path)}: {len(pixels[-1])} images, {len(labels[-1])} labels"
            )
    return _checked(np.concatenate(pixels), np.concatenate(labels), str(folder))


def _read_idx(path: Path, magic: int, rank: int) -> Any:
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise DigitsError(f"{printable(path)} cannot be read: {error}") from error
    start = content[: 4 * (rank + 1)]
    head = np.frombuffer(start, ">i4") if len(start) == 4 * (rank + 1) else np.zeros(1)
    if head[0] != magic:
        raise DigitsError(f"{printable(path)} is not an idx file of the kind that its name says")
    values = np.frombuffer(content[4 * (rank + 1) :], np.uint8)
    if values.size != int(np.prod(head[1:], dtype=np.int64)):
        raise DigitsError(f"{printable(path)} is truncated")
    return values.reshape(head[1:])


def _folder(folder: Path) -> Digits:
    pixels, labels = [], []
    for digit in range(CLASSES):
        own = folder / str(digit)
        if not own.is_dir():
            raise DigitsError(
                f"{printable(folder)} holds neither MNIST's idx files nor a folder {digit!r} of "
                "images"
            )
        try:
            source = open_source(str(own))
        except ImageError as error:
            raise DigitsError(str(error)) from error
        for item in source.items:
            grey = item.read()[0].convert("L")
            pixels.append(np.asarray(grey))
            labels.append(digit)
    sizes = {p.shape for p in pixels}
    if sizes != {(SIZE, SIZE)}:
        raise DigitsError(f"the images must have {SIZE} x {SIZE} pixels, not {sorted(sizes)}")
    return _checked(np.stack(pixels), np.array(labels), str(folder))


def _torchvision(spec: str, download: bool) -> Digits:
    datasets: Any = require("torchvision.datasets", "vision")
    root = spec.partition(":")[2]
    try:
        both = [datasets.MNIST(root, train=t, download=download) for t in (True, False)]
    except (RuntimeError, OSError) as error:
        raise DigitsError(f"torchvision's MNIST cannot be read: {error}") from error
    pixels = np.concatenate([d.data.numpy() for d in both])
    return _checked(pixels, np.concatenate([d.targets.numpy() for d in both]), spec)


def _checked(pixels: Any, labels: Any, spec: str) -> Digits:
    if pixels.shape[1:] != (SIZE, SIZE):
        raise DigitsError(f"the digits must have {SIZE} x {SIZE} pixels, not {pixels.shape[1:]}")
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= CLASSES:
        raise DigitsError(f"{printable(spec)}: labels must lie in 0 to {CLASSES - 1}")
    if not (np.bincount(labels, minlength=CLASSES) >= 2).all():
        raise DigitsError(f"{printable(spec)}: every digit is needed twice at least")
    return Digits(torch.from_numpy(pixels.copy()), torch.from_numpy(labels.astype(np.int64)), spec)


def split(digits: Digits, test_share: float, seed: int) -> tuple[Digits, Digits]:
    """Training and test digits, every class in the same proportion.

    Args:
        digits: all of them.
        test_share: of each class, at least one digit.
        seed: of the choice.
    """
    generator = torch.Generator().manual_seed(seed)
    train, test = [], []
    for digit in range(CLASSES):
        own = (digits.labels == digit).nonzero()[:, 0]
        own = own[torch.randperm(len(own), generator=generator)]
        count = min(len(own) - 1, max(1, round(test_share * len(own))))
        test.append(own[:count])
        train.append(own[count:])
    return digits.rows(torch.cat(train).sort()[0]), digits.rows(torch.cat(test).sort()[0])


def network() -> nn.Sequential:
    """Two convolutions and two dense layers, ReLU and max-pool, for inputs (B, 1, 28, 28)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 49, 64),
        nn.ReLU(),
        nn.Linear(64, CLASSES),
    )


def trained(digits: Digits, epochs: int, seed: int, batch: int = 64) -> nn.Sequential:
    """The network, trained on some digits; the same for equal seeds, on one machine.

    Args:
        digits: to learn from.
        epochs: passes over them.
        seed: of the initial weights and the order.
        batch: digits a step.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network()
        x, y = digits.inputs(), digits.labels
        steps = epochs * -(-len(x) // batch)
        optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
        for _ in range(epochs):
            for index in torch.randperm(len(x)).split(batch):
                loss = nn.functional.cross_entropy(model(x[index]), y[index])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
    return model.eval()


def accuracy(model: nn.Module, digits: Digits) -> float:
    """Share of digits that are told right."""
    with torch.no_grad():
        found = [model(x).argmax(1) for x in digits.inputs().split(500)]
    return float((torch.cat(found) == digits.labels).float().mean())

"""Training a small classifier on a few classes of CIFAR-100, in minutes on one core.

The images have 32 x 32 pixels and are shown to the networks at twice that size, so that the
maps have more than a handful of positions.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from fullgrad.evaluation import datasets
from fullgrad.evaluation.datasets import Dataset
from fullgrad.evaluation.sources import DataError
from fullgrad.evaluation.training import loop
from fullgrad.evaluation.training.loader import Seeded
from fullgrad.evaluation.training.stacked import Networks

ROOT = Path(__file__).resolve().parents[1]
CLASSES = (
    "apple",
    "castle",
    "cup",
    "dolphin",
    "keyboard",
    "motorcycle",
    "palm_tree",
    "rocket",
    "sunflower",
    "tiger",
)
STORED = 32  # pixels a side, as CIFAR has them
MEAN, STD = 0.5, 0.25
SHIFT = 0.1  # beyond what the zoom leaves room for, as a share of half the image
_SPLITS = ("train", "test")


class MissingDataError(Exception):
    """The images to train with are not there; the message says how to give them."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a network is trained; all of it is in the digest of the result.

    Args:
        size: pixels a side of the network's input.
        epochs: passes over the training images.
        batch: images a step.
        rate: highest learning rate of the one-cycle schedule (AdamW).
        decay: weight decay.
        smoothing: label smoothing.
        zoom: images are enlarged by up to this factor and shifted; none are shrunk.
        light: brightness and contrast vary by up to this share.
        seed: of the initial weights, the order of the images and their variations.
    """

    size: int = 64
    epochs: int = 16
    batch: int = 50
    rate: float = 2e-3
    decay: float = 0.05
    smoothing: float = 0.1
    zoom: float = 1.4
    light: float = 0.3
    seed: int = 0


def image_folder(given: Path | None, cache: Path) -> Path:
    """The folder with ``train/CLASS/*.png`` and ``test/CLASS/*.png``.

    Args:
        given: what the user named; None to look for the mosaics in the shared folder
            (``FULLGRAD_SHARED``, or ``shared`` beside the project) and unpack them once.
        cache: where they are unpacked to.

    Raises:
        MissingDataError: nothing of the kind is there.
    """
    if given is not None:
        for split in _SPLITS:
            if not (given / split).is_dir():
                raise MissingDataError(
                    f"{given} has no folder {split!r}: --data needs an image folder with "
                    "train/CLASS/*.png and test/CLASS/*.png"
                )
        return given
    unpacked = cache / "cifar100"
    if unpacked.is_dir():
        return unpacked
    shared = Path(os.environ.get("FULLGRAD_SHARED") or ROOT.parent / "shared")
    script = shared / "data" / "unpack_cifar100.py"
    if not script.is_file():
        raise MissingDataError(
            f"CIFAR-100 is needed to train the small networks, and {script} is not there. Name an "
            "image folder (train/CLASS/*.png and test/CLASS/*.png of CIFAR-100) with --data, or "
            "the folder that holds data/cifar100 with FULLGRAD_SHARED"
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        target = Path(scratch, "cifar100")
        done = subprocess.run(
            [sys.executable, str(script), str(target)], check=False, capture_output=True, text=True
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise MissingDataError(f"{script} failed: {reason}")
        if not unpacked.is_dir():  # another process may have been faster
            target.rename(unpacked)
    return unpacked


def load(folder: Path, classes: tuple[str, ...] = CLASSES) -> Dataset:
    """Read the images of a few classes.

    Args:
        folder: from :func:`image_folder`.
        classes: names of class folders.

    Raises:
        MissingDataError: a class without images, or images that are not 32 x 32.
    """
    try:
        data = datasets.image_folder(folder, classes)
    except DataError as error:
        raise MissingDataError(str(error)) from error
    if data.train.shape[1:] != (3, STORED, STORED):
        raise MissingDataError(
            f"the images of {folder} have the shape {tuple(data.train.shape[1:])}, not "
            f"{(3, STORED, STORED)} as CIFAR's"
        )
    return data


def prepared(pixels: Tensor, size: int) -> Tensor:
    """A network's input: enlarged bilinearly, then standardised.

    Args:
        pixels: uint8, shape (N, 3, 32, 32).
        size: pixels a side.

    Returns:
        float32, shape (N, 3, size, size).
    """
    x = F.interpolate(pixels.float() / 255, (size, size), mode="bilinear", align_corners=False)
    return (x - MEAN) / STD


def reduced(image: Image.Image) -> Tensor:
    """The center square at CIFAR's resolution, each pixel the mean of those it covers.

    Returns:
        uint8 of shape (1, 3, 32, 32).
    """
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    small = image.resize((STORED, STORED), Image.Resampling.BOX, box)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)[None]


def visible(x: Tensor) -> Image.Image:
    """A small network's input, shape (1, 3, H, W), as an image."""
    pixels = (x[0] * STD + MEAN).mul(255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def varied(pixels: Tensor, settings: Settings, generator: torch.Generator) -> Tensor:
    """As :func:`prepared`, but zoomed, shifted, mirrored and lit at random."""
    n = len(pixels)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    scale = 1 / (1 + (settings.zoom - 1) * uniform(n))
    room = (1 - scale)[:, None] + SHIFT
    shift = (2 * uniform(n, 2) - 1) * room
    mirror = torch.where(uniform(n) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * mirror, scale, shift
    grid = F.affine_grid(theta, [n, 3, settings.size, settings.size], align_corners=False)
    x = F.grid_sample(
        pixels.float() / 255, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    light = 1 + settings.light * (2 * uniform(2, n, 1, 1, 1) - 1)
    x = ((x - 0.5) * light[0] + 0.5) * light[1]
    return (x.clamp(0, 1) - MEAN) / STD


def accuracy(model: nn.Module, pixels: Tensor, labels: Tensor, size: int) -> float:
    """Share of images for which the model's largest output is the label's."""
    training = model.training
    model.eval()
    with torch.no_grad():
        right = sum(
            int((model(prepared(x, size)).argmax(1) == y).sum())
            for x, y in zip(pixels.split(100), labels.split(100), strict=True)
        )
    model.train(training)
    return right / len(labels)


class Varied(Seeded):
    """Gives batches of images that are zoomed, shifted, mirrored and lit at random.

    Args:
        data: whose training images they are.
        settings: how they vary.
        device: where the batches are handed over; they are drawn on the CPU.
    """

    def __init__(self, data: Dataset, settings: Settings, device: torch.device) -> None:
        super().__init__(settings.seed)
        self._data, self._settings, self._device = data, settings, device

    def steps(self, batch: int) -> int:
        """Return how many batches an epoch has."""
        return -(-len(self._data.train) // batch)

    def epoch(self, batch: int, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images once in a new order."""
        order = torch.randperm(len(self._data.train), generator=self._generator)
        for number, chosen in enumerate(order.split(batch)):
            x = varied(self._data.train[chosen], self._settings, self._generator)
            if number >= skip:
                yield x.to(self._device), self._data.train_labels[chosen].to(self._device)


def fit(
    model: nn.Module,
    data: Dataset,
    settings: Settings,
    say: Callable[[str], None] = print,
    device: str = "cpu",
) -> float:
    """Train a network in place, and put it into evaluation mode.

    Args:
        model: freshly built, with as many outputs as there are classes.
        data: the images.
        settings: all that is chosen.
        say: called with a line of progress after each epoch.
        device: where it is trained; it comes back to the CPU.

    Returns:
        Seconds that it took.
    """
    start, seen, there = time.monotonic(), 0, torch.device(device)
    loader = Varied(data, settings, there)
    steps = loader.steps(settings.batch)

    def tick(total: Tensor) -> None:
        nonlocal seen
        seen += 1
        say(
            f"  epoch {seen}/{settings.epochs}: loss {float(total) / steps:.3f}, "
            f"{time.monotonic() - start:.0f} s"
        )

    how = loop.Settings(
        epochs=settings.epochs,
        batch=settings.batch,
        rate=settings.rate,
        optimizer="adamw",
        decay=settings.decay,
        smoothing=settings.smoothing,
        clip=1.0,
    )
    with seeded(settings.seed):
        loop.fit(Networks([model], there, channels_last=False), [loader], how, there, tick=tick)
    model.zero_grad()
    model.cpu().eval()
    return time.monotonic() - start


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's generator at a seed meanwhile, and as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield

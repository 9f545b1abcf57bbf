"""Small classifiers with images, as ``evaluate`` takes them, and a folder to run it in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fullgrad.evaluation.plan import MethodChoice
from fullgrad.evaluation.sources import Item, Source
from fullgrad.evaluation.tests.evaluate.subject import Explained, Subject
from fullgrad.vision.images import Preprocessing
from fullgrad.vision.models import LoadedModel

NET = """
import torch
from torch import nn

PREPROCESSING = {"resize": 16, "crop": [16, 16], "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}

def make_model():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 3, padding=1),
        nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 6))

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(768, 6)

    def forward(self, x):
        return self.linear(x.flatten(1))
"""


def pixels(count: int, height: int = 16, width: int = 16, seed: int = 0) -> Any:
    """Noise with a coarse and a fine part, uint8 of shape (N, H, W, 3)."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 180, (count, -(-height // 4), -(-width // 4), 3))
    coarse = coarse.repeat(4, 1).repeat(4, 2)[:, :height, :width]
    return (coarse + random.integers(0, 75, (count, height, width, 3))).astype(np.uint8)


def write_images(folder: Path, count: int, **options: Any) -> None:
    """Write noise as PNG files into a new folder."""
    folder.mkdir()
    for i, image in enumerate(pixels(count, **options)):
        Image.fromarray(image).save(folder / f"{i:03d}.png")


def subject_of(module: nn.Module, images: Any, labels: Sequence[int] | None = None) -> Subject:
    """A model with images that it takes as numbers in [0, 1].

    Args:
        module: from (B, 3, H, W) to (B, classes).
        images: uint8, shape (N, H, W, 3).
        labels: of the images.
    """

    def item(i: int) -> Item:
        return Item(f"{i:03d}", labels[i] if labels else None, lambda: (picture(images[i]), str(i)))

    shape = images.shape[1:3]
    preprocessing = Preprocessing(
        resize=shape, crop=shape, interpolation="nearest", mean=(0, 0, 0), std=(1, 1, 1)
    )
    device = torch.device("cpu")
    loaded = LoadedModel(
        module.eval(), "net", "none", preprocessing, None, None, None, True, device
    )
    return Subject("net", loaded, Source("made", tuple(map(item, range(len(images)))), (), "x"))


def picture(image: Any) -> Image.Image:
    """An array as Pillow's image."""
    return Image.fromarray(image)


def explained(
    subject: Subject, method: str, numbers: Sequence[int] | None = None, **more: Any
) -> Explained:
    """Maps of all images of a subject, or of some."""
    chosen = tuple(range(len(subject)) if numbers is None else numbers)
    return Explained(subject, MethodChoice.parse(method), chosen, **more)


def small_net(classes: int = 6, side: int = 16, seed: int = 1, double: bool = False) -> nn.Module:
    """A random convolutional network for images of one size."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 6, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * (side // 2) ** 2, classes),
    )
    return net.double() if double else net


def values_of(scores: Any, setting: str | None = None) -> Tensor:
    """The values of scores of one setting, float64 of shape (N,)."""
    chosen = [s.value for s in scores if setting in {None, s.setting}]
    return torch.tensor(chosen, dtype=torch.float64)

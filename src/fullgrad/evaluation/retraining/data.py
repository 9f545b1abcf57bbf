"""Small images with classes, held in memory as whole numbers from 0 to 255."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullgrad._files import printable
from fullgrad._optional import require
from fullgrad.errors import FullGradError
from fullgrad.evaluation import digits
from fullgrad.vision.images import SUFFIXES, read_photograph

LEAST = 2  # images of each class, to train with; one to test with
_TEST_SHARE = 0.25  # where a source has no test images of its own
_FORMS = (
    "sklearn:digits, torchvision:NAME:ROOT, a folder with train/CLASS/ and test/CLASS/, or a "
    "folder with MNIST's idx files"
)


class DataError(FullGradError):
    """The data set cannot be read, or does not do."""


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Training and test images of the same size.

    Args:
        spec: where they come from.
        train: uint8 of shape (N, C, H, W), C 1 or 3.
        train_labels: int64 of shape (N,).
        test: uint8 of shape (M, C, H, W).
        test_labels: int64 of shape (M,).
        classes: their names.

    Raises:
        DataError: shapes that do not fit, fewer than two classes, or too few images of one.
    """

    spec: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for images, labels in ((self.train, self.train_labels), (self.test, self.test_labels)):
            if images.dim() != 4 or images.dtype != torch.uint8 or len(images) != len(labels):
                raise DataError(
                    "images must be uint8 of shape (N, C, H, W) with N labels, not "
                    f"{images.dtype} {tuple(images.shape)} with {len(labels)}"
                )
        if self.train.shape[1:] != self.test.shape[1:] or self.train.shape[1] not in (1, 3):
            raise DataError(
                "training and test images must have one shape with 1 or 3 channels, not "
                f"{tuple(self.train.shape[1:])} and {tuple(self.test.shape[1:])}"
            )
        if len(self.classes) < 2:
            raise DataError(f"{printable(self.spec)} has fewer than two classes")
        for name, labels, least in (
            ("training", self.train_labels, LEAST),
            ("test", self.test_labels, 1),
        ):
            counts = torch.bincount(labels, minlength=len(self.classes)).tolist()
            if len(counts) > len(self.classes):
                raise DataError(f"{printable(self.spec)} has labels beyond its classes")
            for label, count in zip(self.classes, counts, strict=True):
                if count < least:
                    raise DataError(
                        f"the data set is too small: class {printable(label)} of "
                        f"{printable(self.spec)} has {count} {name} images, at least {least} "
                        "are needed"
                    )

    @property
    def pixels(self) -> int:
        """Positions of an image."""
        return self.train.shape[2] * self.train.shape[3]

    def digest(self) -> str:
        """Of all pixels, labels and class names."""
        found = hashlib.sha256("\n".join(self.classes).encode("utf-8", "replace"))
        for t in (self.train, self.train_labels, self.test, self.test_labels):
            found.update(str(tuple(t.shape)).encode())
            found.update(t.contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def limited(self, train: int | None = None, test: int | None = None) -> Dataset:
        """The first images of each class, equally many of each.

        Args:
            train: training images in all, at most; None for all.
            test: the same, of test images.

        Raises:
            DataError: too few for the classes.
        """
        kept = [
            _first(labels, count, len(self.classes))
            for labels, count in ((self.train_labels, train), (self.test_labels, test))
        ]
        return replace(
            self,
            train=self.train[kept[0]],
            train_labels=self.train_labels[kept[0]],
            test=self.test[kept[1]],
            test_labels=self.test_labels[kept[1]],
        )


def _first(labels: Tensor, count: int | None, classes: int) -> Tensor:
    if count is None:
        return torch.arange(len(labels))
    each = max(count, 0) // classes
    chosen = [(labels == c).nonzero()[:each, 0] for c in range(classes)]
    return torch.cat(chosen).sort()[0]


@dataclass(frozen=True, slots=True)
class Colours:
    """Statistics of the training images, for each channel, in steps of 0 to 255.

    Args:
        mean: of all pixels.
        std: of all pixels, at least 1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: Tensor) -> Colours:
        """Of uint8 images, shape (N, C, H, W)."""
        means, stds = [], []
        for channel in range(images.shape[1]):
            counts = torch.bincount(images[:, channel].flatten(), minlength=256).double()
            steps, total = torch.arange(256.0, dtype=torch.float64), counts.sum()
            mean = float((counts * steps).sum() / total)
            spread = float((counts * (steps - mean) ** 2).sum() / total) ** 0.5
            means.append(mean)
            stds.append(max(spread, 1.0))
        return cls(tuple(means), tuple(stds))

    def standardiser(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """What makes a network's input of images that are on a device, without waiting for it.

        Returns:
            From uint8 to float32 of mean 0 and deviation 1 over the training images.
        """
        mean = torch.tensor(self.mean, device=device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=device).view(-1, 1, 1)
        return lambda images: (images.float() - mean) / std

    def standardised(self, images: Tensor) -> Tensor:
        """A network's input: float32 of mean 0 and deviation 1 over the training images."""
        return self.standardiser(images.device)(images)


def open_dataset(spec: str, train: int | None = None, test: int | None = None) -> Dataset:
    """Read a data set into memory.

    Args:
        spec: ``sklearn:digits`` (1797 images of 8 x 8, needs no download; a quarter of each class
            is for testing), ``torchvision:NAME:ROOT`` (a class with ``train=``, downloaded
            before), an image folder with ``train/CLASS/`` and ``test/CLASS/``, or a folder with
            MNIST's idx files.
        train: training images in all, at most, the first ones of each class; None for all.
        test: the same, of test images.

    Raises:
        DataError: there is none, it cannot be read, or it is too small.
        MissingDependencyError: a package is needed and not installed.
    """
    if spec == "sklearn:digits":
        return _sklearn_digits(spec).limited(train, test)
    if spec.startswith("torchvision:"):
        return _torchvision(spec).limited(train, test)
    folder = Path(spec)
    if not folder.is_dir():
        raise DataError(f"{printable(spec)} is no data set: give {_FORMS}")
    if any(folder.glob("*images*idx3*")):
        return _idx(spec).limited(train, test)
    return _folder(folder, train, test)


def _sklearn_digits(spec: str) -> Dataset:
    found = require("sklearn.datasets", "bench").load_digits()
    pixels = torch.from_numpy(np.rint(found.images * (255 / 16)).astype(np.uint8))[:, None]
    return _split(spec, pixels, torch.from_numpy(found.target.astype(np.int64)))


def _split(spec: str, pixels: Tensor, labels: Tensor) -> Dataset:
    """Every fourth image of each class is for testing."""
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        own = (labels == label).nonzero()[:, 0]
        test[own[:: round(1 / _TEST_SHARE)]] = True
    names = tuple(str(n) for n in range(int(labels.max()) + 1))
    return Dataset(spec, pixels[~test], labels[~test], pixels[test], labels[test], names)


def _idx(spec: str) -> Dataset:
    try:
        found = digits.load_digits(spec)
    except digits.DigitsError as error:
        raise DataError(str(error)) from error
    return _split(spec, found.pixels[:, None], found.labels)


def _torchvision(spec: str) -> Dataset:
    datasets: Any = require("torchvision.datasets", "vision")
    name, _, root = spec.partition(":")[2].partition(":")
    kind = getattr(datasets, name, None)
    if not isinstance(kind, type) or not root:
        raise DataError(
            f"{printable(spec)}: give torchvision:NAME:ROOT, NAME one of torchvision.datasets' "
            "classes, ROOT the folder where it lies"
        )
    try:
        halves = [kind(root, train=t, download=False) for t in (True, False)]
    except TypeError as error:
        raise DataError(f"torchvision's {name} has no train and test split: {error}") from error
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"torchvision's {name} cannot be read from {printable(root)}: {error}. Download it "
            "first"
        ) from error
    parts: list[Tensor] = []
    for half in halves:
        parts.append(_stacked([half[i][0] for i in range(len(half))], spec))
        parts.append(torch.tensor([int(half[i][1]) for i in range(len(half))]))
    count = int(max(parts[1].max(), parts[3].max())) + 1
    names = tuple(map(str, getattr(halves[0], "classes", range(count))))
    return Dataset(spec, parts[0], parts[1], parts[2], parts[3], names)


def _folder(folder: Path, *limits: int | None) -> Dataset:
    name = printable(folder)
    for split in ("train", "test"):
        if not (folder / split).is_dir():
            raise DataError(f"{name} has no folder {split!r}: give {_FORMS}")
    classes = sorted(p.name for p in (folder / "train").iterdir() if p.is_dir())
    beyond = sorted({p.name for p in (folder / "test").iterdir() if p.is_dir()} - set(classes))
    if beyond:
        raise DataError(f"{name}: class {printable(beyond[0])} has test images only")
    parts: list[Tensor] = []
    for split, limit in zip(("train", "test"), limits, strict=True):
        images, labels = [], []
        for number, label in enumerate(classes):
            files = sorted(
                file
                for file in (folder / split / label).glob("*")
                if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
            )
            for file in files if limit is None else files[: max(limit, 0) // len(classes)]:
                images.append(read_photograph(file).image)
                labels.append(number)
        parts += [_stacked(images, str(folder)), torch.tensor(labels)]
    return Dataset(str(folder), parts[0], parts[1], parts[2], parts[3], tuple(classes))


def _stacked(images: Sequence[Any], spec: str) -> Tensor:
    if not images:
        raise DataError(f"{printable(spec)} holds no images")
    grey = all(image.mode == "L" for image in images)
    arrays = [np.asarray(image if grey else image.convert("RGB")) for image in images]
    sizes = {a.shape[:2] for a in arrays}
    if len(sizes) > 1:
        raise DataError(f"the images of {printable(spec)} differ in size: {sorted(sizes)[:4]}")
    stacked = torch.from_numpy(np.stack(arrays))
    return stacked[:, None] if grey else stacked.permute(0, 3, 1, 2).contiguous()

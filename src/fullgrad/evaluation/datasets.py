"""Small images with classes, held in memory as whole numbers from 0 to 255."""

from __future__ import annotations

import gzip
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
from fullgrad.evaluation.sources import DataError, image_files, readable, torchvision_set
from fullgrad.vision.images import read_photograph

SIDE, DIGITS = 28, 10  # of handwritten digits
_IMAGES, _LABELS = 2051, 2049  # what idx files of images and of labels begin with
LEAST = 2  # images of each class, to train with; one to test with
_TEST_SHARE = 0.25  # where a source has no test images of its own
FORMS = (
    "sklearn:digits, torchvision:NAME:ROOT, a folder with train/CLASS/ and test/CLASS/, or a "
    "folder with MNIST's idx files"
)


@dataclass(frozen=True, slots=True, eq=False)
class Labeled:
    """Holds images in memory with their classes.

    Args:
        images: uint8 of shape (N, C, H, W).
        labels: int64 of shape (N,).
        spec: where they come from.
    """

    images: Tensor
    labels: Tensor
    spec: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self) -> Tensor:
        """Return float32 in [0, 1], shape (N, C, H, W)."""
        return self.images.float() / 255

    def digest(self) -> str:
        """Return a digest of all pixels and labels, in 16 hexadecimal digits."""
        return _digest_of([self.images, self.labels])[:16]

    def rows(self, index: Tensor) -> Labeled:
        """Return some of them."""
        return Labeled(self.images[index], self.labels[index], self.spec)

    def split(self, test_share: float, seed: int) -> tuple[Labeled, Labeled]:
        """Return training and test images, every class in the same proportion.

        Args:
            test_share: of each class, at least one image.
            seed: of the choice.
        """
        generator = torch.Generator().manual_seed(seed)
        train, test = [], []
        for label in self.labels.unique():
            own = (self.labels == label).nonzero()[:, 0]
            own = own[torch.randperm(len(own), generator=generator, device="cpu")]
            count = min(len(own) - 1, max(1, round(test_share * len(own))))
            test.append(own[:count])
            train.append(own[count:])
        return self.rows(torch.cat(train).sort()[0]), self.rows(torch.cat(test).sort()[0])


def _digest_of(tensors: Sequence[Tensor], text: str = "") -> str:
    found = hashlib.sha256(text.encode("utf-8", "replace"))
    for t in tensors:
        found.update(str(tuple(t.shape)).encode())
        found.update(t.contiguous().numpy().tobytes())
    return found.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Holds training and test images of the same size.

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

    def digest(self, digits: int = 16) -> str:
        """Return a digest of all pixels, labels and class names, in hexadecimal digits."""
        tensors = [self.train, self.train_labels, self.test, self.test_labels]
        return _digest_of(tensors, "\n".join(self.classes))[:digits]

    def limited(self, train: int | None = None, test: int | None = None) -> Dataset:
        """Return the first images of each class, equally many of each.

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
class Colors:
    """Holds statistics of the training images, for each channel, in steps of 0 to 255.

    Args:
        mean: of all pixels.
        std: of all pixels, at least 1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: Tensor) -> Colors:
        """Measure uint8 images, shape (N, C, H, W)."""
        means, stds = [], []
        for channel in range(images.shape[1]):
            counts = torch.bincount(images[:, channel].flatten(), minlength=256).double()
            steps, total = torch.arange(256.0, dtype=torch.float64), counts.sum()
            mean = float((counts * steps).sum() / total)
            spread = float((counts * (steps - mean) ** 2).sum() / total) ** 0.5
            means.append(mean)
            stds.append(max(spread, 1.0))
        return cls(tuple(means), tuple(stds))

    def standardizer(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return what makes a network's input of images on a device, without waiting for it.

        Returns:
            From uint8 to float32 of mean 0 and deviation 1 over the training images.
        """
        mean = torch.tensor(self.mean, device=device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=device).view(-1, 1, 1)
        return lambda images: (images.float() - mean) / std

    def standardized(self, images: Tensor) -> Tensor:
        """Return a network's input: float32 of mean 0 and deviation 1 over the training images."""
        return self.standardizer(images.device)(images)


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
        raise DataError(f"{printable(spec)} is not a data set: give {FORMS}")
    if any(folder.glob("*images*idx3*")):
        found = _idx(folder)
        return _split(spec, found.images, found.labels).limited(train, test)
    return image_folder(folder, None, train, test)


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


def open_digits(spec: str, download: bool = False) -> Labeled:
    """Read handwritten digits of 28 x 28 pixels.

    Args:
        spec: a folder with MNIST's idx files (``*images*idx3*`` and ``*labels*idx1*``, gzipped or
            not; several pairs are joined), an image folder with a sub-folder for each digit
            (``0`` to ``9``), or ``torchvision:ROOT``.
        download: let torchvision fetch them.

    Raises:
        DataError: there are none, or they are damaged.
    """
    folder, names = Path(spec), [str(digit) for digit in range(DIGITS)]
    if spec.startswith("torchvision:"):
        root = spec.partition(":")[2]
        kind, _, _ = torchvision_set(f"torchvision:MNIST:{root}")
        with readable("MNIST", root):
            halves = [kind(root, train=t, download=download) for t in (True, False)]
        images = torch.cat([half.data for half in halves])[:, None]
        found = Labeled(images, torch.cat([half.targets for half in halves]), spec)
    elif not folder.is_dir():
        raise DataError(
            f"{printable(spec)} is not a folder: give MNIST's idx files, an image folder, or "
            "torchvision:ROOT"
        )
    elif any(folder.glob("*images*idx3*")):
        found = _idx(folder)
    else:
        for name in names:
            if not (folder / name).is_dir():
                raise DataError(
                    f"{printable(folder)} holds neither MNIST's idx files nor a folder {name} of "
                    "images"
                )
        found = _read_classes(folder, names, "L")
    if found.images.shape[1:] != (1, SIDE, SIDE):
        raise DataError(
            f"the digits must have {SIDE} x {SIDE} pixels, not {tuple(found.images.shape[2:])}"
        )
    if int(found.labels.max()) >= DIGITS:
        raise DataError(f"{printable(spec)}: labels must lie in 0 to {DIGITS - 1}")
    if int(torch.bincount(found.labels, minlength=DIGITS).min()) < 2:
        raise DataError(f"{printable(spec)}: every digit is needed twice at least")
    return found


def _idx(folder: Path) -> Labeled:
    pixels, labels = [], []
    for path in sorted(folder.glob("*images*idx3*")):
        partner = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
        if not partner.is_file():
            raise DataError(f"{printable(path)} has no labels: {printable(partner.name)}")
        pixels.append(_read_idx(path, _IMAGES, 3))
        labels.append(_read_idx(partner, _LABELS, 1))
        if len(pixels[-1]) != len(labels[-1]):
            raise DataError(
                f"{printable(path)}: {len(pixels[-1])} images, {len(labels[-1])} labels"
            )
    images = torch.from_numpy(np.concatenate(pixels))[:, None]
    return Labeled(images, torch.from_numpy(np.concatenate(labels).astype(np.int64)), str(folder))


def _read_idx(path: Path, magic: int, rank: int) -> Any:
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"{printable(path)} cannot be read: {error}") from error
    start = content[: 4 * (rank + 1)]
    head = np.frombuffer(start, ">i4") if len(start) == 4 * (rank + 1) else np.zeros(1)
    if head[0] != magic:
        raise DataError(f"{printable(path)} is not an idx file of the kind that its name says")
    values = np.frombuffer(content[4 * (rank + 1) :], np.uint8)
    if values.size != int(np.prod(head[1:], dtype=np.int64)):
        raise DataError(f"{printable(path)} is truncated")
    return values.reshape(head[1:])


def _torchvision(spec: str) -> Dataset:
    kind, root, _ = torchvision_set(spec)
    with readable(kind.__name__, root):
        halves = [kind(root, train=t, download=False) for t in (True, False)]
    parts: list[Tensor] = []
    for half in halves:
        parts.append(_stacked([half[i][0] for i in range(len(half))], spec))
        parts.append(torch.tensor([int(half[i][1]) for i in range(len(half))]))
    count = int(max(parts[1].max(), parts[3].max())) + 1
    names = tuple(map(str, getattr(halves[0], "classes", range(count))))
    return Dataset(spec, parts[0], parts[1], parts[2], parts[3], names)


def image_folder(
    folder: Path, classes: Sequence[str] | None = None, *limits: int | None
) -> Dataset:
    """Read a folder with ``train/CLASS/`` and ``test/CLASS/``.

    Args:
        folder: that holds both.
        classes: names of the classes in the order of their numbers; None for all, sorted.
        *limits: training and test images in all, at most, the first ones of each class.

    Raises:
        DataError: it is not of that form, or holds too few images.
    """
    name = printable(folder)
    for half in ("train", "test"):
        if not (folder / half).is_dir():
            raise DataError(f"{name} has no folder {half!r}: give {FORMS}")
    if classes is None:
        classes = sorted(p.name for p in (folder / "train").iterdir() if p.is_dir())
        beyond = {p.name for p in (folder / "test").iterdir() if p.is_dir()} - set(classes)
        if beyond:
            raise DataError(f"{name}: class {printable(min(beyond))} has test images only")
    halves = []
    for half, limit in zip(("train", "test"), limits or (None, None), strict=True):
        each = None if limit is None else max(limit, 0) // len(classes)
        halves.append(_read_classes(folder / half, classes, each=each))
    train, test = halves
    return Dataset(
        str(folder), train.images, train.labels, test.images, test.labels, tuple(classes)
    )


def _read_classes(
    folder: Path, classes: Sequence[str], mode: str = "", each: int | None = None
) -> Labeled:
    """Read the images of a folder for each class, the first ones of each."""
    images, labels = [], []
    for number, label in enumerate(classes):
        for file in image_files(folder / label)[:each]:
            image = read_photograph(file).image
            images.append(image.convert(mode) if mode else image)
            labels.append(number)
    return Labeled(_stacked(images, str(folder)), torch.tensor(labels), str(folder))


def _stacked(images: Sequence[Any], spec: str) -> Tensor:
    if not images:
        raise DataError(f"{printable(spec)} holds no images")
    gray = all(image.mode == "L" for image in images)
    arrays = [np.asarray(image if gray else image.convert("RGB")) for image in images]
    sizes = {a.shape[:2] for a in arrays}
    if len(sizes) > 1:
        raise DataError(f"the images of {printable(spec)} differ in size: {sorted(sizes)[:4]}")
    stacked = torch.from_numpy(np.stack(arrays))
    return stacked[:, None] if gray else stacked.permute(0, 3, 1, 2).contiguous()

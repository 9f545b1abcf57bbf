"""Images that are read one by one: a folder, a CSV of files, a torchvision data set, generated."""

from __future__ import annotations

import csv
import hashlib
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullgrad._files import printable, stored_name
from fullgrad._optional import require
from fullgrad.errors import ImageError
from fullgrad.evaluation.tests.evaluate.generated_images import KINDS, scene
from fullgrad.vision.images import Preprocessing, input_of, is_image, preprocess, read_photograph

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

WAY_OUT = "give a --model file.py:FUNCTION that returns it with such an output"  # no classifier
_GENERATED = 300  # images of a kind


class DataError(ImageError):
    """Images or data sets cannot be read, or are unsuitable."""


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """Reads one image.

    Args:
        name: that tells it apart.
        label: its class, if it is known.
        read: decodes it: an RGB image and the SHA-256 of what was decoded.
        mask: the same of an image of equal size that is white where it is known to count, and
            black elsewhere; None where that is not known.
        path: of a file, which may have other channels than color; None of anything else.
    """

    name: str
    label: int | None
    read: Callable[[], tuple[Image.Image, str]]
    mask: Callable[[], tuple[Image.Image, str]] | None = None
    path: Path | None = None

    def input(self, preprocessing: Preprocessing) -> Tensor:
        """Return what a model takes, as ``fullgrad explain`` gives it, shape (C, H, W).

        Raises:
            ImageError: the file has other channels than the model takes.
        """
        if self.path is None:
            return preprocess(self.read()[0], preprocessing)
        return input_of(read_photograph(self.path), preprocessing)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Holds images that can be read.

    Args:
        spec: as it was asked for.
        items: in a fixed order.
        excluded: (name, why) of those that cannot be read.
        content: digest of all names, labels and bytes, those of masks too.
    """

    spec: str
    items: tuple[Item, ...]
    excluded: tuple[tuple[str, str], ...]
    content: str

    def check_inputs(self, preprocessing: Preprocessing) -> None:
        """See that a model can take each image: colors fit all models of 1 or 3 channels.

        Raises:
            ImageError: a file has other channels than the model takes.
        """
        plain = preprocessing.channels in (1, 3)
        for item in self.items:
            if not plain or (item.path is not None and item.path.suffix.lower() == ".npy"):
                item.input(preprocessing)


def open_source(spec: str, limit: int | None = None) -> Source:
    """Find the images, and try to read each.

    Args:
        spec: a folder (searched recursively), a CSV file with a column ``file`` (relative to the
            CSV file) and perhaps ``class_index`` and ``mask`` (another file, white where the
            image is known to count); ``torchvision:NAME:ROOT[:SPLIT]`` for a data set that lies in
            a folder already (its test images, or those for validation); or ``generated:shapes`` or
            ``generated:shortcut``, of which it is known what counts.
        limit: up to how many, spread evenly over all of them; None for all.

    Raises:
        DataError: there are none, the source cannot be read, or none of its images can.
        ValueError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"at least one image is needed, not {limit}")
    if spec.startswith("torchvision:"):
        found = _torchvision(spec, limit)
    elif spec.startswith("generated:"):
        found = _generated(spec)
    elif Path(spec).is_dir():
        found = _folder(Path(spec))
    elif Path(spec).suffix.lower() == ".csv":
        found = _table(Path(spec))
    else:
        raise DataError(
            f"{printable(spec)} is not a source of images: give a folder, a .csv file with a "
            "column 'file', torchvision:NAME:ROOT, or generated:KIND"
        )
    found = [found[i] for i in _spread(len(found), limit)]
    items, excluded = [], []
    digest = hashlib.sha256()
    for item in found:
        try:
            content = _content_of(item)
        except ImageError as error:
            excluded.append((item.name, str(error)))
            continue
        items.append(item)
        digest.update(f"{item.name}\0{item.label}\0{content}\n".encode("utf-8", "replace"))
    if not items:
        raise DataError(f"none of the {len(found)} images of {printable(spec)} can be read")
    return Source(spec, tuple(items), tuple(excluded), digest.hexdigest()[:16])


def _content_of(item: Item) -> str:
    """Read an image and its mask.

    Raises:
        ImageError: one of them cannot be read, or they are not of one size.
    """
    image, content = item.read()
    if item.mask is None:
        return content
    mask, more = item.mask()
    if mask.size != image.size:
        sizes = (" x ".join(map(str, i.size)) for i in (mask, image))
        raise DataError("the mask is {} pixels, the image {}".format(*sizes))
    return f"{content} {more}"


def _spread(count: int, limit: int | None) -> list[int]:
    """Choose up to ``limit`` of all, evenly."""
    if limit is None or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]


def _file(path: Path, name: str, label: int | None, mask: Path | None = None) -> Item:
    return Item(name, label, _reader(path), _reader(mask) if mask else None, path)


def _reader(path: Path) -> Callable[[], tuple[Image.Image, str]]:
    def read() -> tuple[Image.Image, str]:
        photograph = read_photograph(path)
        return photograph.image, photograph.sha256

    return read


def image_files(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the image files of a folder that match a pattern, in order.

    Hidden files and folders and fullgrad's own pictures (``*.overlay.png``) are left out.
    """
    found = (p for p in folder.glob(pattern) if is_image(p))
    return sorted(
        p for p in found if not any(n.startswith(".") for n in p.relative_to(folder).parts)
    )


def _folder(folder: Path) -> list[Item]:
    files = image_files(folder, "**/*")
    if not files:
        raise DataError(f"the folder {printable(folder)} holds no image files")
    return [_file(p, stored_name(p.relative_to(folder)), None) for p in files]


def _table(path: Path) -> list[Item]:
    name = printable(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name} cannot be read: {error}") from error
    if "file" not in columns:
        raise DataError(f"{name} has no column 'file' (it has: {', '.join(columns) or 'none'})")
    if not rows:
        raise DataError(f"{name} names no images")
    items: list[Item] = []
    lines: dict[str, int] = {}
    for number, row in enumerate(rows, 2):
        text = (row.get("class_index") or "").strip()
        if text and not text.isdecimal():
            raise DataError(f"line {number} of {name}: class_index {text!r} is not a number")
        file_name = row["file"] or ""
        before = lines.setdefault(os.path.normpath(path.parent / file_name), number)
        if before != number:
            raise DataError(
                f"lines {before} and {number} of {name} name the same file, "
                f"{printable(file_name)}: leave one of them out, since it counts as one image"
            )
        label = int(text) if text else None
        mask = row.get("mask") or ""
        place = path.parent / mask if mask else None
        items.append(_file(path.parent / file_name, file_name, label, place))
    return items


def _generated(spec: str) -> list[Item]:
    kind = spec.removeprefix("generated:")
    if kind not in KINDS:
        known = " or ".join(f"generated:{k}" for k in KINDS)
        raise DataError(f"there are no images {printable(spec)}; give {known}")

    def image_of(pixels: Any) -> tuple[Image.Image, str]:
        pil = require("PIL.Image", "vision")
        return pil.fromarray(pixels), hashlib.sha256(pixels.tobytes()).hexdigest()

    def item(number: int) -> Item:
        def mask() -> tuple[Image.Image, str]:
            white = scene(kind, number).mask[..., None].repeat(3, 2)
            return image_of(white.astype("uint8") * 255)

        drawn = scene(kind, number)
        return Item(f"{kind}/{number:04d}", drawn.label, lambda: image_of(drawn.image), mask)

    return [item(number) for number in range(_GENERATED)]


def _torchvision(spec: str, limit: int | None) -> list[Item]:
    name, data = torchvision_data(spec)
    with readable(name, spec.split(":")[2]):
        chosen = _spread(len(data), limit)  # before any is decoded

    def item(i: int) -> Item:
        label = data[i][1]
        if not isinstance(label, int):
            raise DataError(
                f"torchvision's {name} gives no class for an image but {type(label).__name__}"
            )

        def read() -> tuple[Image.Image, str]:
            image = data[i][0].convert("RGB")
            return image, hashlib.sha256(image.tobytes()).hexdigest()

        return Item(f"{name}/{i}", label, read)

    return [item(i) for i in chosen]


def torchvision_data(spec: str) -> tuple[str, Any]:
    """Return the name and the images of ``torchvision:NAME:ROOT[:SPLIT]``.

    Raises:
        DataError: torchvision has no such class, or it cannot be read.
    """
    kind, root, split = torchvision_set(spec)
    with readable(kind.__name__, root):
        return kind.__name__, _opened(kind, root, split, spec)


def torchvision_set(spec: str) -> tuple[Any, str, str]:
    """Return the class of ``torchvision:NAME:ROOT[:SPLIT]``, its folder and the split.

    Raises:
        DataError: torchvision has no such class, or there is no folder.
    """
    datasets: Any = require("torchvision.datasets", "vision")
    name, _, rest = spec.partition(":")[2].partition(":")
    root, _, split = rest.partition(":")
    kind = getattr(datasets, name, None)
    if not isinstance(kind, type) or not root:
        raise DataError(
            f"{printable(spec)}: give torchvision:NAME:ROOT, NAME one of torchvision.datasets' "
            "classes, ROOT the folder where it lies"
        )
    return kind, root, split


@contextmanager
def readable(name: str, root: str) -> Iterator[None]:
    """Turn the errors of a data set of torchvision's into one line."""
    try:
        yield
    except TypeError as error:
        raise DataError(f"torchvision's {name} cannot be read here: {error}") from error
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"torchvision's {name} cannot be read from {printable(root)}: {error}. Download it "
            "first"
        ) from error


def _opened(kind: Any, root: str, split: str, spec: str) -> Any:
    """Open a data set of torchvision's, with the split that is asked for, or its test images."""
    known = inspect.signature(kind).parameters
    if "root" not in known:
        raise DataError(f"{spec!r}: torchvision's {kind.__name__} does not lie in a folder")
    if "train" in known:
        if split not in {"", "test", "train"}:
            raise DataError(f"{spec!r}: the split is 'test' or 'train', not {split!r}")
        return kind(root, train=split == "train")
    if "split" not in known:
        if split:
            raise DataError(f"{spec!r}: torchvision's {kind.__name__} has no splits")
        return kind(root)
    try:
        return kind(root, split=split or "test")
    except ValueError as error:
        if split:
            raise DataError(f"{spec!r}: {error}") from error
        return kind(root, split="val")

"""Photographs: reading any ordinary image file, and preparing it for a model."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fullgrad._files import AnyPath, printable, sha256_of
from fullgrad._optional import require
from fullgrad.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image


MAX_PIXELS = 100_000_000
_MAX_RESIZED = 25_000_000
SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
OVERLAY_SUFFIX = ".overlay.png"  # pictures that fullgrad made are no photographs
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From a photograph to a model's input: resize, crop the centre, normalise.

    Args:
        resize: length of the shorter side, aspect ratio kept; or (height, width), stretched.
        crop: (height, width) cut out of the centre: the model's input size.
        interpolation: ``nearest``, ``bilinear``, ``bicubic``, ``lanczos``, ``box`` or ``hamming``.
        mean: subtracted from each channel of values in [0, 1].
        std: then divided by.

    Raises:
        ValueError: sizes below 1, a crop larger than the resized image, an unknown interpolation,
            a mean or std that is not three numbers, a std that is not positive.
    """

    resize: int | tuple[int, int] = 256
    crop: tuple[int, int] = (224, 224)
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        sides = (self.resize,) * 2 if isinstance(self.resize, int) else self.resize
        if len(self.crop) != 2 or len(sides) != 2 or min(self.crop) < 1:
            raise ValueError(f"crop and resize must be positive, not {self.crop}, {self.resize}")
        if self.crop[0] > sides[0] or self.crop[1] > sides[1]:
            raise ValueError(f"the crop {self.crop} is larger than the image resized to {sides}")
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(
                f"interpolation must be one of {', '.join(_INTERPOLATIONS)}, "
                f"not {self.interpolation!r}"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or not min(self.std) > 0:
            raise ValueError(
                f"mean and std must be 3 numbers, std positive, not {self.mean}, {self.std}"
            )


@dataclass(frozen=True, slots=True)
class Photograph:
    """An image file, decoded.

    Args:
        image: upright, in mode RGB, 8 bits a channel.
        path: as it was given.
        sha256: of the file.
        size: (width, height) as stored, before it is turned upright.
        mode: Pillow's colour mode as stored.
        frames: how many the file holds; the first is used.
    """

    image: Image.Image
    path: Path
    sha256: str
    size: tuple[int, int]
    mode: str
    frames: int


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image file that was found.

    Args:
        path: of the file.
        name: the path below the folder that was given, without the ending and with ``/`` between
            its parts; of a file that was given itself, its stem.
    """

    path: Path
    name: str


def found_images(paths: Iterable[AnyPath]) -> list[FoundImage]:
    """Files as they are given, folders as the image files in them and in their subfolders.

    Args:
        paths: files and folders. In folders, links are followed; hidden files and folders and
            fullgrad's own pictures (``*.overlay.png``) are left out.

    Returns:
        The files, each once, in order: a folder's own in the order of their names, then those of
        its subfolders. Whether they can be read is found out on reading.

    Raises:
        ImageError: a folder without image files, or that cannot be listed.
    """
    found: dict[Path, FoundImage] = {}
    for path in map(Path, paths):
        inside = _images_in(path) if path.is_dir() else [FoundImage(path, path.stem)]
        for image in inside:
            found.setdefault(image.path.resolve(), image)
    return list(found.values())


def find_images(paths: Iterable[AnyPath]) -> list[Path]:
    """The paths of :func:`found_images`."""
    return [image.path for image in found_images(paths)]


def _images_in(folder: Path) -> list[FoundImage]:
    def fail(error: OSError) -> None:
        name = printable(error.filename or folder)
        raise ImageError(f"{name} cannot be listed: {error.strerror}") from error

    found, seen = [], set()
    for place, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        here = Path(place)
        if here.resolve() in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(here.resolve())
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in map(here.joinpath, sorted(files)):
            if _is_image(path):
                found.append(FoundImage(path, path.relative_to(folder).with_suffix("").as_posix()))
    if not found:
        known = ", ".join(s[1:] for s in SUFFIXES)
        raise ImageError(f"the folder {printable(folder)} holds no image files ({known})")
    return found


def _is_image(path: Path) -> bool:
    hidden, own = path.name.startswith("."), path.name.endswith(OVERLAY_SUFFIX)
    return path.suffix.lower() in SUFFIXES and not (hidden or own) and path.is_file()


def read_image(path: AnyPath) -> Image.Image:
    """The image of :func:`read_photograph` alone."""
    return read_photograph(path).image


def read_photograph(path: AnyPath) -> Photograph:
    """Read an image file into 8-bit RGB, upright.

    Transparent pixels are composited on white. 16-bit brightness is scaled to 8 bits (65535
    becomes 255), not clipped. EXIF orientation is applied. CMYK is converted without a colour
    profile. Of a file with several frames the first is used.

    Args:
        path: the file.

    Returns:
        The image and where it comes from.

    Raises:
        ImageError: it does not exist, is a folder, empty, no image, truncated, damaged, of more
            than ``MAX_PIXELS`` pixels or of a colour mode without a conversion.
        MissingDependencyError: Pillow is not installed.
    """
    pil = require("PIL.Image", "vision")
    path = Path(path)
    name = printable(path)
    try:
        _check_file(path, name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with path.open("rb") as file:
                image, size, mode, frames = _decode(pil, file, name)
        return Photograph(image, path, sha256_of(path), size, mode, frames)
    except OSError as error:  # of the file system: what Pillow raises is converted where it occurs
        raise ImageError(f"{name} cannot be read: {error.strerror or error}") from error


def image_of_bytes(content: bytes, name: str) -> Image.Image:
    """The image that :func:`read_image` reads, of a file's content.

    Args:
        content: of the file.
        name: what it is called in messages.

    Raises:
        ImageError: as of :func:`read_photograph`.
    """
    pil = require("PIL.Image", "vision")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _decode(pil, io.BytesIO(content), printable(name))[0]


def _check_file(path: Path, name: str) -> None:
    if path.is_dir():
        raise ImageError(f"{name} is a folder, not an image file")
    if not path.exists():
        raise ImageError(f"{name} does not exist")
    if not path.is_file():
        raise ImageError(f"{name} is not a regular file")
    if path.stat().st_size == 0:
        raise ImageError(f"{name} is empty (0 bytes)")


def _decode(pil: Any, file: Any, name: str) -> tuple[Image.Image, tuple[int, int], str, int]:
    limit = f"more than the {MAX_PIXELS // 1_000_000} million pixels that are accepted"
    try:
        image = pil.open(file)
    except pil.UnidentifiedImageError as error:
        raise ImageError(f"{name} is not an image of a known format") from error
    except pil.DecompressionBombError as error:
        raise ImageError(f"{name} has {limit}") from error
    except Exception as error:  # decoders raise what they like on damaged files
        raise ImageError(f"{name} is damaged: {error}") from error
    with image:
        size, mode = image.size, image.mode
        if size[0] * size[1] > MAX_PIXELS:
            raise ImageError(f"{name} is {size[0]} x {size[1]}, {limit}")
        try:
            frames = int(getattr(image, "n_frames", 1))
            image.seek(0)
            image.load()
        except Exception as error:
            raise ImageError(f"{name} is truncated or damaged: {error}") from error
        try:
            return to_rgb(upright(image)), size, mode, frames
        except ValueError as error:
            raise ImageError(f"{name} has colour mode {mode}: {error}") from error


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data: the pixels are as good as they were
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of any mode; 16-bit and float images are scaled, transparency lies on white."""
    from PIL import Image as pil

    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        return pil.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = pil.new("RGBA", image.size, "white")
        return pil.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(grey: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Brightness in [0, 65535] (integers) or [0, 1] (floats) as 8 bits."""
    top = 1.0 if grey.dtype.kind == "f" else 65535.0
    values = grey.astype(np.float64)
    if not bool(((values >= 0) & (values <= top)).all()):
        raise ValueError(f"brightness outside 0 to {top:g} cannot be scaled to 8 bits")
    return np.rint(values * (255.0 / top)).astype(np.uint8)


def display_image(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The part of a photograph that the model sees, at the model's resolution, in RGB.

    The same pixels as torchvision's and timm's transforms of a Pillow image. Of a strip that
    would become huge (20,000 x 1 pixels) the crop alone is computed, equal up to rounding.

    Args:
        image: in mode RGB.
        preprocessing: the model's.

    Returns:
        An image of the crop's size, on which a saliency map lies.
    """
    from PIL import Image as pil

    filter_ = pil.Resampling[preprocessing.interpolation.upper()]
    width, height = _resized(image.size, preprocessing.resize)
    crop_height, crop_width = preprocessing.crop
    left, top = round((width - crop_width) / 2), round((height - crop_height) / 2)
    image = image.convert("RGB")
    if width * height <= _MAX_RESIZED:
        crop = (left, top, left + crop_width, top + crop_height)
        return image.resize((width, height), filter_).crop(crop)
    x, y = image.width / width, image.height / height
    right = min((left + crop_width) * x, image.width)
    bottom = min((top + crop_height) * y, image.height)
    return image.resize((crop_width, crop_height), filter_, (left * x, top * y, right, bottom))


def _resized(size: tuple[int, int], resize: int | tuple[int, int]) -> tuple[int, int]:
    if not isinstance(resize, int):
        return resize[1], resize[0]
    width, height = size
    if width <= height:
        return resize, int(resize * height / width)
    return int(resize * width / height), resize


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """A model's input from a photograph.

    Args:
        image: in mode RGB.
        preprocessing: the model's.

    Returns:
        float32 of shape (3, height, width) of the crop.
    """
    pixels = torch.from_numpy(np.array(display_image(image, preprocessing)))
    values = pixels.permute(2, 0, 1).contiguous().to(torch.float32).div_(255)
    mean = torch.tensor(preprocessing.mean, dtype=torch.float32).view(3, 1, 1)
    std = torch.tensor(preprocessing.std, dtype=torch.float32).view(3, 1, 1)
    return values.sub_(mean).div_(std)

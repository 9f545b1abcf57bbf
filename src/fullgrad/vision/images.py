"""Photographs: reading any ordinary image file, and preparing it for a model."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fullgrad._files import AnyPath, printable, sha256_of
from fullgrad._optional import require
from fullgrad.errors import ImageError
from fullgrad.vision._image_files import OVERLAY_SUFFIX as OVERLAY_SUFFIX  # noqa: PLC0414
from fullgrad.vision._image_files import SUFFIXES as SUFFIXES  # noqa: PLC0414
from fullgrad.vision._image_files import FoundImage as FoundImage  # noqa: PLC0414
from fullgrad.vision._image_files import class_folders as class_folders  # noqa: PLC0414
from fullgrad.vision._image_files import exists as exists  # noqa: PLC0414
from fullgrad.vision._image_files import find_images as find_images  # noqa: PLC0414
from fullgrad.vision._image_files import found_images as found_images  # noqa: PLC0414
from fullgrad.vision._image_files import is_image as is_image  # noqa: PLC0414

if TYPE_CHECKING:
    from PIL import Image

Array: TypeAlias = np.ndarray[Any, Any]

MAX_PIXELS = 100_000_000
_MAX_RESIZED = 25_000_000
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From a photograph to a model's input: resize, crop the center, normalize.

    Args:
        resize: length of the shorter side, aspect ratio kept; or (height, width), stretched.
        crop: (height, width) cut out of the center: the model's input size.
        interpolation: ``nearest``, ``bilinear``, ``bicubic``, ``lanczos``, ``box`` or ``hamming``.
        mean: subtracted from each channel of values in [0, 1]; as many numbers as the model's
            input has channels: 3 of color, 1 of brightness, 4 as the file has them.
        std: then divided by; as many.

    Raises:
        ValueError: sizes below 1, a crop larger than the resized image, an unknown interpolation,
            not as many numbers in std as in mean, a std that is not positive.
        TypeError: crop, mean or std is not a tuple, or resize neither that nor a whole number.
    """

    resize: int | tuple[int, int] = 256
    crop: tuple[int, int] = (224, 224)
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if not isinstance(self.resize, (int, tuple)):
            raise TypeError(f"resize must be a whole number or a tuple of two, not {self.resize!r}")
        for name in ("crop", "mean", "std"):
            if not isinstance(getattr(self, name), tuple):
                raise TypeError(f"{name} must be a tuple of numbers, not {getattr(self, name)!r}")
        sides = (self.resize,) * 2 if isinstance(self.resize, int) else self.resize
        if len(self.crop) != 2 or len(sides) != 2 or min(self.crop) < 1:
            raise ValueError(f"crop and resize must be positive, not {self.crop}, {self.resize}")
        if self.crop[0] > sides[0] or self.crop[1] > sides[1]:
            raise ValueError(f"the crop {self.crop} is larger than the image resized to {sides}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation must be one of {', '.join(INTERPOLATIONS)}, "
                f"not {self.interpolation!r}"
            )
        if not 0 < len(self.mean) == len(self.std) or not min(self.std) > 0:
            raise ValueError(
                "mean and std must be as many numbers as there are channels, std positive, not "
                f"{self.mean}, {self.std}"
            )

    @property
    def channels(self) -> int:
        """How many channels the model's input has."""
        return len(self.mean)


@dataclass(frozen=True, slots=True)
class Photograph:
    """An image file, decoded.

    Args:
        image: upright, in mode RGB, 8 bits a channel.
        path: as it was given.
        sha256: of the file.
        size: (width, height) as stored, before it is turned upright.
        mode: Pillow's color mode as stored.
        frames: how many the file holds; the first is used.
        planes: of a file with other channels than color: all of them, float32 of shape (channels,
            height, width), in [0, 1] where the file has whole numbers.
    """

    image: Image.Image
    path: Path
    sha256: str
    size: tuple[int, int]
    mode: str
    frames: int
    planes: Array | None = None


def read_image(path: AnyPath) -> Image.Image:
    """The image of :func:`read_photograph` alone."""
    return read_photograph(path).image


def read_photograph(path: AnyPath) -> Photograph:
    """Read an image file into 8-bit RGB, upright.

    Transparent pixels are composited on white. 16-bit brightness is scaled to 8 bits (65535
    becomes 255), not clipped. EXIF orientation is applied. CMYK is converted without a color
    profile. Of a file with several frames the first is used. A ``.npy`` file holds an array of
    shape (channels, height, width): whole numbers of 8 or 16 bits, or floats as they are.

    Args:
        path: the file.

    Returns:
        The image and where it comes from.

    Raises:
        ImageError: it does not exist, is a folder, empty, no image, truncated, damaged, of more
            than ``MAX_PIXELS`` pixels or of a color mode without a conversion.
        MissingDependencyError: Pillow is not installed.
    """
    pil = require("PIL.Image", "vision")
    path = Path(path)
    name = printable(path)
    try:
        _check_file(path, name)
        if path.suffix.lower() == ".npy":
            return _from_array(path, name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with path.open("rb") as file:
                image, size, mode, frames, planes = _decode(pil, file, name)
        return Photograph(image, path, sha256_of(path), size, mode, frames, planes)
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


def _from_array(path: Path, name: str) -> Photograph:
    """An array of any number of channels, and a picture of it: its first three, or its first."""
    from PIL import Image as pil

    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ImageError(f"{name} is not an array that can be read: {error}") from error
    values = values[None] if values.ndim == 2 else values
    kind, size = values.dtype.kind, values.dtype.itemsize
    if values.ndim != 3 or not values.size or not (kind == "f" or (kind == "u" and size <= 2)):
        raise ImageError(
            f"{name} holds {values.dtype} of shape {values.shape}: give float or unsigned numbers "
            "of 8 or 16 bits, of shape (channels, height, width)"
        )
    top = 1.0 if values.dtype.kind == "f" else float(np.iinfo(values.dtype).max)
    planes = (values / top).astype(np.float32)
    if not bool(np.isfinite(planes).all()):
        raise ImageError(f"{name} holds NaN or infinite values")
    shown = planes[:3] if len(planes) >= 3 else planes[:1].repeat(3, 0)
    least, most = float(shown.min()), float(shown.max())
    scaled = np.rint((shown - least) / ((most - least) or 1.0) * 255).astype(np.uint8)
    image = pil.fromarray(np.ascontiguousarray(scaled.transpose(1, 2, 0)))
    mode = f"{len(planes)} channels of {values.dtype}"
    return Photograph(image, path, sha256_of(path), image.size, mode, 1, planes)


_Decoded: TypeAlias = "tuple[Image.Image, tuple[int, int], str, int, Array | None]"


def _decode(pil: Any, file: Any, name: str) -> _Decoded:
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
            turned = upright(image)
            planes = None
            if mode in {"RGBA", "CMYK"}:
                planes = np.asarray(turned).transpose(2, 0, 1).astype(np.float32) / 255
            return to_rgb(turned), size, mode, frames, planes
        except ValueError as error:
            raise ImageError(f"{name} has color mode {mode}: {error}") from error


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


def _to_8_bit(gray: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Brightness in [0, 65535] (integers) or [0, 1] (floats) as 8 bits."""
    top = 1.0 if gray.dtype.kind == "f" else 65535.0
    values = gray.astype(np.float64)
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
    return _seen(image.convert("RGB"), preprocessing)


def _seen(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    from PIL import Image as pil

    filter_ = pil.Resampling[preprocessing.interpolation.upper()]
    width, height, left, top = _placed(image.size, preprocessing)
    crop_height, crop_width = preprocessing.crop
    if width * height <= _MAX_RESIZED:
        crop = (left, top, left + crop_width, top + crop_height)
        return image.resize((width, height), filter_).crop(crop)
    x, y = image.width / width, image.height / height
    right = min((left + crop_width) * x, image.width)
    bottom = min((top + crop_height) * y, image.height)
    return image.resize((crop_width, crop_height), filter_, (left * x, top * y, right, bottom))


def frame_seen(
    size: tuple[int, int], preprocessing: Preprocessing
) -> tuple[float, float, float, float]:
    """Which part of a photograph the model sees, in shares of its width and height.

    Args:
        size: the photograph's width and height in pixels.
        preprocessing: the model's.

    Returns:
        Left, top, width and height of the part, each from 0 to 1.
    """
    width, height, left, top = _placed(size, preprocessing)
    crop_height, crop_width = preprocessing.crop
    return left / width, top / height, crop_width / width, crop_height / height


def _placed(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int, int, int]:
    """Width and height of the resized photograph, left and top of the crop in it."""
    width, height = _resized(size, preprocessing.resize)
    crop_height, crop_width = preprocessing.crop
    return width, height, round((width - crop_width) / 2), round((height - crop_height) / 2)


def _resized(size: tuple[int, int], resize: int | tuple[int, int]) -> tuple[int, int]:
    if not isinstance(resize, int):
        return resize[1], resize[0]
    width, height = size
    if width <= height:
        return resize, int(resize * height / width)
    return int(resize * width / height), resize


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """A model's input from a photograph's colors, or of one channel from its brightness.

    Args:
        image: in mode RGB.
        preprocessing: the model's.

    Returns:
        float32 of shape (channels, height, width) of the crop.

    Raises:
        ImageError: the model takes another number of channels than 1 or 3.
    """
    if preprocessing.channels not in (1, 3):
        raise ImageError(
            f"the model takes {preprocessing.channels} channels, and a photograph has 3 of color: "
            "explain files that have them (fullgrad explain, explain_images), or give "
            "fullgrad.datasets.map a transform="
        )
    seen = np.array(display_image(image, preprocessing))
    if preprocessing.channels == 1:
        seen = np.array(_seen(image.convert("RGB").convert("L"), preprocessing))[:, :, None]
    pixels = torch.from_numpy(seen)
    return _normalized(pixels.permute(2, 0, 1).contiguous().float().div_(255), preprocessing)


def input_of(photograph: Photograph, preprocessing: Preprocessing) -> Tensor:
    """A model's input from a file: from all its channels where the model takes as many.

    Args:
        photograph: the file.
        preprocessing: the model's.

    Returns:
        float32 of shape (channels, height, width) of the crop.

    Raises:
        ImageError: the file has other channels than the model takes.
    """
    from PIL import Image as pil

    planes, channels = photograph.planes, preprocessing.channels
    if planes is not None and len(planes) == channels:
        seen = [np.array(_seen(pil.fromarray(p), preprocessing)) for p in planes]
        return _normalized(torch.from_numpy(np.stack(seen)), preprocessing)
    if channels in (1, 3) and photograph.path.suffix.lower() != ".npy":
        return preprocess(photograph.image, preprocessing)
    raise ImageError(
        f"{printable(photograph.path)} has {3 if planes is None else len(planes)} channels "
        f"({photograph.mode}), and the model takes {channels}: give a file that has them (.png "
        "with transparency for 4, .npy for any number)"
    )


def _normalized(values: Tensor, preprocessing: Preprocessing) -> Tensor:
    mean, std = (
        torch.tensor(v, dtype=torch.float32).view(-1, 1, 1)
        for v in (preprocessing.mean, preprocessing.std)
    )
    return values.sub_(mean).div_(std)

"""The samples of a store as pictures: maps in colors, over the images where these can be had."""

from __future__ import annotations

import io
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from fullgrad._optional import require
from fullgrad.datasets.encoding import Array, pooled
from fullgrad.datasets.opened import Opened
from fullgrad.datasets.plan import TEXT, Plan
from fullgrad.datasets.samples import Samples
from fullgrad.datasets.sources import open_samples
from fullgrad.errors import FullGradError, InputError
from fullgrad.vision.areas import CELL, drawn_in_cells
from fullgrad.vision.images import Preprocessing, display_image, to_rgb
from fullgrad.viz.mixture import drawn
from fullgrad.viz.overlay import overlaid

if TYPE_CHECKING:
    from PIL import Image

SIDE = 112  # pixels of a small picture
_HALF = 27  # of the longest bar
READING = {
    "image": "",
    "text": (
        "Each token stands above its part of the logit: red raises it, blue lowers it. Colors run "
        "to the largest number of each text."
    ),
    "line": "Bars are sums over equal spans: upward if positive, downward if negative.",
    "volume": (
        "Each picture has the three planes through its map's largest number: that of y and x, "
        "right of it that of y and z, below it that of z and x."
    ),
}
_IMAGE, _VOLUME = ("y", "x"), ("z", "y", "x")
Kind = Literal["image", "map", "both"]


@dataclass(frozen=True)
class Pictures:
    """Draws the samples of a store.

    Args:
        store: of maps.
        samples: of which the maps are; None draws maps alone.
        preprocessing: from an image to what the model saw; None where samples are no images.
        why: maps are drawn alone, in a sentence; empty where they are not.
    """

    store: Opened
    samples: Samples | None
    preprocessing: Preprocessing | None
    why: str

    @classmethod
    def of(cls, store: Opened, data: Any = None) -> Pictures:
        """Find the samples that a store's maps are of; texts need none, their tokens are stored.

        Args:
            store: of maps.
            data: where the data lie now, if they were moved, or a map-style data set; see
                :func:`fullgrad.datasets.sources.open_samples`.

        Raises:
            InputError: maps of more than three axes.
            DataError: ``data`` is no data set, or another one than the store's.
        """
        dims, known = store.plan.dims, store.plan.data
        if len(dims) > len(_VOLUME):
            raise InputError(
                f"maps with positions {', '.join(dims)} cannot be drawn; their numbers are there: "
                "fullgrad.datasets.open(STORE).maps"
            )
        if dims == TEXT:
            return cls(store, None, None, "")
        alone = f"Maps are shown without their {'images' if dims == _IMAGE else 'samples'}"
        try:
            samples = _same(store.plan, known["spec"] if data is None else data)
        except FullGradError as error:
            if data is not None:
                raise
            return cls(store, None, None, f"{alone}: {error}")
        preprocessing = _preprocessing(known.get("transform"))
        if preprocessing is None and (dims == _IMAGE or known.get("transform") is not None):
            return cls(store, None, None, f"{alone}: how these were prepared is not stored.")
        return cls(store, samples, preprocessing, "")

    @property
    def kind(self) -> Literal["image", "text", "line", "volume"]:
        """What is drawn: images, texts, or maps over one axis or over three."""
        if self.store.plan.dims == TEXT:
            return "text"
        axes = len(self.store.plan.dims)
        return "image" if axes == 2 else "line" if axes == 1 else "volume"

    @cached_property
    def signed(self) -> bool:
        """Whether the maps' numbers have a sign."""
        return bool((self.store.index["negative"] < 0).any())

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {} if self.samples is None else {name: i for i, name in enumerate(self.samples.ids)}

    def image(self, row: int) -> Image.Image | None:
        """Return what the model saw of a row's sample; None where it cannot be had.

        A volume is shown as the planes through its map's largest number, a sound as its waveform.
        """
        if self.samples is None:
            return None
        number = self._numbers.get(str(self.store.index.at[row, "id"]))
        if number is None:
            return None
        try:
            value, _ = self.samples.read(number)
        except (FullGradError, OSError):
            return None
        if isinstance(value, Tensor):
            return self._gray(row, value)
        if self.preprocessing is None or not hasattr(value, "convert"):
            return None
        return display_image(to_rgb(value), self.preprocessing)

    def _gray(self, row: int, value: Tensor) -> Image.Image | None:
        """The mean over a sample's channels, where it has the places of its map."""
        values, found = self.store.map(row), value.double().mean(0).numpy()
        if found.ndim != values.ndim or any(map(operator.lt, found.shape, values.shape)):
            return None
        if self.kind == "line":
            drawn_one = _wave(found)
        else:
            found = pooled(found, values.shape, "mean")
            found = 255 * (found - found.min()) / (np.ptp(found) or 1.0)
            drawn_one = planes(found, strongest(values)) if found.ndim == len(_VOLUME) else found
        return _image(drawn_one[..., None].repeat(3, 2))

    def map(self, row: int) -> Array | None:
        """Return a row's map as it is shown, see :meth:`shown`; None where it has none."""
        values = self.store.map(row)
        if not np.isfinite(values).all():
            return None
        return self.shown(values)

    def shown(self, values: Array) -> Array:
        """Return a map as it is shown, of shape (height, width).

        A complete map of an image, whose pixels alternate, in cells; a volume as the planes through
        its largest number; a map over one axis as bars.
        """
        if values.ndim == 1:
            return bars(values)
        if values.ndim == len(_VOLUME):
            return planes(values, strongest(values))
        coarse = self.store.plan.pooling != "sum" or min(values.shape) < 4 * CELL
        return values if coarse else drawn_in_cells(values, CELL)

    def small(self, row: int, kind: Kind = "both", side: int = SIDE) -> Image.Image | None:
        """Draw a row's sample.

        Args:
            row: of the store.
            kind: the image, the map alone, or the map over the image.
            side: the longer side in pixels.

        Returns:
            An RGB image; the map alone where there is no image; None where there is nothing. A
            sound's map is below its waveform.
        """
        image = self.image(row) if kind != "map" else None
        if kind == "image":
            return None if image is None else _resized(image, side)
        values = self.map(row)
        if values is None:
            return None
        if image is None:
            return colored(values, self.signed, side)
        under = _resized(image, side)
        if self.kind == "line":
            return _below(under, colored(values, self.signed, side))
        return _image(overlaid(under, _stretched(values, under.size), sign=self.signed))


def strongest(values: Array) -> tuple[int, ...]:
    """Return the place of the number that is largest in size."""
    return tuple(int(i) for i in np.unravel_index(np.abs(values).argmax(), values.shape))


def planes(volume: Array, at: Sequence[int]) -> Array:
    """Put the three planes through a place of a volume side by side, as in a technical drawing.

    Args:
        volume: shape (depth, height, width).
        at: the place (z, y, x).

    Returns:
        Shape (height + depth, width + depth): the plane of y and x; right of it that of y and z,
        below it that of z and x; 0 in the corner.

    Example:
        >>> planes(np.arange(8).reshape(2, 2, 2), (0, 1, 1)).tolist()
        [[0, 1, 1, 5], [2, 3, 3, 7], [2, 3, 0, 0], [6, 7, 0, 0]]
    """
    z, y, x = at
    corner = np.zeros((len(volume), len(volume)), volume.dtype)
    return np.block([[volume[z], volume[:, :, x].T], [volume[:, y], corner]])


def bars(values: Array) -> Array:
    """Draw the sums of numbers over equal spans of their axis as bars from the middle.

    Args:
        values: shape (places,).

    Returns:
        Shape (55, width): each bar holds its own sum, all else 0.
    """
    count = min(SIDE, len(values))
    sums = pooled(values, (count,), "sum")
    high = np.rint(_HALF * sums / (np.abs(sums).max() or 1.0)).astype(int)
    level = np.arange(_HALF, -_HALF - 1, -1)[:, None]
    inside = np.where(high > 0, (level > 0) & (level <= high), (level < 0) & (level >= high))
    return np.where(inside, sums, 0.0).repeat(-(-SIDE // count), 1)


def _wave(values: Array) -> Array:
    """A sound as gray on white: from the lowest to the highest number of each span."""
    parts = np.array_split(values, min(SIDE, len(values)))
    edges = np.array([[p.min(), p.max()] for p in parts]) / (np.abs(values).max() or 1.0)
    low, high = np.rint(_HALF * edges.T).astype(int)
    level = np.arange(_HALF, -_HALF - 1, -1)[:, None]
    return np.where((low <= level) & (level <= high), 90, 255).repeat(-(-SIDE // len(parts)), 1)


def colored(values: Array, sign: bool, side: int = SIDE) -> Image.Image:
    """Draw a map alone, its numbers as squares, up to a longer side in pixels."""
    return _resized(_image(drawn(values, sign)), side, nearest=True)


def encoded(image: Image.Image) -> tuple[bytes, str]:
    """Return a picture as a small file, and its media type."""
    with io.BytesIO() as file:
        image.save(file, format="JPEG", quality=85, subsampling=0)
        return file.getvalue(), "image/jpeg"


def in_a_row(images: Sequence[Image.Image | None], side: int = SIDE) -> Image.Image:
    """Put pictures side by side, a gray square for one that is missing."""
    pil: Any = require("PIL.Image", "vision")
    found = pil.new("RGB", (len(images) * (side + 4) - 4, side), "white")
    for place, image in enumerate(images):
        drawn_one = image if image is not None else pil.new("RGB", (side, side), "#d0d0d0")
        found.paste(drawn_one, (place * (side + 4), (side - drawn_one.height) // 2))
    return found  # type: ignore[no-any-return]


def _same(plan: Plan, data: Any) -> Samples:
    """The samples, if they are those of the store; older ones numbered folders by their order."""
    known, found = plan.data, None
    ways: list[tuple[str | None, Any]] = [(None, None)]
    if isinstance(data, (str, os.PathLike)):
        ways += [("folder", plan.class_names), ("folder", None)]
    for labels, names in ways:
        try:
            found = open_samples(data, labels=labels, class_names=names)
        except FullGradError:
            if labels is None:
                raise
            continue
        for part in (found, _cut(found, known["samples"])):
            if part is not None and known["digest"] in {part.digest, _earlier(part, data)}:
                return part
    raise InputError(
        f"the data are not those of the maps: {known['samples']} samples with the digest "
        f"{known['digest']} were mapped"
    )


def _earlier(samples: Samples, data: Any) -> str:
    """The digest of data in memory in earlier stores, which did not count their numbers."""
    path = isinstance(data, (str, os.PathLike))
    return samples.digest if path else replace(samples, facts=()).digest


def _cut(samples: Samples, count: int) -> Samples | None:
    whole = samples.sizes is not None or len(samples) <= count
    return None if whole else samples.first(count)


def _preprocessing(transform: Any) -> Preprocessing | None:
    if not isinstance(transform, dict):
        return None
    try:
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in transform.items()
        }
        return Preprocessing(**values)
    except (TypeError, ValueError):
        return None


def _image(pixels: Array) -> Image.Image:
    pil: Any = require("PIL.Image", "vision")
    found: Image.Image = pil.fromarray(pixels.astype(np.uint8))
    return found


def _below(above: Image.Image, under: Image.Image) -> Image.Image:
    pil: Any = require("PIL.Image", "vision")
    found: Image.Image = pil.new("RGB", (above.width, above.height + under.height), "white")
    found.paste(above, (0, 0))
    found.paste(under, (0, above.height))
    return found


def _resized(image: Image.Image, side: int, nearest: bool = False) -> Image.Image:
    pil: Any = require("PIL.Image", "vision")
    scale = side / max(image.size)
    size = tuple(max(1, round(n * scale)) for n in image.size)
    how = pil.Resampling.NEAREST if nearest else pil.Resampling.BILINEAR
    return image.resize(size, how)  # type: ignore[arg-type]


def _stretched(values: Array, size: tuple[int, int]) -> Array:
    pil: Any = require("PIL.Image", "vision")
    image = pil.fromarray(np.asarray(values, np.float32))
    how = pil.Resampling.BOX if size[0] < image.width else pil.Resampling.NEAREST
    return np.asarray(image.resize(size, how))

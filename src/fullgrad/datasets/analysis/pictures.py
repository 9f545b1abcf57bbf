"""The samples of a store as pictures: maps in colors, over the images where these can be had."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fullgrad._optional import require
from fullgrad.datasets.encoding import Array
from fullgrad.datasets.opened import Opened
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
Kind = Literal["image", "map", "both"]


@dataclass(frozen=True)
class Pictures:
    """Draws the samples of a store.

    Args:
        store: of maps with two positions, ``y`` and ``x``.
        samples: of which the maps are; None draws maps alone.
        preprocessing: from an image to what the model saw; None where that is not known.
        why: there are no images, in a sentence; empty where there are.
    """

    store: Opened
    samples: Samples | None
    preprocessing: Preprocessing | None
    why: str

    @classmethod
    def of(cls, store: Opened, data: Any = None) -> Pictures:
        """Find the images that a store's maps are of.

        Args:
            store: of maps of images.
            data: where the data lie now, if they were moved, or a map-style data set; see
                :func:`fullgrad.datasets.sources.open_samples`.

        Raises:
            InputError: the maps are not of images.
            DataError: ``data`` is no data set, or another one than the store's.
        """
        if store.plan.dims != ("y", "x"):
            dims = ", ".join(store.plan.dims)
            raise InputError(
                f"pictures need maps of images, with positions y, x; this store's are {dims}"
            )
        known = store.plan.data
        transform = known.get("transform")
        try:
            samples = _same(known, known["spec"] if data is None else data)
            preprocessing = _preprocessing(transform)
        except FullGradError as error:
            if data is not None:
                raise
            return cls(store, None, None, f"Maps are shown without their images: {error}")
        if preprocessing is None:
            text = "Maps are shown without their images: how these were prepared is not stored."
            return cls(store, None, None, text)
        return cls(store, samples, preprocessing, "")

    @cached_property
    def signed(self) -> bool:
        """Whether the maps' numbers have a sign."""
        return bool((self.store.index["negative"] < 0).any())

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {} if self.samples is None else {name: i for i, name in enumerate(self.samples.ids)}

    def image(self, row: int) -> Image.Image | None:
        """Return what the model saw of a row's sample; None where it cannot be had."""
        if self.samples is None or self.preprocessing is None:
            return None
        number = self._numbers.get(str(self.store.index.at[row, "id"]))
        if number is None:
            return None
        try:
            value, _ = self.samples.read(number)
        except (FullGradError, OSError):
            return None
        if not hasattr(value, "convert"):
            return None
        return display_image(to_rgb(value), self.preprocessing)

    def map(self, row: int) -> Array | None:
        """Return a row's map as it is shown, a complete one in cells; None where it has none."""
        values = self.store.map(row)
        if not np.isfinite(values).all():
            return None
        return self.shown(values)

    def shown(self, values: Array) -> Array:
        """Return a map as it is shown: a complete one, whose pixels alternate, in cells."""
        coarse = self.store.plan.pooling != "sum" or min(values.shape) < 4 * CELL
        return values if coarse else drawn_in_cells(values, CELL)

    def small(self, row: int, kind: Kind = "both", side: int = SIDE) -> Image.Image | None:
        """Draw a row's sample.

        Args:
            row: of the store.
            kind: the image, the map alone, or the map over the image.
            side: the longer side in pixels.

        Returns:
            An RGB image; the map alone where there is no image; None where there is nothing.
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
        return _image(overlaid(under, _stretched(values, under.size), sign=self.signed))


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


def _same(known: Any, data: Any) -> Samples:
    """The samples, if they are those of the store."""
    found = None
    for labels in (None, "folder") if isinstance(data, str) else (None,):
        try:
            found = open_samples(data, labels=labels)
        except FullGradError:
            if labels is None:
                raise
            continue
        for part in (found, _cut(found, known["samples"])):
            if part is not None and part.digest == known["digest"]:
                return part
    raise InputError(
        f"the data are not those of the maps: {known['samples']} samples with the digest "
        f"{known['digest']} were mapped"
    )


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
    found: Image.Image = pil.fromarray(pixels)
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

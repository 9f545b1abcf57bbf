"""Explained images as pictures and as files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fullgrad._files import write_together
from fullgrad.vision.image_result import ImageResult
from fullgrad.vision.images import OVERLAY_SUFFIX
from fullgrad.vision.layers import Array, packed
from fullgrad.viz.overlay import picture, png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fullgrad.vision.schema import Provenance

MAP_SUFFIX, LAYERS_SUFFIX = ".saliency.npy", ".layers.npz"


def title_of(result: ImageResult) -> str:
    """What is explained, for a picture's title: the class or both classes, with their numbers.

    Args:
        result: of :func:`fullgrad.vision.image_result.explain_images`.
    """
    if result.target is None:
        return f"{result.label}: {result.logit:.4g}"
    own, other = f"{result.label} (class {result.target})", result.rather_than
    if other is None:
        return f"{own}: probability {result.probability:.1%}, logit {result.logit:.2f}"
    return (
        f"{own} rather than {other.label} (class {other.index}): logits {result.logit:.2f} and "
        f"{other.logit:.2f}, margin {other.margin:.2f}"
    )


def overlay_of(result: ImageResult) -> Figure:
    """Draw the labeled overlay of an explained image with its first map.

    Args:
        result: of :func:`fullgrad.vision.image_result.explain_images`.

    Raises:
        ValueError: it has no map.
        MissingDependencyError: matplotlib is not installed.
    """
    caption, found = result.photograph.path.name, result.map
    if text := result.areas_text:
        caption = f"{caption}: {text}"
    title = title_of(result)
    return picture(
        result.view, found.shown, title, caption, method=found.method.name, sign=found.signed
    )


def npy(values: Array) -> bytes:
    """Return an array as the content of a ``.npy`` file, float32."""
    with io.BytesIO() as file:
        np.save(file, values.astype(np.float32))
        return file.getvalue()


def pictures_of(result: ImageResult) -> dict[str, bytes]:
    """Return the contents of the files beside an image's record, by their suffixes.

    Args:
        result: of :func:`fullgrad.vision.image_result.explain_images`.

    Returns:
        The overlay, the map, and the maps of the stages if the result has them.
    """
    contents = {OVERLAY_SUFFIX: png(overlay_of(result)), MAP_SUFFIX: npy(result.saliency)}
    if result.layers:
        contents[LAYERS_SUFFIX] = packed(result.layers)
    return contents


def write_files(result: ImageResult, folder: Path, stem: str, provenance: Provenance) -> list[Path]:
    """Write the overlay, the map, the record and, if there are any, the stages of an image.

    Args:
        result: of :func:`fullgrad.vision.image_result.explain_images`.
        folder: must exist.
        stem: what the names of the files begin with.
        provenance: of :func:`fullgrad.vision.provenance.provenance`.

    Returns:
        The files. Either all of them are written or none.

    Raises:
        OSError: one cannot be written.
    """
    overlay, array, *layers = pictures_of(result).items()
    files = dict([overlay, array, (".json", result.record(provenance).text().encode()), *layers])
    return write_together(folder, {f"{stem}{suffix}": c for suffix, c in files.items()})

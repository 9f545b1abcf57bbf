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
from fullgrad.viz.overlay import picture
from fullgrad.viz.style import photo_png

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


def pictures_of(result: ImageResult, overlay: bool = True) -> dict[str, bytes]:
    """Return the contents of the files beside an image's record, by their suffixes.

    Args:
        result: of :func:`fullgrad.vision.image_result.explain_images`.
        overlay: whether to draw it, which takes about as long as a small model's map.

    Returns:
        The overlay, the map, and the maps of the stages if the result has them.
    """
    contents = {OVERLAY_SUFFIX: photo_png(overlay_of(result))} if overlay else {}
    contents[MAP_SUFFIX] = npy(result.saliency)
    if result.layers:
        contents[LAYERS_SUFFIX] = packed(result.layers)
    return contents


def write_files(
    result: ImageResult, folder: Path, stem: str, provenance: Provenance, overlay: bool = True
) -> list[Path]:
    """Write the overlay, the map, the stages if there are any, and the record of an image.

    An overlay or stages of an earlier result, which this one does not have, are removed.

    Args:
        result: of :func:`fullgrad.vision.image_result.explain_images`.
        folder: must exist.
        stem: what the names of the files begin with.
        provenance: of :func:`fullgrad.vision.provenance.provenance`.
        overlay: whether there is one.

    Returns:
        The files. Either all of them are written or none; the record comes last.

    Raises:
        OSError: one cannot be written.
    """
    files = pictures_of(result, overlay) | {".json": result.record(provenance).text().encode()}
    gone = [f"{stem}{s}" for s in (OVERLAY_SUFFIX, LAYERS_SUFFIX) if s not in files]
    return write_together(folder, {f"{stem}{s}": c for s, c in files.items()}, gone)

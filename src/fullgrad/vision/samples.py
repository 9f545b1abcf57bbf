"""Photographs that come with scikit-image, for examples that need no download."""

from __future__ import annotations

import io
from typing import Any

from fullgrad._optional import require
from fullgrad.errors import ImageError

# Functions of skimage.data whose photographs come with scikit-image; they show one clear thing.
PHOTOGRAPHS = {
    "cat": "chelsea",
    "coffee": "coffee",
    "rocket": "rocket",
    "photographer": "camera",
    "motorcycle": "stereo_motorcycle",
}


def sample_photographs() -> dict[str, bytes]:
    """Return the PNG content of each photograph that scikit-image has on this machine, by name.

    Raises:
        ImageError: it has none.
        MissingDependencyError: scikit-image or Pillow is not installed.

    Example:
        >>> list(sample_photographs())[:2]
        ['cat', 'coffee']
    """
    data: Any = require("skimage.data", "demo")
    pil: Any = require("PIL.Image", "vision")
    found = {}
    for name, function in PHOTOGRAPHS.items():
        try:
            pixels = getattr(data, function)()
        except Exception:  # some releases leave photographs out, to be downloaded
            continue
        pixels = pixels[0] if isinstance(pixels, tuple) else pixels
        with io.BytesIO() as file:
            pil.fromarray(pixels).save(file, format="PNG")
            found[name] = file.getvalue()
    if not found:
        raise ImageError(
            "scikit-image holds none of the demo's photographs, and none can be downloaded"
        )
    return found

"""A store of made-up maps whose images lie in a folder, for tests of what shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import stored_maps
from fullgrad.datasets.sources import open_samples

TRANSFORM = {
    "resize": [24, 16],
    "crop": [24, 16],
    "interpolation": "bilinear",
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
}


def write(folder: Path, count: int = 25) -> Path:
    """Write images below ``folder/data`` and a store of their maps, ``folder/maps``."""
    photos = folder / "data" / "photos"
    photos.mkdir(parents=True)
    for number in range(count):
        pixels = np.full((24, 16, 3), (250, number * 9, 0), np.uint8)
        Image.fromarray(pixels).save(photos / f"{number:03d}.png")
    samples = open_samples(str(folder / "data"))
    data = {
        "spec": str(folder / "data"),
        "samples": count,
        "digest": samples.digest,
        "transform": TRANSFORM,
    }
    model = {"name": f"{folder}/net.py:net", "weights": f"checkpoint {folder}/w.pt", "digest": "1"}
    own = stored_maps.replace(stored_maps.PLAN, data=data, model=model)
    stored_maps.write(folder / "maps", own)
    return folder / "maps"

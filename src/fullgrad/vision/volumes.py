"""Volumes from files of medical images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fullgrad._files import AnyPath, printable
from fullgrad._optional import require
from fullgrad.errors import ImageError


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """A volume, its axes in the order of a model's input.

    Args:
        values: shape (1, 1, depth, height, width), float32: z upwards, y from front to back, x
            from the patient's right to left, as a slice is usually looked at from below.
        spacing: of neighboring places along z, y and x, in millimeters.
        affine: from the file's own voxel numbers to millimeters, shape (4, 4).
        path: of the file.
    """

    values: Tensor
    spacing: tuple[float, float, float]
    affine: Tensor
    path: Path


def read_volume(path: AnyPath) -> Volume:
    """Read a NIfTI file (``.nii``, ``.nii.gz``), or another that nibabel reads.

    The file says how its axes lie in the patient; they are turned to the nearest order z, y, x.
    Nothing is resampled, cut or scaled: a model's own preprocessing is its user's.

    Args:
        path: of the file; one volume, or the only one of a series of one.

    Returns:
        The volume.

    Raises:
        ImageError: no such file, not a volume, or NaN or infinite values in it.
        MissingDependencyError: nibabel is not installed.
    """
    nibabel = require("nibabel", "volumes")
    name = printable(path)
    if not Path(path).is_file():
        raise ImageError(f"there is no file {name}")
    try:
        image = nibabel.load(path)
        array = np.asarray(image.dataobj, np.float32)
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as error:
        raise ImageError(f"{name} is not a volume that nibabel reads: {error}") from error
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise ImageError(
            f"{name} has shape {array.shape}, not that of one volume: cut one out and save it, or "
            "pass its numbers to the model yourself"
        )
    if not bool(np.isfinite(array).all()):
        raise ImageError(f"{name} holds NaN or infinite values")
    own = nibabel.orientations.io_orientation(image.affine)
    wanted = nibabel.orientations.axcodes2ornt(("L", "P", "S"))
    turn = nibabel.orientations.ornt_transform(own, wanted)
    turned = nibabel.orientations.apply_orientation(array, turn)
    sizes = np.linalg.norm(image.affine[:3, :3], axis=0)[np.argsort(own[:, 0])]
    values = torch.from_numpy(np.ascontiguousarray(turned.transpose(2, 1, 0)))[None, None]
    spacing = (float(sizes[2]), float(sizes[1]), float(sizes[0]))
    return Volume(values, spacing, torch.from_numpy(np.array(image.affine)), Path(path))

"""Volumes from NIfTI files: their axes, their spacing, and what is no volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fullgrad.errors import ImageError
from fullgrad.vision.volumes import read_volume

nibabel: Any = pytest.importorskip("nibabel")


def written(path: Path, array: Any, affine: Any) -> Path:
    nibabel.Nifti1Image(array, affine).to_filename(path)
    return path


def test_axes_are_turned_to_z_y_x(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    # Voxels run to the left, to the back and upwards: as a slice is looked at.
    found = read_volume(written(tmp_path / "a.nii.gz", array, np.diag([-2.0, -3.0, 4.0, 1.0])))
    assert found.values.shape == (1, 1, 4, 3, 2) and found.spacing == (4.0, 3.0, 2.0)
    assert torch.equal(found.values[0, 0], torch.from_numpy(array.transpose(2, 1, 0).copy()))
    # The same patient, the voxels stored in another order: upwards, to the right, to the front.
    other = np.zeros((4, 4))
    other[2, 0], other[0, 1], other[1, 2], other[3, 3] = 4.0, 2.0, 3.0, 1.0
    turned = np.ascontiguousarray(array.transpose(2, 0, 1)[:, ::-1, ::-1])
    again = read_volume(written(tmp_path / "b.nii", turned, other))
    assert torch.equal(again.values, found.values) and again.spacing == found.spacing


def test_what_is_no_volume(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="there is no file"):
        read_volume(tmp_path / "none.nii")
    (tmp_path / "text.nii").write_text("hello")
    with pytest.raises(ImageError, match="is not a volume that nibabel reads"):
        read_volume(tmp_path / "text.nii")
    series = written(tmp_path / "s.nii", np.zeros((2, 3, 4, 5), np.float32), np.eye(4))
    with pytest.raises(
        ImageError, match=r"has shape \(2, 3, 4, 5\), not that of one volume: cut one out"
    ):
        read_volume(series)
    one = nibabel.load(series).slicer[..., :1]
    one.to_filename(tmp_path / "one.nii")
    assert read_volume(tmp_path / "one.nii").values.shape == (1, 1, 4, 3, 2)
    broken = np.full((2, 2, 2), np.nan, np.float32)
    with pytest.raises(ImageError, match="holds NaN or infinite values"):
        read_volume(written(tmp_path / "n.nii", broken, np.eye(4)))

"""Why is this voxel foreground? A volume from a NIfTI file, read window by window.

    python examples/volume.py [PICTURE.png]

Needs nibabel. The network finds bright balls: a difference of two blurs, and a threshold.
"""

import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import torch
from torch import nn

from fullgrad.maps.windows import window_map
from fullgrad.vision.volumes import read_volume
from fullgrad.viz import png
from fullgrad.viz.signals import slices


class Balls(nn.Module):
    """Background and foreground: how much brighter a place is than what lies around it."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far = (
            nn.Conv3d(1, 1, size, padding=size // 2, bias=False) for size in (3, 9)
        )
        for blur in (self.near, self.far):
            nn.init.constant_(blur.weight, 1 / blur.weight.numel())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = torch.relu(self.near(x) - self.far(x) - 0.1)
        return torch.cat([0.05 - bright, bright], 1)


def scan() -> np.ndarray:
    """Two balls in noise, in the file's own order of axes."""
    x, y, z = np.mgrid[:40, :32, :24]
    numbers = np.random.default_rng(0).normal(0, 0.02, (40, 32, 24))
    for center in ((12, 16, 12), (29, 20, 9)):
        away = (x - center[0]) ** 2 + (y - center[1]) ** 2 + (z - center[2]) ** 2
        numbers += away <= 9
    return numbers.astype(np.float32)


with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "scan.nii.gz"
    nibabel.Nifti1Image(scan(), np.diag([-1.0, -1.0, 2.0, 1.0])).to_filename(path)
    volume = read_volume(path)
print("volume:", tuple(volume.values.shape), "spacing:", volume.spacing)

model, x = Balls().double(), volume.values.double()
region = torch.zeros(2, *x.shape[2:], dtype=torch.float64)
region[1, 6:19, 10:23, 6:19] = 1  # the foreground in a box around the first ball

found = window_map(model, x, region, size=(16, 16, 16), overlap=0.5, weights="gaussian")
print(
    f"output {found.output.item():.3f} = map {found.map.sum().item():.3f} "
    f"+ elsewhere {found.elsewhere.item():.3f}"
)
boxes = {"first ball": (9, 13, 9, 16, 20, 16), "second ball": (26, 17, 6, 33, 24, 13)}
print(found.by_region(boxes=boxes).round(3).rename(columns={0: "part"}))

if len(sys.argv) > 1:
    title = "Why is there foreground? The inside of the ball raises it, its rim lowers it"
    figure = slices(x, found.map, title, spacing=volume.spacing)
    Path(sys.argv[1]).write_bytes(png(figure))

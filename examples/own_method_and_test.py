"""An own method and an own test of maps, by file, beside those of the library."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from fullgrad.evaluation import bench

MINE = '''
from fullgrad.evaluation.tests.evaluate.measure import Measure, Score


def bright(model, inputs, target, power: float = 1.0):
    """Bright pixels, whatever the model does with them."""
    return inputs.clamp(min=0) ** power


class Spot(Measure):
    name = "spot"
    title = "how much of the map lies on the bright spot"

    def scores(self, explained):
        spot = explained.x.mean(1, keepdim=True) > 0.5
        maps = explained.maps.abs()
        share = (maps * spot).sum((1, 2, 3)) / maps.sum((1, 2, 3))
        return [Score(n, float(v)) for n, v in zip(explained.numbers, share)]
'''
NET = """
import torch
from torch import nn

PREPROCESSING = {"resize": 24, "crop": [24, 24], "interpolation": "bilinear",
                 "mean": [0.5] * 3, "std": [0.5] * 3}

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                         nn.Linear(32, 3))
"""


def main(folder: Path):
    (folder / "mine.py").write_text(MINE)
    (folder / "net.py").write_text(NET)
    (folder / "photos").mkdir(exist_ok=True)
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 100, (24, 24, 3)).astype(np.uint8)
        pixels[4 + number : 12 + number, 6:14] = 240
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
    found = bench.bench(
        "evaluate",
        folder / "results",
        model=(f"{folder / 'net.py'}:make",),
        images=str(folder / "photos"),
        methods=("fullgrad", f"{folder / 'mine.py'}:bright:power=2.0", "center"),
        tests=(f"{folder / 'mine.py'}:Spot",),
    )
    return found.tables["ranking"][["test", "method", "mean", "rank"]]


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))

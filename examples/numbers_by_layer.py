"""Where an output comes from, layer by layer: numbers that sum to it exactly, as a table."""

import csv
import sys
from pathlib import Path

import torch
from torch import nn

import fullgrad


def main(folder: Path) -> list[tuple[str, float]]:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    model.body = nn.Sequential(nn.Conv2d(8, 8, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.head = nn.Linear(8, 4)
    x = torch.rand(2, 3, 24, 24)

    d = fullgrad.decompose(model, x, target=2)
    print(d.summary(1))
    rows = [("input", float(d.input_sums[0]))]
    rows += [(name, float(sums[0])) for name, sums in d.by_module(2).items()]
    total = sum(number for _, number in rows)
    assert abs(total - float(d.output[0])) < 1e-4
    rows += [("output", float(d.output[0]))]
    with (folder / "layers.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("layer", "sum"), *rows])
    # What non-linearities leave over, by operation, as a share of all terms' sizes:
    print(d.implicit_shares())
    return rows


if __name__ == "__main__":
    main(Path(sys.argv[1]))

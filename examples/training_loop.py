"""Maps in a training loop: how much of the output comes from the input, and where it looks."""

import csv
import sys
from pathlib import Path

import torch
from torch import nn

import fullgrad


def main(folder: Path, epochs: int = 4) -> list[dict[str, float]]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.1),
        nn.Flatten(),
        nn.Linear(8 * 64, 2),
    )
    x = torch.rand(64, 1, 16, 16) * 0.3
    y = torch.arange(64) % 2
    x[y == 1, :, 4:8, 4:8] += 1  # class 1 has a bright square
    optimizer = torch.optim.Adam(model.parameters(), 0.005)
    watched = x[1:2]
    rows = []
    for epoch in range(epochs):
        for part in torch.arange(64).split(16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
        # The model is explained in evaluation mode, and is in training mode again afterwards.
        d = fullgrad.decompose(model, watched, target=1)
        found = fullgrad.complete_map(model, watched, target=1)
        square = found.map[0, 0, 4:8, 4:8].sum()
        rows.append(
            {
                "epoch": epoch,
                "logit": float(d.output[0]),
                "of the input": float(d.input_sums[0]),
                "of the square": float(square),
                "residual": float(d.residual[0]),
            }
        )
        assert model.training
    with (folder / "log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return rows


if __name__ == "__main__":
    for row in main(Path(sys.argv[1])):
        print({name: round(value, 4) for name, value in row.items()})

"""Segmentation, regression and multi-label models: what is explained is stated by a target."""

import sys
from pathlib import Path

import torch
from torch import nn

import fullgrad
from fullgrad.targets import margin, neuron, region, regression, several_classes


def body(*head: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), *head)


def main(folder: Path) -> dict[str, float]:
    x = torch.rand(2, 3, 24, 24)
    mask = torch.zeros(24, 24, dtype=torch.bool)
    mask[4:12, 4:12] = True
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    segmenter = body(nn.Conv2d(6, 4, 3, padding=1))
    regressor = body(*pooled, nn.Linear(6, 1))
    labels = body(*pooled, nn.Linear(6, 5))
    cases = [
        (segmenter, region(2, mask)),
        (segmenter, region(2, mask, mean=True)),
        (segmenter, margin(region(2, mask), region(0, mask))),
        (regressor, regression("age", "years", scale=12.0, offset=40.0)),
        (labels, several_classes([1, 3])),
        (labels, margin(1, 3)),
        (labels, neuron("0", (2, 10, 10))),
    ]
    found = {}
    for model, target in cases:
        complete = fullgrad.complete_map(model, x, target)
        total = complete.map.flatten(1).sum(1) + complete.elsewhere + complete.residual
        assert torch.allclose(total.float(), complete.output.float(), atol=1e-4)
        found[str(target)] = float(complete.output[0])
    lines = [f"{number:10.4f}  {words}" for words, number in found.items()]
    (folder / "targets.txt").write_text("\n".join(lines) + "\n")
    return found


if __name__ == "__main__":
    for words, number in main(Path(sys.argv[1])).items():
        print(f"{number:10.4f}  {words}")

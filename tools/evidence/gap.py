"""How far the map of one step from the baseline is from adding up to f(x) - f(x0).

    python tools/evidence/gap.py MODEL... --images IMAGES.csv [--limit 20]

The gap is relative to the sum of the sizes of the map's numbers, as ``steps="auto"`` has it. Prints each
network's median and largest gap, and how many images take one step in ``path_fullgrad``.
"""

from __future__ import annotations

import argparse

import torch

import fullgrad
from fullgrad.evaluation.sources import open_source
from fullgrad.vision.images import preprocess
from fullgrad.vision.models import load_model


def main() -> None:
    """Print a table of the models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--images", required=True)
    parser.add_argument("--limit", type=int, default=20)
    args = parser.parse_args()
    items = open_source(args.images, args.limit).items
    print("| network | median gap | largest | one step |\n|---|---:|---:|---:|")
    for spec in args.models:
        loaded = load_model(spec)
        model = loaded.module.eval()
        x = torch.stack([preprocess(item.read()[0], loaded.preprocessing) for item in items])
        start = x.mean((2, 3), keepdim=True).expand_as(x)
        with torch.no_grad():
            scores, there = model(x), model(start.contiguous())
        index = scores.argmax(1, keepdim=True)
        changes = (scores.gather(1, index) - there.gather(1, index))[:, 0]
        gaps, steps = [], []
        for part, target, change in zip(x.split(5), index.split(5), changes.split(5), strict=True):
            common = {
                "baseline": "mean",
                "depth": "early",
                "terms": "input",
                "target": target[:, 0],
            }
            one = fullgrad.complete_map(model, part, linearization="quotient", **common)
            numbers = one.map.flatten(1)
            gaps.append((change - numbers.sum(1)).abs() / numbers.abs().sum(1))
            auto = fullgrad.complete_map(
                model, part, linearization="quotient", steps="auto", **common
            )
            steps.append(auto.steps)
        gap, taken = torch.cat(gaps), torch.cat(steps)
        name = spec.rpartition(":")[2]
        shares = f"{int((taken == 1).sum())} of {len(taken)}"
        print(f"| {name} | {float(gap.median()):.3f} | {float(gap.max()):.3f} | {shares} |")


if __name__ == "__main__":
    main()

"""Which share of a map's positive part lies in the part of an image that is known to matter."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fullgrad import methods
from fullgrad.evaluation import statistics
from fullgrad.methods.choice import MethodChoice


def shares(
    model: nn.Module, x: Tensor, classes: Tensor, part: Tensor, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Means with bootstrap intervals, and simultaneous ones of the difference to the first.

    Args:
        model: the network.
        x: inputs, shape (B, C, H, W).
        classes: that are explained, shape (B,).
        part: what matters, bool of shape (B, 1, H, W). A map without positive numbers counts as
            one that is the same everywhere.
        names: of the methods, with their options.
    """
    uniform = part.flatten(1).double().mean(1)
    found = []
    for i, name in enumerate(names):
        choice = MethodChoice.parse(name)
        maps = methods.attribute(
            choice.name,
            model,
            x,
            classes,
            batch_size=20,
            **{"seed": i, **choice.options}
            if choice.name.startswith("random")
            else dict(choice.options),
        )
        positive = maps.double().clamp(min=0)
        whole = positive.flatten(1).sum(1)
        share = (positive * part).flatten(1).sum(1) / whole
        found.append(torch.where(whole > 0, share, uniform).numpy())
    values = np.stack(found, 1)
    means = values.mean(0)
    order = np.argsort(-means, kind="stable")
    low, high = statistics.simultaneous(values - values[:, order[:1]])
    rows = []
    for rank, i in enumerate(order, 1):
        ends = statistics.interval(values[:, i])
        rows.append(
            {
                "rank": rank,
                "method": names[i],
                "images": len(values),
                "share": means[i],
                "low": ends[0],
                "high": ends[1],
                "uniform": float(uniform.mean()),
                "behind": means[i] - means[order[0]],
                "behind_low": low[i],
                "behind_high": high[i],
            }
        )
    return rows


def write(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the table, and print it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for r in rows:
        print(
            f"{r['rank']:>2}. {r['method']:<46} {r['share']:.3f} [{r['low']:.3f}, {r['high']:.3f}]  "
            f"{r['behind']:+.3f} [{r['behind_low']:+.3f}, {r['behind_high']:+.3f}]"
        )
    print(f"{rows[0]['images']} images, of the same everywhere {rows[0]['uniform']:.3f}")

"""What stands beside ROAR's numbers: caveats, examples, times, the machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from fullgrad._files import printable
from fullgrad.evaluation.retraining.data import Colours, Dataset
from fullgrad.evaluation.retraining.plan import RoarPlan
from fullgrad.evaluation.retraining.removal import ROAD, filled, removed
from fullgrad.evaluation.retraining.run import Roar

Array: TypeAlias = np.ndarray[Any, Any]
_EXAMPLES = 2  # images
_FILLED = {
    "mean": "mean colour",
    "black": "black",
    ROAD: "guessed from the others (ROAD's imputation)",
}


def chance(data: Dataset) -> float:
    """Test accuracy of always naming the class that most test images have."""
    return float(torch.bincount(data.test_labels).max()) / len(data.test_labels)


def caveats(plan: RoarPlan, data: Dataset) -> list[str]:
    """What a reader of the curves must know."""
    network = plan.network
    size = f"{network.spec} of width {network.width}" if network.width else network.spec
    leak = (
        "the panel on the right shows how much of the class the masks alone tell"
        if plan.mask_runs
        else "how much was not measured in this run (mask_runs=0)"
    )
    name = printable(Path(plan.data).name if Path(plan.data).is_dir() else plan.data)
    return [
        f"{name}: {plan.counts[0]} training and {plan.counts[1]} test images, "
        f"{len(data.classes)} classes; {size}; epochs: {plan.training.epochs}, "
        f"runs: {plan.runs}; "
        f"removed pixels: {_FILLED[plan.fill]}.",
        "Caveat, mask leakage: which pixels are gone can itself tell the class, so accuracy may "
        f"stay high although the removed pixels mattered; {leak} (Rong et al. 2022, ROAD).",
        "Caveat, blur: maps that mark whole areas remove pixels together with their neighbours, "
        "from which scattered ones can be guessed; such maps can look better than they are "
        "(arXiv:2304.13836).",
    ]


def examples(roar: Roar) -> tuple[list[Array], dict[str, list[list[Array]]], Sequence[float]]:
    """A few test images, intact and as each method and fraction leaves them.

    Returns:
        The intact ones; for each method, for each fraction, the changed ones, uint8 of shape
        (H, W, 3); the fractions.
    """
    plan, data = roar.plan, roar.data
    first = {c.label: plan.ranks(c)[-_test_parts(plan)] for c in plan.choices}
    count = min(next(iter(first.values())).stop, len(data.test))
    chosen = torch.arange(_EXAMPLES) * count // _EXAMPLES
    chosen = chosen.unique()
    images = data.test[chosen]
    colours = Colours.of(data.train)

    def changed_by(ranks: Array, fraction: float) -> list[Array]:
        gone = removed(ranks, fraction, plan.order)
        return _visible(filled(images, gone, plan.fill, colours, plan.seed))

    changed = {}
    for label, stage in first.items():
        content = roar.store.get(stage.digest)
        assert content is not None
        ranks = content.arrays["ranks"][chosen.numpy()]
        changed[label] = [changed_by(ranks, f) for f in plan.fractions]
    return _visible(images), changed, plan.fractions


def _test_parts(plan: RoarPlan) -> int:
    return sum(stage.split == "test" for stage in plan.ranks(plan.choices[0]))


def _visible(images: torch.Tensor) -> list[Array]:
    whole = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    return list(whole)


def seconds(roar: Roar) -> dict[str, float]:
    """What the stages took when they were done: networks, and each method's maps."""
    found = {"networks": 0.0}
    for network in roar.plan.networks():
        content = roar.store.get(network.digest)
        found["networks"] += content.values["seconds"] if content else 0.0
    for choice in roar.plan.choices:
        parts = [roar.store.get(s.digest) for s in roar.plan.ranks(choice)]
        found[f"maps {choice.label}"] = sum(p.values["seconds"] for p in parts if p)
    return found


def companies(roar: Roar) -> dict[str, int]:
    """How many of the plan's networks were trained alone, two at once, and so on.

    Returns:
        Networks by how many were trained together; ``unknown`` for stages that do not tell.
    """
    contents = [roar.store.get(s.digest) for s in roar.plan.networks()]
    found = Counter(int(c.values.get("company", 0)) for c in contents if c)
    return {str(n) if n else "unknown": found[n] for n in sorted(found)}


def device_name(device: str) -> str:
    """With the model of a GPU."""
    if device.startswith("cuda"):
        return f"{device}: {torch.cuda.get_device_name(device)}"
    return device

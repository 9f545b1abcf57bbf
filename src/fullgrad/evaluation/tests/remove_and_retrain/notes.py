"""What stands beside the numbers: caveats, examples, times, texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from fullgrad._files import printable
from fullgrad.evaluation.datasets import Colors, Dataset
from fullgrad.evaluation.removal import ROAD, filled, removed
from fullgrad.evaluation.store import Array, Store
from fullgrad.evaluation.tests.remove_and_retrain.estimate import Estimate
from fullgrad.evaluation.tests.remove_and_retrain.plan import RetrainPlan

_EXAMPLES = 2  # images
_FILLED = {
    "mean": "mean color",
    "black": "black",
    ROAD: "guessed from the others (ROAD's imputation)",
}


def chance(data: Dataset) -> float:
    """Return the test accuracy of always naming the class that most test images have."""
    return float(torch.bincount(data.test_labels).max()) / len(data.test_labels)


def caveats(plan: RetrainPlan, data: Dataset) -> list[str]:
    """Return what a reader of the curves must know."""
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
        "Caveat, blur: maps that mark whole areas remove pixels together with their neighbors, "
        "from which scattered ones can be guessed; such maps can look better than they are "
        "(arXiv:2304.13836).",
    ]


def examples(
    plan: RetrainPlan, data: Dataset, store: Store
) -> tuple[list[Array], dict[str, list[list[Array]]], Sequence[float]]:
    """Return a few test images, intact and as each method and fraction leaves them.

    Returns:
        The intact ones; for each method, for each fraction, the changed ones, uint8 of shape
        (H, W, 3); the fractions.
    """
    first = {
        c.label: next(s for s in plan.ranks(c) if (s.split, s.start) == ("test", 0))
        for c in plan.choices
    }
    count = min(next(iter(first.values())).stop, len(data.test))
    chosen = (torch.arange(_EXAMPLES) * count // _EXAMPLES).unique()
    images = data.test[chosen]
    colors = Colors.of(data.train)
    changed = {}
    for label, stage in first.items():
        ranks = store.done(stage.digest).arrays["ranks"][chosen.numpy()]
        changed[label] = [
            _visible(filled(images, removed(ranks, f, plan.order), plan.fill, colors, plan.seed))
            for f in plan.fractions
        ]
    return _visible(images), changed, plan.fractions


def _visible(images: torch.Tensor) -> list[Array]:
    return list(images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy())


def seconds(plan: RetrainPlan, store: Store) -> dict[str, float]:
    """Return what the stages took when they were done: networks, and each method's maps."""
    units = {"networks": [s.digest for s in plan.networks()]}
    units |= {f"maps {c.label}": [s.digest for s in plan.ranks(c)] for c in plan.choices}
    contents = {name: map(store.get, digests) for name, digests in units.items()}
    return {name: sum(c.values["seconds"] for c in own if c) for name, own in contents.items()}


def group_sizes(plan: RetrainPlan, store: Store) -> dict[str, int]:
    """Return how many of the plan's networks were trained alone, two at once, and so on."""
    sizes = [store.done(s.digest).values["group_size"] for s in plan.networks()]
    return {str(n): count for n, count in sorted(Counter(sizes).items())}


def device_name(device: str) -> str:
    """Return the device with the model of a GPU."""
    if device.startswith("cuda"):
        return f"{device}: {torch.cuda.get_device_name(device)}"
    return device


def plan_text(plan: RetrainPlan, data: Dataset, found: Estimate) -> str:
    """Return the plan and what it takes, for people."""
    height, width = data.train.shape[2:]
    n = plan.network
    slowest = sorted(found.map_seconds.items(), key=lambda item: -item[1])
    size = f"{n.spec}, width {n.width}" if n.width else n.spec
    fill = f"; imputing an image {1000 * found.fill_seconds:.3g}" if found.fill_seconds else ""
    points = len(plan.choices) * len(plan.fractions)
    return "\n".join(
        [
            f"data      {printable(plan.data)}: {plan.counts[0]} training and {plan.counts[1]} "
            f"test images of {height} x {width}, {len(data.classes)} classes",
            f"network   {size}, {found.parameters:,} parameters, {plan.training.epochs} epochs",
            f"networks  {found.networks}: {plan.runs} without removal, {points * plan.runs} for "
            f"{len(plan.choices)} methods x {len(plan.fractions)} fractions x {plan.runs} runs, "
            f"{points * plan.mask_runs} on masks alone; {found.networks_left} to train",
            f"maps      {len(plan.choices)} methods x {sum(plan.counts)} images in {found.parts} "
            f"parts; {found.parts_left} to compute",
            f"time      about {duration(found.seconds)} by a short trial, one after the other: "
            f"{found.network_seconds:.3g} s a network; milliseconds a map: "
            + ", ".join(f"{name} {1000 * s:.3g}" for name, s in slowest)
            + fill,
            f"disk      {found.disk / 1e6:.3g} MB more",
            "nothing was written",
        ]
    )


def group_text(trial: Mapping[int, float], chosen: int) -> str:
    """Return how many networks are trained at once, and why."""
    times = ", ".join(f"{n}: {1000 * s:.3g}" for n, s in trial.items())
    return f"group     {chosen}; milliseconds a step of one network, by group size: {times}"


def duration(seconds: float) -> str:
    """Return a time in a unit that suits it.

    Example:
        >>> duration(600)
        '10 min'
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

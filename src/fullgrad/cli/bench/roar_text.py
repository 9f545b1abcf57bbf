"""What ``fullgrad bench roar`` says: the plan, the trial of companies, the ranking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fullgrad._files import printable
from fullgrad.evaluation.retraining import results
from fullgrad.evaluation.retraining.data import Dataset
from fullgrad.evaluation.retraining.estimate import Estimate
from fullgrad.evaluation.retraining.plan import RoarPlan


def plan_text(plan: RoarPlan, data: Dataset, found: Estimate) -> str:
    """The plan, for people."""
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


def company_text(trial: Mapping[int, float], chosen: int) -> str:
    """How many networks are trained at once, and why."""
    times = ", ".join(f"{n}: {1000 * s:.3g}" for n, s in trial.items())
    return f"company   {chosen}; milliseconds a step of one network, by company: {times}"


def duration(seconds: float) -> str:
    """In a unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def ranking_text(rows: Any, plan: RoarPlan) -> str:
    """The ranking, for people."""
    ranking = results.ranking(rows, plan.order)
    summary = results.summary(rows)
    whole = float(summary["accuracy"].iloc[0])
    width = max(6, *(len(m) for m in ranking["method"]))
    better = "lower" if plan.order == "most" else "higher"
    lines = [
        f"test accuracy without removal: {whole:.4f}",
        f"{plan.order} salient first: mean accuracy over the fractions ({better} is better)",
    ]
    for _, r in ranking.iterrows():
        band = f"  [{r['low']:.4f}, {r['high']:.4f}]" if r["runs"] > 1 else ""
        lines.append(f"  {r['rank']:>2}. {r['method']:<{width}}  {r['area']:.4f}{band}")
    return "\n".join(lines)

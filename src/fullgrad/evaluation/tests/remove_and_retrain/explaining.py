"""Explaining images: from a network to the order of each image's pixels. Runs anywhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fullgrad import methods
from fullgrad.evaluation.datasets import Colors
from fullgrad.evaluation.removal import ranks_of
from fullgrad.evaluation.store import Array, Content
from fullgrad.evaluation.tests.remove_and_retrain.plan import CONTROLS, RanksStage, RetrainPlan
from fullgrad.evaluation.training.networks import NetworkChoice
from fullgrad.methods import Method
from fullgrad.methods.controls import NOISE

_TIES = 2_000_003  # keeps the seeds of ties apart from others


@dataclass(frozen=True, slots=True, eq=False)
class RanksJob:
    """Says how some images are explained.

    Args:
        method: with what it needs, so that a user's own can be sent to another machine.
        options: of the method.
        network: that is explained.
        colors: of the training images.
        first: number of the first image, test images counted behind the training images.
        seed: of ties, and of random maps.
        batch: images explained together.
        device: where.
    """

    method: Method
    options: Mapping[str, Any]
    network: NetworkChoice
    colors: Colors
    first: int
    seed: int
    batch: int
    device: str

    @classmethod
    def of(cls, plan: RetrainPlan, stage: RanksStage, colors: Colors, device: str) -> RanksJob:
        """Return the work of one stage."""
        return cls(
            method=methods.get(stage.choice.name),
            options=dict(stage.choice.options),
            network=plan.network,
            colors=colors,
            first=stage.start + (plan.counts[0] if stage.split == "test" else 0),
            seed=plan.seed,
            batch=plan.map_batch,
            device=device,
        )


def compute_ranks(
    job: RanksJob,
    images: Tensor,
    state: Mapping[str, Array] | None,
    tick: Callable[[], None] = lambda: None,
) -> Content:
    """Explain images, and put the pixels of each in order.

    The class that is explained is the one that the network predicts, for training images too:
    the true class would leak into the masks.

    Args:
        job: how.
        images: uint8, shape (N, C, H, W).
        state: of the trained network; None for a control, or for an untrained network.
        tick: called when it is done.
    """
    began = time.perf_counter()
    device = torch.device(job.device)
    module: torch.nn.Module = torch.nn.Identity()
    if state is not None or job.method.name not in CONTROLS:
        module = job.network.build(job.seed)
        if state is not None:
            module.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in state.items()})
    module.eval().to(device)
    found = []
    for start in range(0, len(images), job.batch):
        x = job.colors.standardized(images[start : start + job.batch].to(device))
        options = dict(job.options)
        if job.method.name in NOISE:
            options["seed"] = job.seed + options.get("seed", 0) + job.first + start
        found.append(methods.attribute(job.method, module, x, **options).cpu())
    ranks = ranks_of(torch.cat(found), (job.seed + 1) * _TIES + job.first)
    tick()
    return Content({"seconds": time.perf_counter() - began}, {"ranks": ranks})

"""Training and testing networks on images with pixels removed. Runs anywhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from fullgrad.evaluation.datasets import Colors, Dataset
from fullgrad.evaluation.removal import as_images, fill_color, filled, removed
from fullgrad.evaluation.store import Array, Content
from fullgrad.evaluation.tests.remove_and_retrain.plan import MASKS, NetworkStage, RetrainPlan
from fullgrad.evaluation.training.loop import Settings, Task, train
from fullgrad.evaluation.training.networks import NetworkChoice
from fullgrad.evaluation.training.state import Checkpoint

Ranks: TypeAlias = "tuple[Array, Array]"  # of the training and of the test images


@dataclass(frozen=True, slots=True, eq=False)
class NetworksJob:
    """Says which networks are trained together, and how.

    Args:
        stages: what each is.
        seeds: one for each.
        order: of removal.
        fill: what removed pixels become.
        network: that is trained.
        training: how.
        colors: of the training images.
        device: where.
        checkpoint: where training states are kept; None for nowhere.
    """

    stages: tuple[NetworkStage, ...]
    seeds: tuple[int, ...]
    order: str
    fill: str
    network: NetworkChoice
    training: Settings
    colors: Colors
    device: str
    checkpoint: Checkpoint | None = None

    @classmethod
    def of(
        cls,
        plan: RetrainPlan,
        stages: Sequence[NetworkStage],
        colors: Colors,
        device: str,
        checkpoint: Checkpoint | None = None,
    ) -> NetworksJob:
        """Return the work of some stages."""
        return cls(
            stages=tuple(stages),
            seeds=tuple(plan.run_seed(s.run) for s in stages),
            order=plan.order,
            fill=plan.fill,
            network=plan.network,
            training=plan.training,
            colors=colors,
            device=device,
            checkpoint=checkpoint,
        )


def compute_networks(
    job: NetworksJob, data: Dataset, *ranks: Ranks | None, tick: Callable[[], None] = lambda: None
) -> list[Content]:
    """Train and test networks.

    Args:
        job: which.
        data: the intact images.
        *ranks: of each stage's method; None for no removal.
        tick: called after each epoch.
    """
    began = time.perf_counter()
    tasks = [
        task_of(stage, seed, job, data, own)
        for stage, seed, own in zip(job.stages, job.seeds, ranks, strict=True)
    ]
    removal = (time.perf_counter() - began) / len(tasks)
    device = torch.device(job.device)
    found = train(job.network.build, tasks, job.training, job.colors, device, tick, job.checkpoint)
    return [
        Content(
            {
                "accuracy": t.accuracy,
                "loss": t.loss,
                "seconds": removal + t.seconds,
                "group_size": len(tasks),
            },
            {k: v.numpy() for k, v in t.state.items()} if stage.choice is None else {},
        )
        for stage, t in zip(job.stages, found, strict=True)
    ]


def task_of(
    stage: NetworkStage, seed: int, job: NetworksJob, data: Dataset, ranks: Ranks | None
) -> Task:
    """Return the images that a stage's network is trained and tested with."""
    rim = fill_color("mean", job.colors)
    if stage.choice is None or ranks is None:
        return Task(data.train, data.train_labels, data.test, data.test_labels, seed, rim)
    gone = [removed(r, stage.fraction, job.order) for r in ranks]
    if stage.content == MASKS:
        halves = [as_images(g, x) for g, x in zip(gone, (data.train, data.test), strict=True)]
        rim = (255,) * len(rim)
    else:
        halves = [
            filled(x, g, job.fill, job.colors, seed, first, job.device)
            for g, x, first in zip(gone, (data.train, data.test), (0, len(data.train)), strict=True)
        ]
    return Task(halves[0], data.train_labels, halves[1], data.test_labels, seed, rim)

"""One stage's work: from what it is given to what is stored. Runs here or on another machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fullgrad import methods
from fullgrad.evaluation.retraining.checkpoint import Checkpoint
from fullgrad.evaluation.retraining.data import Colours, Dataset
from fullgrad.evaluation.retraining.networks import NetworkChoice
from fullgrad.evaluation.retraining.plan import CONTROLS, MASKS, NetworkStage, RanksStage, RoarPlan
from fullgrad.evaluation.retraining.removal import as_images, fill_colour, filled, ranks_of, removed
from fullgrad.evaluation.retraining.store import Array, Content
from fullgrad.evaluation.retraining.training import Settings, Task, train
from fullgrad.methods import Method
from fullgrad.methods.controls import NOISE

Tick: TypeAlias = Callable[[], None]
Ranks: TypeAlias = "tuple[Array, Array]"  # of the training and of the test images

_TIES = 2_000_003  # keeps the seeds of ties apart from others


@dataclass(frozen=True, slots=True, eq=False)
class RanksJob:
    """The maps of some images.

    Args:
        method: with what it needs, so that a user's own can be sent to another machine.
        options: of the method.
        network: that is explained.
        colours: of the training images.
        first: number of the first image, test images counted behind the training images.
        seed: of ties, and of random maps.
        batch: images explained together.
        device: where.
    """

    method: Method
    options: Mapping[str, Any]
    network: NetworkChoice
    colours: Colours
    first: int
    seed: int
    batch: int
    device: str

    @classmethod
    def of(cls, plan: RoarPlan, stage: RanksStage, colours: Colours, device: str) -> RanksJob:
        """The work of one stage."""
        return cls(
            method=methods.get(stage.choice.name),
            options=dict(stage.choice.options),
            network=plan.network,
            colours=colours,
            first=stage.start + (plan.counts[0] if stage.split == "test" else 0),
            seed=plan.seed,
            batch=plan.map_batch,
            device=device,
        )


def compute_ranks(
    job: RanksJob, images: Tensor, state: Mapping[str, Array] | None, tick: Tick = lambda: None
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
        x = job.colours.standardised(images[start : start + job.batch].to(device))
        options = dict(job.options)
        if job.method.name in NOISE:
            options["seed"] = job.seed + options.get("seed", 0) + job.first + start
        found.append(methods.attribute(job.method, module, x, **options).cpu())
    ranks = ranks_of(torch.cat(found), (job.seed + 1) * _TIES + job.first)
    tick()
    return Content({"seconds": time.perf_counter() - began}, {"ranks": ranks})


@dataclass(frozen=True, slots=True, eq=False)
class NetworksJob:
    """Networks that are trained together.

    Args:
        stages: what each is.
        seeds: one for each.
        order: of removal.
        fill: what removed pixels become.
        network: that is trained.
        training: how.
        colours: of the training images.
        device: where.
        checkpoint: where the training is kept in its middle; None for nowhere.
    """

    stages: tuple[NetworkStage, ...]
    seeds: tuple[int, ...]
    order: str
    fill: str
    network: NetworkChoice
    training: Settings
    colours: Colours
    device: str
    checkpoint: Checkpoint | None = None

    @classmethod
    def of(
        cls,
        plan: RoarPlan,
        stages: Sequence[NetworkStage],
        colours: Colours,
        device: str,
        checkpoint: Checkpoint | None = None,
    ) -> NetworksJob:
        """The work of some stages."""
        return cls(
            stages=tuple(stages),
            seeds=tuple(plan.run_seed(s.run) for s in stages),
            order=plan.order,
            fill=plan.fill,
            network=plan.network,
            training=plan.training,
            colours=colours,
            device=device,
            checkpoint=checkpoint,
        )


def compute_networks(
    job: NetworksJob, data: Dataset, *ranks: Ranks | None, tick: Tick = lambda: None
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
    found = train(job.network.build, tasks, job.training, job.colours, device, tick, job.checkpoint)
    return [
        Content(
            {
                "accuracy": t.accuracy,
                "loss": t.loss,
                "seconds": removal + t.seconds,
                "company": len(tasks),
            },
            {k: v.numpy() for k, v in t.state.items()} if stage.choice is None else {},
        )
        for stage, t in zip(job.stages, found, strict=True)
    ]


def task_of(
    stage: NetworkStage, seed: int, job: NetworksJob, data: Dataset, ranks: Ranks | None
) -> Task:
    """The images that a stage's network is trained and tested with."""
    rim = fill_colour("mean", job.colours)
    if stage.choice is None or ranks is None:
        return Task(data.train, data.train_labels, data.test, data.test_labels, seed, rim)
    gone = [removed(r, stage.fraction, job.order) for r in ranks]
    if stage.content == MASKS:
        halves = [as_images(g, x) for g, x in zip(gone, (data.train, data.test), strict=True)]
        rim = (255,) * len(rim)
    else:
        halves = [
            filled(x, g, job.fill, job.colours, seed, first, job.device)
            for g, x, first in zip(gone, (data.train, data.test), (0, len(data.train)), strict=True)
        ]
    return Task(halves[0], data.train_labels, halves[1], data.test_labels, seed, rim)

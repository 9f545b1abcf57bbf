"""What a plan will take, from a short trial on its own images."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from fullgrad.experiments.roar.data import Colours
from fullgrad.experiments.roar.jobs import NetworksJob, RanksJob, compute_networks, compute_ranks
from fullgrad.experiments.roar.plan import RanksStage
from fullgrad.experiments.roar.run import Roar

# Steps of training: to warm up, then two lengths whose difference is timed.
_STEPS, _STEPS_GPU = (2, 2, 6), (5, 5, 45)
_EVALUATED = 500


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is there, what is to be done, and what it takes at the rate of the trial.

    Args:
        networks: of the plan, all of them.
        networks_left: that are not done.
        parts: of maps, all of them: images of one method that are one stage.
        parts_left: that are not done and are needed.
        network_seconds: for one network.
        map_seconds: for one image, by method.
        seconds: for all that is left, one after the other in this process.
        disk: bytes that the stages left will take.
        parameters: of one network.
    """

    networks: int
    networks_left: int
    parts: int
    parts_left: int
    network_seconds: float
    map_seconds: dict[str, float]
    seconds: float
    disk: int
    parameters: int


def estimate(roar: Roar) -> Estimate:
    """Try a few steps of training and one batch of every method's maps; nothing is stored.

    Raises:
        FullGradError: the network or a method does not apply.
    """
    plan, data = roar.plan, roar.data
    colours = Colours.of(data.train)
    roar.check(colours)
    networks = roar.missing()
    ranks = roar.missing_ranks(networks)
    step, test = _training_trial(roar, colours)
    batch = min(plan.training.batch, len(data.train))
    each = plan.training.epochs * (len(data.train) // batch) * step + len(data.test) * test
    maps = {c.label: _map_trial(roar, c.label, colours) for c in plan.choices}
    explained = sum(maps[s.choice.label] * (s.stop - s.start) for s in ranks)
    parameters = sum(p.numel() for p in plan.network.build(0).parameters())
    kept = sum(4 * parameters for s in networks if s.choice is None)
    disk = kept + 500 * len(networks) + sum(2 * data.pixels * (s.stop - s.start) for s in ranks)
    return Estimate(
        networks=len(plan.networks()),
        networks_left=len(networks),
        parts=sum(len(plan.ranks(c)) for c in plan.choices),
        parts_left=len(ranks),
        network_seconds=each,
        map_seconds=maps,
        seconds=each * len(networks) + explained,
        disk=disk,
        parameters=parameters,
    )


def _training_trial(roar: Roar, colours: Colours) -> tuple[float, float]:
    """Seconds for a step of one network, and for one test image."""
    plan, data = roar.plan, roar.data
    company = [s for s in plan.networks() if s.choice is None][:1] * roar.company
    settings = replace(plan.training, epochs=1)
    job = NetworksJob.of(replace(plan, training=settings), company, colours, roar.device)
    tests = min(_EVALUATED, len(data.test))
    took = {}
    for steps in _STEPS_GPU if roar.device.startswith("cuda") else _STEPS:
        count = min(len(data.train), steps * settings.batch)
        small = _View(
            data.train[:count], data.train_labels[:count], data.test[:1], data.test_labels[:1]
        )
        began = time.perf_counter()
        compute_networks(job, small, *[None] * len(company))  # type: ignore[arg-type]
        took[max(1, count // settings.batch)] = time.perf_counter() - began
    (few, first), (many, second) = min(took.items()), max(took.items())
    step = (second - first) / (many - few) if many > few and second > first else second / many
    module = plan.network.build(0).eval().to(roar.device)
    with torch.no_grad():
        x = colours.standardised(data.test[:tests].to(roar.device))
        began = time.perf_counter()
        float(module(x).sum())
    return step / len(company), (time.perf_counter() - began) / tests


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """A part of a data set, which need not hold every class."""

    train: torch.Tensor
    train_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor


def _map_trial(roar: Roar, label: str, colours: Colours) -> float:
    """Seconds for the map of one image."""
    plan = roar.plan
    choice = next(c for c in plan.choices if c.label == label)
    images = roar.data.train[: plan.map_batch]
    stage = RanksStage(choice, "train", 0, len(images), "")
    job = RanksJob.of(plan, stage, colours, roar.device)
    content = compute_ranks(job, images, None)
    return float(content.values["seconds"]) / len(images)

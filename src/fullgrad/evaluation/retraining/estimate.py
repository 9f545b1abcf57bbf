"""What a plan will take, from a short trial on its own images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from fullgrad.evaluation.retraining.data import Colours
from fullgrad.evaluation.retraining.imputation import imputed
from fullgrad.evaluation.retraining.jobs import (
    NetworksJob,
    RanksJob,
    compute_networks,
    compute_ranks,
)
from fullgrad.evaluation.retraining.plan import IMAGES, RanksStage
from fullgrad.evaluation.retraining.removal import ROAD, ranks_of, removed
from fullgrad.evaluation.retraining.run import Roar
from fullgrad.evaluation.retraining.stacked import StackingError, check_stackable

# Steps of training: to warm up, then two lengths whose difference is timed.
_STEPS, _STEPS_GPU = (2, 2, 6), (5, 5, 45)
_EVALUATED = 500
_COMPANIES, _SLOWER = (1, 2, 4, 8), 1.25
_NO_ROOM = ("out of memory", "ALLOC_FAILED", "unable to find an engine")


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
        fill_seconds: for one image whose removed pixels are imputed; 0 for other fills.
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
    fill_seconds: float
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
    step, test = _step_trial(roar, colours), _test_trial(roar, colours)
    batch = min(plan.training.batch, len(data.train))
    each = plan.training.epochs * (len(data.train) // batch) * step + len(data.test) * test
    maps = {c.label: _map_trial(roar, c.label, colours) for c in plan.choices}
    explained = sum(maps[s.choice.label] * (s.stop - s.start) for s in ranks)
    fill = _fill_trial(roar) if plan.fill == ROAD else 0.0
    retrained = sum(s.choice is not None and s.content == IMAGES for s in networks)
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
        fill_seconds=fill,
        seconds=each * len(networks) + explained + fill * sum(plan.counts) * retrained,
        disk=disk,
        parameters=parameters,
    )


def fastest_company(roar: Roar, say: Callable[[str], None]) -> dict[int, float]:
    """Try how many networks are best trained at once.

    1, 2, 4 and 8, as far as there are so many to train and they fit in memory. Larger numbers are
    not tried after one that is a quarter slower than the best.

    Args:
        roar: of what.
        say: told why larger numbers cannot be had, if so.

    Returns:
        Seconds for a step of one network, by number, in the order of trial.

    Raises:
        FullGradError: the network cannot be trained.
    """
    colours = Colours.of(roar.data.train)
    found: dict[int, float] = {}
    for company in _COMPANIES:
        if company > max(1, len(roar.missing()) - 1):  # the base network is trained alone
            break
        trouble = ""
        try:
            if company == 2:
                example = colours.standardised(roar.data.test[:2])
                check_stackable(roar.plan.network.build, example, roar.plan.network.spec)
            found[company] = _step_trial(replace(roar, company=company), colours)
        except StackingError as error:
            trouble = str(error)
        except (RuntimeError, MemoryError) as error:
            if company == 1 or not _out_of_memory(error):
                raise
            trouble = f"{company} networks at once do not fit in memory"
        torch.cuda.empty_cache()  # behind the except, which keeps the trial's tensors alive
        if trouble:
            say(trouble)
            break
        if found[company] > _SLOWER * min(found.values()):
            break
    return found


def _out_of_memory(error: Exception) -> bool:
    """Whether a GPU's libraries mean that, which say it in several ways."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in str(error) for words in _NO_ROOM
    )


def _unseen(roar: Roar) -> int:
    """Bytes of images that the run holds on a GPU and a trial does not."""
    count, channels, height, width = roar.data.train.shape
    rim = 2 * roar.plan.training.shift
    left = max(0, count - max(_STEPS_GPU) * roar.plan.training.batch)
    return roar.company * left * channels * (height + rim) * (width + rim)


def _step_trial(roar: Roar, colours: Colours) -> float:
    """Seconds for a step of one network, of those that are trained at once."""
    plan, data = roar.plan, roar.data
    company = [s for s in plan.networks() if s.choice is None][:1] * roar.company
    settings = replace(plan.training, epochs=1)
    job = NetworksJob.of(replace(plan, training=settings), company, colours, roar.device)
    took = {}
    gpu = roar.device.startswith("cuda")
    ballast = torch.empty(_unseen(roar) if gpu else 0, dtype=torch.uint8, device=roar.device)
    for steps in _STEPS_GPU if gpu else _STEPS:
        count = min(len(data.train), steps * settings.batch)
        small = _View(
            data.train[:count], data.train_labels[:count], data.test[:1], data.test_labels[:1]
        )
        began = time.perf_counter()
        compute_networks(job, small, *[None] * len(company))  # type: ignore[arg-type]
        took[max(1, count // settings.batch)] = time.perf_counter() - began
    del ballast
    (few, first), (many, second) = min(took.items()), max(took.items())
    step = (second - first) / (many - few) if many > few and second > first else second / many
    return step / len(company)


def _test_trial(roar: Roar, colours: Colours) -> float:
    """Seconds for one test image."""
    images = roar.data.test[:_EVALUATED]
    module = roar.plan.network.build(0).eval().to(roar.device)
    with torch.no_grad():
        x = colours.standardised(images.to(roar.device))
        began = time.perf_counter()
        float(module(x).sum())
    return (time.perf_counter() - began) / len(images)


def _fill_trial(roar: Roar) -> float:
    """Seconds for imputing one image, at the middle one of the fractions, random pixels removed."""
    images = roar.data.train[:_EVALUATED]
    middle = roar.plan.fractions[len(roar.plan.fractions) // 2]
    ranks = ranks_of(torch.zeros(len(images), 1, *images.shape[2:]), 0)
    gone = removed(ranks, middle, roar.plan.order)
    began = time.perf_counter()
    imputed(images, gone, 0, device=roar.device)
    return (time.perf_counter() - began) / len(images)


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

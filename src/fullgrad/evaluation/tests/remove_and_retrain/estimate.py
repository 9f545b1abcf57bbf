"""What a plan will take, from a short trial on its own images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from fullgrad.evaluation.datasets import Colors
from fullgrad.evaluation.imputation import imputed
from fullgrad.evaluation.removal import ROAD, ranks_of, removed
from fullgrad.evaluation.tests.remove_and_retrain.explaining import RanksJob, compute_ranks
from fullgrad.evaluation.tests.remove_and_retrain.plan import IMAGES, RanksStage
from fullgrad.evaluation.tests.remove_and_retrain.retraining import NetworksJob, compute_networks
from fullgrad.evaluation.tests.remove_and_retrain.run import Retraining
from fullgrad.evaluation.training.stacked import StackingError, check_stackable

# Steps of training: to warm up, then two lengths whose difference is timed.
_STEPS, _STEPS_GPU = (2, 2, 6), (5, 5, 45)
_EVALUATED = 500
_GROUPS, _SLOWER = (1, 2, 4, 8), 1.25
_NO_ROOM = ("out of memory", "ALLOC_FAILED", "unable to find an engine")


@dataclass(frozen=True, slots=True)
class Estimate:
    """Says what is there, what is to be done, and what it takes at the rate of the trial.

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


def estimate(roar: Retraining) -> Estimate:
    """Try a few steps of training and one batch of every method's maps; nothing is stored.

    Raises:
        FullGradError: the network or a method does not apply.
    """
    plan, data = roar.plan, roar.data
    colors = Colors.of(data.train)
    roar.check(colors)
    networks = roar.missing()
    ranks = roar.missing_ranks(networks)
    step, test = _step_trial(roar, colors), _test_trial(roar, colors)
    batch = min(plan.training.batch, len(data.train))
    each = plan.training.epochs * (len(data.train) // batch) * step + len(data.test) * test
    maps = {c.label: _map_trial(roar, c.label, colors) for c in plan.choices}
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


def fastest_group(roar: Retraining, say: Callable[[str], None]) -> dict[int, float]:
    """Try how many networks are best trained at once.

    1, 2, 4 and 8, as far as there are that many to train and they fit in memory. Larger numbers are
    not tried after one that is a quarter slower than the best.

    Args:
        roar: of what.
        say: called with the reason why larger numbers cannot be had, if so.

    Returns:
        Seconds for a step of one network, by number, in the order of trial.

    Raises:
        FullGradError: the network cannot be trained.
    """
    colors = Colors.of(roar.data.train)
    found: dict[int, float] = {}
    for group_size in _GROUPS:
        if group_size > max(1, len(roar.missing()) - 1):  # the base network is trained alone
            break
        trouble = ""
        try:
            if group_size == 2:
                example = colors.standardized(roar.data.test[:2])
                check_stackable(roar.plan.network.build, example, roar.plan.network.spec)
            found[group_size] = _step_trial(replace(roar, group_size=group_size), colors)
        except StackingError as error:
            trouble = str(error)
        except (RuntimeError, MemoryError) as error:
            if group_size == 1 or not _out_of_memory(error):
                raise
            trouble = f"{group_size} networks at once do not fit in memory"
        torch.cuda.empty_cache()  # behind the except, which keeps the trial's tensors alive
        if trouble:
            say(trouble)
            break
        if found[group_size] > _SLOWER * min(found.values()):
            break
    return found


def _out_of_memory(error: Exception) -> bool:
    """Tell whether a GPU's libraries mean that, which say it in several ways."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in str(error) for words in _NO_ROOM
    )


def _unseen(roar: Retraining) -> int:
    """Return the bytes of images that the run holds on a GPU and a trial does not."""
    count, channels, height, width = roar.data.train.shape
    rim = 2 * roar.plan.training.shift
    left = max(0, count - max(_STEPS_GPU) * roar.plan.training.batch)
    return roar.group_size * left * channels * (height + rim) * (width + rim)


def _step_trial(roar: Retraining, colors: Colors) -> float:
    """Measure the seconds for a step of one network, of those that are trained at once."""
    plan, data = roar.plan, roar.data
    group = [s for s in plan.networks() if s.choice is None][:1] * roar.group_size
    settings = replace(plan.training, epochs=1)
    job = NetworksJob.of(replace(plan, training=settings), group, colors, roar.device)
    took = {}
    gpu = roar.device.startswith("cuda")
    ballast = torch.empty(_unseen(roar) if gpu else 0, dtype=torch.uint8, device=roar.device)
    for steps in _STEPS_GPU if gpu else _STEPS:
        count = min(len(data.train), steps * settings.batch)
        small = _View(
            data.train[:count], data.train_labels[:count], data.test[:1], data.test_labels[:1]
        )
        began = time.perf_counter()
        compute_networks(job, small, *[None] * len(group))  # type: ignore[arg-type]
        took[max(1, count // settings.batch)] = time.perf_counter() - began
    del ballast
    (few, first), (many, second) = min(took.items()), max(took.items())
    step = (second - first) / (many - few) if many > few and second > first else second / many
    return step / len(group)


def _test_trial(roar: Retraining, colors: Colors) -> float:
    """Measure the seconds for one test image."""
    images = roar.data.test[:_EVALUATED]
    module = roar.plan.network.build(0).eval().to(roar.device)
    with torch.no_grad():
        x = colors.standardized(images.to(roar.device))
        began = time.perf_counter()
        float(module(x).sum())
    return (time.perf_counter() - began) / len(images)


def _fill_trial(roar: Retraining) -> float:
    """Measure the seconds for imputing one image, a middle fraction of it removed at random."""
    images = roar.data.train[:_EVALUATED]
    middle = roar.plan.fractions[len(roar.plan.fractions) // 2]
    ranks = ranks_of(torch.zeros(len(images), 1, *images.shape[2:]), 0)
    gone = removed(ranks, middle, roar.plan.order)
    began = time.perf_counter()
    imputed(images, gone, 0, device=roar.device)
    return (time.perf_counter() - began) / len(images)


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """Holds a part of a data set, which need not hold every class."""

    train: torch.Tensor
    train_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor


def _map_trial(roar: Retraining, label: str, colors: Colors) -> float:
    """Measure the seconds for the map of one image."""
    plan = roar.plan
    choice = next(c for c in plan.choices if c.label == label)
    images = roar.data.train[: plan.map_batch]
    stage = RanksStage(choice, "train", 0, len(images), "")
    job = RanksJob.of(plan, stage, colors, roar.device)
    content = compute_ranks(job, images, None)
    return float(content.values["seconds"]) / len(images)

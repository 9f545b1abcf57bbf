"""Training networks from scratch, alone or several of one kind at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullgrad.errors import FullGradError
from fullgrad.evaluation.retraining.checkpoint import Checkpoint, Moment
from fullgrad.evaluation.retraining.data import Colours
from fullgrad.evaluation.retraining.feed import Feed
from fullgrad.evaluation.retraining.stacked import Networks

PRECISIONS = ("float32", "bfloat16")
_EVALUATED = 500  # images at a time


class TrainingError(FullGradError):
    """A network could not be trained."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How every network is trained (SGD with Nesterov momentum, rate up and down linearly).

    Args:
        epochs: passes over the training images.
        batch: images a step; an incomplete last batch is left out.
        rate: highest learning rate.
        momentum: of SGD.
        decay: weight decay, of weights but not of biases and batch-norm.
        smoothing: label smoothing.
        warmup: share of the steps in which the rate rises.
        shift: images are shifted by up to so many pixels. What comes in has the training images'
            mean colour, whatever removed pixels become; where masks are the images it is white.
        mirror: half of the images are mirrored.
        precision: ``float32``, or ``bfloat16`` for mixed precision.

    Raises:
        ValueError: a value out of range.
    """

    epochs: int = 30
    batch: int = 128
    rate: float = 0.1
    momentum: float = 0.9
    decay: float = 5e-4
    smoothing: float = 0.1
    warmup: float = 0.2
    shift: int = 4
    mirror: bool = True
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.rate > 0 or not math.isfinite(self.rate):
            raise ValueError(f"the learning rate must be positive, not {self.rate}")
        if self.shift < 0:
            raise ValueError(f"the shift must not be negative, not {self.shift}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"the precision is {' or '.join(PRECISIONS)}, not {self.precision!r}")

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step, rising over the first ones and falling to zero."""
        rise = max(1, round(self.warmup * steps))
        return self.rate * min((step + 1) / rise, (steps - step) / max(1, steps - rise + 1))


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One network to train.

    Args:
        train: uint8, shape (N, C, H, W).
        train_labels: shape (N,).
        test: uint8, shape (M, C, H, W).
        test_labels: shape (M,).
        seed: of the weights, the order of the images and their variations.
        rim: what comes into a shifted image, for each channel, 0 to 255.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    seed: int
    rim: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A trained network.

    Args:
        accuracy: share of the test images that it tells right.
        loss: mean training loss of the last epoch.
        seconds: that it took, shared equally among networks that were trained together.
        state: its parameters and buffers, on the CPU.
    """

    accuracy: float
    loss: float
    seconds: float
    state: dict[str, Tensor]


def train(
    build: Callable[[int], nn.Module],
    tasks: Sequence[Task],
    settings: Settings,
    colours: Colours,
    device: torch.device,
    tick: Callable[[], None] = lambda: None,
    checkpoint: Checkpoint | None = None,
) -> list[Trained]:
    """Train one network for each task; several are stacked and go through each step together.

    Each network's weights, order of images and variations come from its own seed, so in company
    it differs from one trained alone by rounding only (by dropout's draws, where it has any).

    Args:
        build: from a seed to a fresh network.
        tasks: with images of one shape, equally many.
        settings: how.
        colours: of the intact training images, for standardising.
        device: where.
        tick: called after each epoch.
        checkpoint: where an earlier training of the same tasks stopped, and where this one is
            kept from time to time.

    Raises:
        TrainingError: the loss is not finite.
        StoreError: a checkpoint cannot be written.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(tasks[0].seed)  # of dropout, where a network has any
        with _fastest(device):
            return _train(build, tasks, settings, colours, device, tick, checkpoint)


def _train(
    build: Callable[[int], nn.Module],
    tasks: Sequence[Task],
    settings: Settings,
    colours: Colours,
    device: torch.device,
    tick: Callable[[], None],
    checkpoint: Checkpoint | None,
) -> list[Trained]:
    began = time.perf_counter()
    networks = Networks([build(task.seed) for task in tasks], device)
    feeds = [
        Feed(t.train, t.train_labels, t.seed, t.rim, settings.shift, settings.mirror, device)
        for t in tasks
    ]
    groups = [
        {"params": networks.decayed, "weight_decay": settings.decay},
        {"params": networks.free, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.SGD(
        [g for g in groups if g["params"]], settings.rate, settings.momentum, nesterov=True
    )
    standardise = colours.standardiser(device)
    count = len(tasks[0].train)
    batch = min(settings.batch, count)
    each = count // batch
    steps = settings.epochs * each
    total = torch.zeros(len(tasks), device=device)
    moment = Moment(networks, optimiser, feeds, total, device)
    step = 0
    kept = checkpoint.load() if checkpoint is not None else None
    if kept is not None:
        step, seconds = moment.restored(kept)
        began -= seconds
        for _ in range(step // each):
            tick()
    networks.train(True)
    for _ in range(step // each, settings.epochs):
        drawn = [feed.drawn for feed in feeds]
        if step % each == 0:
            total.zero_()
        for parts in zip(*(feed.epoch(batch, step % each) for feed in feeds), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = settings.rate_at(step, steps)
            x = standardise(torch.stack([images for images, _ in parts]))
            y = torch.stack([labels for _, labels in parts])
            with _mixed(settings, device):
                logits = networks(x)
            losses = (
                F.cross_entropy(
                    logits.flatten(0, 1).float(),
                    y.flatten(),
                    reduction="none",
                    label_smoothing=settings.smoothing,
                )
                .view(len(tasks), -1)
                .mean(1)
            )
            optimiser.zero_grad()
            losses.sum().backward()
            optimiser.step()
            total += losses.detach()
            step += 1
            if checkpoint is not None and checkpoint.due:
                now = drawn if step % each else [feed.drawn for feed in feeds]
                checkpoint.save(moment.taken(step, time.perf_counter() - began, now))
        tick()
    found = (total / each).tolist()
    if not all(map(math.isfinite, found)):
        raise TrainingError(
            f"the training loss became {found[0] if len(found) == 1 else found}: "
            f"take a lower learning rate than {settings.rate:g}"
        )
    accuracies = _accuracies(networks, tasks, settings, standardise, device)
    seconds = (time.perf_counter() - began) / len(tasks)
    return [Trained(accuracies[k], found[k], seconds, networks.state(k)) for k in range(len(tasks))]


@contextmanager
def _fastest(device: torch.device) -> Iterator[None]:
    """Let cuDNN choose its kernels by trial; what else the process has set of it stays so."""
    before = torch.backends.cudnn.benchmark
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def _mixed(settings: Settings, device: torch.device) -> Iterator[None]:
    if settings.precision == "float32":
        yield
    else:
        with torch.autocast(device.type, torch.bfloat16):
            yield


@torch.no_grad()
def _accuracies(
    networks: Networks,
    tasks: Sequence[Task],
    settings: Settings,
    standardise: Callable[[Tensor], Tensor],
    device: torch.device,
) -> list[float]:
    networks.train(False)
    count = len(tasks[0].test)
    right = torch.zeros(len(tasks), dtype=torch.long, device=device)
    for start in range(0, count, _EVALUATED):
        part = slice(start, start + _EVALUATED)
        x = torch.stack([task.test[part].to(device) for task in tasks])
        y = torch.stack([task.test_labels[part].to(device) for task in tasks])
        with _mixed(settings, device):
            logits = networks(standardise(x))
        right += (logits.argmax(2) == y).sum(1)
    return [int(r) / count for r in right]

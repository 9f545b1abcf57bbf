"""Training networks from scratch, alone or several of one kind at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullgrad.errors import FullGradError
from fullgrad.evaluation.datasets import Colors
from fullgrad.evaluation.plan import check_least
from fullgrad.evaluation.training.loader import AugmentedLoader, Loader
from fullgrad.evaluation.training.stacked import Networks
from fullgrad.evaluation.training.state import Checkpoint, TrainingState

PRECISIONS = ("float32", "bfloat16")
OPTIMIZERS = ("sgd", "adamw")
_FIRST, _LAST = 1 / 25, 1 / 250_000  # of the highest rate, where it begins and ends in one cycle
_SLOW, _FAST = 0.95, 0.85  # momentum of one cycle, at the lowest and at the highest rate
_EVALUATED = 500  # images at a time


class TrainingError(FullGradError):
    """A network could not be trained."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Says how every network is trained.

    Args:
        epochs: passes over the training images.
        batch: images a step; an incomplete last batch is left out.
        rate: highest learning rate.
        optimizer: ``sgd``, with Nesterov momentum, whose rate rises and falls linearly; or
            ``adamw``, whose rate and momentum go through one cycle (cosine).
        momentum: of SGD.
        decay: weight decay, of weights but not of biases and batch-norm.
        smoothing: label smoothing.
        warmup: share of the steps in which the rate rises.
        shift: images are shifted by up to how many pixels. What comes in has the training images'
            mean color, whatever removed pixels become; where masks are the images it is white.
        mirror: half of the images are mirrored.
        precision: ``float32``, or ``bfloat16`` for mixed precision.
        clip: largest norm of a network's gradient; 0 for any. Not for several networks at once.

    Raises:
        ValueError: a value out of range.
    """

    epochs: int = 30
    batch: int = 128
    rate: float = 0.1
    optimizer: str = "sgd"
    momentum: float = 0.9
    decay: float = 5e-4
    smoothing: float = 0.1
    warmup: float = 0.2
    shift: int = 4
    mirror: bool = True
    precision: str = "float32"
    clip: float = 0.0

    def __post_init__(self) -> None:
        check_least(self, epochs=1, batch=1)
        if not self.rate > 0 or not math.isfinite(self.rate):
            raise ValueError(f"the learning rate must be positive, not {self.rate}")
        if self.shift < 0:
            raise ValueError(f"the shift must not be negative, not {self.shift}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"the precision is {' or '.join(PRECISIONS)}, not {self.precision!r}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"the optimizer is {' or '.join(OPTIMIZERS)}, not {self.optimizer!r}")

    def rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of a step."""
        if self.optimizer == "adamw":
            return self.rate * self._one_cycle(step, steps, _FIRST, 1.0, _LAST)
        rise = max(1, round(self.warmup * steps))
        return self.rate * min((step + 1) / rise, (steps - step) / max(1, steps - rise + 1))

    def set_step(self, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        """Set what an optimizer needs for one of ``steps`` steps."""
        for group in optimizer.param_groups:
            group["lr"] = self.rate_at(step, steps)
            if self.optimizer == "adamw":
                group["betas"] = (self._one_cycle(step, steps, _SLOW, _FAST, _SLOW), 0.999)

    def _one_cycle(self, step: int, steps: int, first: float, top: float, last: float) -> float:
        """Go from the first value to the top and to the last one, along cosines."""
        rise = self.warmup * steps - 1
        if step <= rise:
            before, after, share = first, top, step / rise
        else:
            before, after, share = top, last, (step - rise) / max(steps - 1 - rise, 1)
        return after + (before - after) / 2 * (1 + math.cos(math.pi * share))

    def optimizer_for(self, networks: Networks) -> torch.optim.Optimizer:
        """Return an optimizer; biases and scales do not decay."""
        groups = [
            {"params": networks.decayed, "weight_decay": self.decay},
            {"params": networks.free, "weight_decay": 0.0},
        ]
        groups = [g for g in groups if g["params"]]
        if self.optimizer == "adamw":
            return torch.optim.AdamW(groups, self.rate)
        return torch.optim.SGD(groups, self.rate, self.momentum, nesterov=True)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Says what one network is trained and tested with.

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
    """Holds a trained network.

    Args:
        accuracy: share of the test images that it classifies right.
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
    colors: Colors,
    device: torch.device,
    tick: Callable[[], None] = lambda: None,
    checkpoint: Checkpoint | None = None,
) -> list[Trained]:
    """Train one network for each task; several are stacked and go through each step together.

    Each network's weights, order of images and variations come from its own seed, so in a group
    it differs from one trained alone by rounding only (by dropout's draws, where it has any).

    Args:
        build: from a seed to a fresh network.
        tasks: with images of one shape, equally many.
        settings: how.
        colors: of the intact training images, for standardising.
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
            return _train(build, tasks, settings, colors, device, tick, checkpoint)


def _train(
    build: Callable[[int], nn.Module],
    tasks: Sequence[Task],
    settings: Settings,
    colors: Colors,
    device: torch.device,
    tick: Callable[[], None],
    checkpoint: Checkpoint | None,
) -> list[Trained]:
    began = time.perf_counter()
    networks = Networks([build(task.seed) for task in tasks], device)
    loaders = [
        AugmentedLoader(
            t.train, t.train_labels, t.seed, t.rim, settings.shift, settings.mirror, device
        )
        for t in tasks
    ]
    settings = replace(settings, batch=min(settings.batch, len(tasks[0].train)))
    standardize = colors.standardizer(device)
    before, losses = fit(
        networks, loaders, settings, device, standardize, lambda loss: tick(), checkpoint
    )
    accuracies = _accuracies(networks, tasks, settings, standardize, device)
    seconds = (before + time.perf_counter() - began) / len(tasks)
    return [
        Trained(accuracies[k], losses[k], seconds, networks.state(k)) for k in range(len(tasks))
    ]


def fit(
    networks: Networks,
    loaders: Sequence[Loader],
    settings: Settings,
    device: torch.device,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
    tick: Callable[[Tensor], None] = lambda loss: None,
    checkpoint: Checkpoint | None = None,
) -> tuple[float, list[float]]:
    """Train networks in place: the one training loop.

    Args:
        networks: one, or several stacked; left in training mode.
        loaders: one for each.
        settings: how; shift and mirror are the loaders' business.
        device: where.
        prepare: from a loader's images, shape (K, B, C, H, W), to the networks' inputs.
        tick: called after each epoch with the sums of its losses, shape (K,).
        checkpoint: where an earlier training stopped, and where this one is kept.

    Returns:
        Seconds of an earlier training that was resumed; each network's mean loss of the last epoch.

    Raises:
        TrainingError: the loss is not finite.
        StoreError: a checkpoint cannot be written.
    """
    began = time.perf_counter()
    optimizer = settings.optimizer_for(networks)
    each = loaders[0].steps(settings.batch)
    steps = settings.epochs * each
    total = torch.zeros(len(loaders), device=device)
    state = TrainingState(networks, optimizer, loaders, total, device)
    step, before = 0, 0.0
    kept = checkpoint.load() if checkpoint is not None else None
    if kept is not None:
        step, before = state.restored(kept)
        for _ in range(step // each):
            tick(total)
    networks.train(True)
    for _ in range(step // each, settings.epochs):
        drawn = [loader.drawn for loader in loaders]
        if step % each == 0:
            total.zero_()
        for parts in zip(*(own.epoch(settings.batch, step % each) for own in loaders), strict=True):
            settings.set_step(optimizer, step, steps)
            x = prepare(torch.stack([images for images, _ in parts]))
            y = torch.stack([labels for _, labels in parts])
            losses = _losses(networks, x, y, settings, device)
            optimizer.zero_grad()
            losses.sum().backward()
            if settings.clip:
                nn.utils.clip_grad_norm_(list(networks.parameters.values()), settings.clip)
            optimizer.step()
            total += losses.detach()
            step += 1
            if checkpoint is not None and checkpoint.due:
                now = drawn if step % each else [loader.drawn for loader in loaders]
                checkpoint.save(state.taken(step, before + time.perf_counter() - began, now))
        tick(total)
    found = (total / each).tolist()
    if not all(map(math.isfinite, found)):
        raise TrainingError(
            f"the training loss became {found[0] if len(found) == 1 else found}: "
            f"take a lower learning rate than {settings.rate:g}"
        )
    return before, found


def _losses(
    networks: Networks, x: Tensor, y: Tensor, settings: Settings, device: torch.device
) -> Tensor:
    """Return each network's mean loss over its batch, shape (K,)."""
    with _mixed(settings, device):
        logits = networks(x)
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(),
        y.flatten(),
        reduction="none",
        label_smoothing=settings.smoothing,
    )
    return losses.view(len(y), -1).mean(1)


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
    standardize: Callable[[Tensor], Tensor],
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
            logits = networks(standardize(x))
        right += (logits.argmax(2) == y).sum(1)
    return [int(r) / count for r in right]

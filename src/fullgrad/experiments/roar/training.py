"""Training networks from scratch, alone or several of one kind at once."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from fullgrad.errors import FullGradError
from fullgrad.experiments.roar.data import Colours

PRECISIONS = ("float32", "bfloat16")
_EVALUATED = 500  # images at a time
_ORDER = 7919  # keeps the seeds of weights and of the order apart


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
        shift: images are shifted by up to so many pixels, the rim filled with the fill colour.
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


class _Networks:
    """Networks of one kind, called together: inputs (K, B, ...) to outputs (K, B, classes)."""

    def __init__(self, modules: Sequence[nn.Module], device: torch.device) -> None:
        self._modules = [m.to(device) for m in modules]
        self._alone = len(modules) == 1
        if self._alone:
            self._modules[0].to(memory_format=torch.channels_last)
            self.parameters: dict[str, Tensor] = dict(self._modules[0].named_parameters())
            self._buffers = dict(self._modules[0].named_buffers())
        else:
            self._skeleton = copy.deepcopy(self._modules[0]).to("meta")
            self.parameters, self._buffers = stack_module_state(self._modules)
        extra = 0 if self._alone else 1
        self.decayed = [p for p in self.parameters.values() if p.dim() > 1 + extra]
        self.free = [p for p in self.parameters.values() if p.dim() <= 1 + extra]

    def train(self, mode: bool) -> None:
        (self._modules[0] if self._alone else self._skeleton).train(mode)

    def __call__(self, x: Tensor) -> Tensor:
        if self._alone:
            image = x[0].contiguous(memory_format=torch.channels_last)
            found: Tensor = self._modules[0](image)[None]
            return found

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], image: Tensor) -> Tensor:
            out: Tensor = functional_call(self._skeleton, (parameters, buffers), (image,))
            return out

        stacked: Tensor = torch.vmap(one, randomness="different")(self.parameters, self._buffers, x)
        return stacked

    def state(self, number: int) -> dict[str, Tensor]:
        """Of one of them, on the CPU."""
        whole = {**self.parameters, **self._buffers}
        return {
            name: (value if self._alone else value[number]).detach().cpu().contiguous().clone()
            for name, value in whole.items()
        }


def train(
    build: Callable[[int], nn.Module],
    tasks: Sequence[Task],
    settings: Settings,
    colours: Colours,
    device: torch.device,
    tick: Callable[[], None] = lambda: None,
) -> list[Trained]:
    """Train one network for each task; several are stacked and go through each step together.

    Each network's weights, order of images and variations come from its own seed, so in company
    it differs from one trained alone by rounding only.

    Args:
        build: from a seed to a fresh network.
        tasks: with images of one shape, equally many.
        settings: how.
        colours: of the intact training images, for standardising.
        device: where.
        tick: called after each epoch.

    Raises:
        TrainingError: the loss is not finite.
    """
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(tasks[0].seed)  # of dropout, where a network has any
        if device.type != "cuda":
            return _train(build, tasks, settings, colours, device, tick, began)
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            return _train(build, tasks, settings, colours, device, tick, began)


def _train(
    build: Callable[[int], nn.Module],
    tasks: Sequence[Task],
    settings: Settings,
    colours: Colours,
    device: torch.device,
    tick: Callable[[], None],
    began: float,
) -> list[Trained]:
    networks = _Networks([build(task.seed) for task in tasks], device)
    feeds = [_Feed(task, settings, device) for task in tasks]
    groups = [
        {"params": networks.decayed, "weight_decay": settings.decay},
        {"params": networks.free, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.SGD(
        [g for g in groups if g["params"]], settings.rate, settings.momentum, nesterov=True
    )
    count = len(tasks[0].train)
    batch = min(settings.batch, count)
    steps = settings.epochs * (count // batch)
    step = 0
    total = torch.zeros(len(tasks), device=device)
    networks.train(True)
    for _ in range(settings.epochs):
        total.zero_()
        for parts in zip(*(feed.epoch(batch) for feed in feeds), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = settings.rate_at(step, steps)
            x = colours.standardised(torch.stack([images for images, _ in parts]))
            y = torch.stack([labels for _, labels in parts])
            with _mixed(settings, device):
                logits = networks(x)
            losses = F.cross_entropy(
                logits.flatten(0, 1).float(), y.flatten(), reduction="none",
                label_smoothing=settings.smoothing,
            ).view(len(tasks), -1).mean(1)  # fmt: skip
            optimiser.zero_grad()
            losses.sum().backward()
            optimiser.step()
            total += losses.detach()
            step += 1
        tick()
    found = (total / (count // batch)).tolist()
    if not all(map(math.isfinite, found)):
        raise TrainingError(
            f"the training loss became {found[0] if len(found) == 1 else found}: "
            f"take a lower learning rate than {settings.rate:g}"
        )
    accuracies = _accuracies(networks, tasks, settings, colours, device)
    seconds = (time.perf_counter() - began) / len(tasks)
    return [Trained(accuracies[k], found[k], seconds, networks.state(k)) for k in range(len(tasks))]


@contextmanager
def _mixed(settings: Settings, device: torch.device) -> Iterator[None]:
    if settings.precision == "float32":
        yield
    else:
        with torch.autocast(device.type, torch.bfloat16):
            yield


class _Feed:
    """One task's images on the device, and their variations."""

    def __init__(self, task: Task, settings: Settings, device: torch.device) -> None:
        rim, shift = torch.tensor(task.rim, dtype=torch.uint8).view(-1, 1, 1), settings.shift
        n, channels, height, width = task.train.shape
        padded = rim.expand(channels, height + 2 * shift, width + 2 * shift).to(device)
        self._images = padded.expand(n, *padded.shape).clone()
        inner = self._images[:, :, shift : shift + height, shift : shift + width]
        inner.copy_(task.train)
        self._labels = task.train_labels.to(device)
        self._shift, self._mirror = shift, settings.mirror
        self._size = (height, width)
        self._device = device
        self._generator = torch.Generator().manual_seed(task.seed * _ORDER + 1)

    def epoch(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images once in a new order, but for an incomplete last batch."""
        n, (height, width) = len(self._images), self._size
        order = torch.randperm(n, generator=self._generator)
        corner = torch.randint(0, 2 * self._shift + 1, (2, n), generator=self._generator)
        mirrored = torch.rand(n, generator=self._generator) < 0.5
        order, corner, mirrored = (t.to(self._device) for t in (order, corner, mirrored))
        rows = torch.arange(height, device=self._device)
        columns = torch.arange(width, device=self._device)
        channels = torch.arange(self._images.shape[1], device=self._device)[None, :, None, None]
        for start in range(0, n - batch + 1, batch):
            part = slice(start, start + batch)
            chosen = order[part]
            y = corner[0, part, None] + rows
            x = corner[1, part, None] + columns
            if self._mirror:
                x = torch.where(mirrored[part, None], x.flip(1), x)
            yield (
                self._images[
                    chosen[:, None, None, None], channels, y[:, None, :, None], x[:, None, None, :]
                ],
                self._labels[chosen],
            )


@torch.no_grad()
def _accuracies(
    networks: _Networks,
    tasks: Sequence[Task],
    settings: Settings,
    colours: Colours,
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
            logits = networks(colours.standardised(x))
        right += (logits.argmax(2) == y).sum(1)
    return [int(r) / count for r in right]

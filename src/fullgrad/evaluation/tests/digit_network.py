"""The network of digit flipping."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from fullgrad.evaluation.datasets import DIGITS, Colors, Labeled
from fullgrad.evaluation.training.loop import Settings, Task, Trained, train
from fullgrad.evaluation.training.state import Checkpoint

if TYPE_CHECKING:
    pass


def network(seed: int = 0) -> nn.Sequential:
    """Return two convolutions and two dense layers with ReLU and max-pool, for 28 x 28 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 49, 64),
            nn.ReLU(),
            nn.Linear(64, DIGITS),
        )


def trained(
    learn: Labeled,
    test: Labeled,
    epochs: int,
    seed: int,
    tick: Callable[[], None] = lambda: None,
    checkpoint: Checkpoint | None = None,
) -> Trained:
    """Train the network; the same for equal seeds, on one machine.

    Args:
        learn: digits to learn from.
        test: digits for its accuracy.
        epochs: passes over the digits.
        seed: of the initial weights and the order.
        tick: called after each epoch.
        checkpoint: where training states are kept.
    """
    settings = Settings(
        epochs=epochs,
        batch=64,
        rate=2e-3,
        optimizer="adamw",
        decay=1e-2,
        smoothing=0.0,
        warmup=0.3,
        shift=0,
        mirror=False,
    )
    task = Task(learn.images, learn.labels, test.images, test.labels, seed, (0,))
    unit = Colors((0.0,), (255.0,))  # inputs from 0 to 1, the background 0
    cpu = torch.device("cpu")
    return train(network, [task], settings, unit, cpu, tick, checkpoint)[0]

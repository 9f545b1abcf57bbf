"""Images whose class is decided by a patch at a known place, and remove-and-retrain runs on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad.evaluation.datasets import Dataset
from fullgrad.evaluation.options import Silent
from fullgrad.evaluation.plan import MethodChoice
from fullgrad.evaluation.store import Store
from fullgrad.evaluation.tests.remove_and_retrain.executors import InProcess
from fullgrad.evaluation.tests.remove_and_retrain.plan import RetrainPlan
from fullgrad.evaluation.tests.remove_and_retrain.run import Retraining
from fullgrad.evaluation.training.loop import Settings, Task
from fullgrad.evaluation.training.networks import NetworkChoice

SIDE, PATCH, CLASSES = 12, 4, 4
CORNER = (2, 6)
CPU = torch.device("cpu")
FILES = {
    "results.csv",
    "results.parquet",
    "summary.csv",
    "ranking.csv",
    "differences.csv",
    "curves.png",
    "examples.png",
    "record.json",
}


SMALL = [
    "bench",
    "roar",
    "--data",
    "sklearn:digits",
    "--train-limit",
    "100",
    "--test-limit",
    "50",
    "--width",
    "4",
    "--epochs",
    "2",
    "--batch",
    "25",
    "--methods",
    "input_gradient",
    "random",
    "--fractions",
    "0.3",
    "0.6",
    "--runs",
    "2",
]


def patches() -> Tensor:
    """One patch for each class: white, black, and stripes both ways."""
    found = torch.zeros(CLASSES, PATCH, PATCH, dtype=torch.uint8)
    found[0] = 255
    found[2, ::2] = 255
    found[3, :, ::2] = 255
    return found


def patch_data(train: int = 320, test: int = 200) -> Dataset:
    """Noise, and at a known place a patch that alone decides the class."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(3)
    halves: list[Tensor] = []
    for count in (train, test):
        labels = torch.arange(count) % CLASSES
        images = torch.randint(0, 256, (count, 1, SIDE, SIDE), generator=generator).byte()
        y, x = CORNER
        images[:, 0, y : y + PATCH, x : x + PATCH] = patches()[labels]
        halves += [images, labels]
    return Dataset("patches", *halves, tuple("abcd"))


def true_mask(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
    found = torch.zeros(len(inputs), 1, *inputs.shape[2:])
    found[:, :, CORNER[0] : CORNER[0] + PATCH, CORNER[1] : CORNER[1] + PATCH] = 1
    return found


def reversed_mask(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
    return 1 - true_mask(model, inputs, target)


def plan_for(data: Dataset, *names: str, **changes: Any) -> RetrainPlan:
    settings = Settings(epochs=5, batch=32, rate=0.1, shift=0, mirror=False)
    given: dict[str, Any] = {
        "data": data.spec,
        "content": data.digest(),
        "counts": (len(data.train), len(data.test)),
        "network": NetworkChoice.for_images("auto", 6, data.train, len(data.classes)),
        "training": settings,
        "choices": tuple(map(MethodChoice.parse, names)),
        "fractions": (PATCH**2 / SIDE**2, 0.5),
        "runs": 2,
        "mask_runs": 1,
    }
    return RetrainPlan(**{**given, **changes})


def roar_of(
    plan: RetrainPlan, data: Dataset, folder: Path, group_size: int = 1, say: Any = print
) -> Retraining:
    return Retraining(plan, data, Store(folder, say), InProcess(), "cpu", group_size, Silent)


def tasks_for(data: Dataset, seeds: range) -> list[Task]:
    return [
        Task(data.train, data.train_labels, data.test, data.test_labels, seed, (128,))
        for seed in seeds
    ]

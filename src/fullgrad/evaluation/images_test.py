"""Tests of maps over a set of images: maps of every method, each of which is measured."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fullgrad import methods
from fullgrad._files import printable
from fullgrad.engine.model_state import guarded
from fullgrad.engine.targets import main_tensor
from fullgrad.evaluation.experiment import Test
from fullgrad.evaluation.options import Option
from fullgrad.evaluation.plan import MethodChoice, Plan
from fullgrad.evaluation.sources import WAY_OUT, Source, open_source
from fullgrad.evaluation.store import Store
from fullgrad.methods.controls import NOISE
from fullgrad.vision.classification import number_of_classes
from fullgrad.vision.models import DEFAULT_MODEL, STATED, LoadedModel, from_options, load_model
from fullgrad.vision.provenance import state_digest

METHODS = (
    "fullgrad",
    "simple_fullgrad",
    "smooth_fullgrad",
    "input_gradient",
    "input_x_gradient",
    "integrated_gradients",
    "smoothgrad",
    "grad_cam",
    "random",
    "sobel",
)
APART = 1_000_003  # between the seeds of two random orders


@dataclass(frozen=True, kw_only=True)
class ImagesPlan(Plan):
    """Holds all that the numbers depend on, but for the code.

    Args:
        model: what ``fullgrad.vision.models.load_model`` was asked for.
        weights: the same.
        checkpoint: SHA-256 of the weights' file, if it is known.
        state: digest of the model's modules, weights, buffers and Python file.
        images: where they come from.
        count: how many.
        content: digest of the images' names and bytes.
        stated: number of classes and preprocessing, where they were stated.
        choices: the methods.
        random_runs: how many maps of noise, which needs no model, are tried.
        seed: of ties, noise and random orders.
        batch_size: images at a time.

    Raises:
        ValueError: no method or the same twice, or a number below 1.
    """

    model: str
    weights: str | None
    checkpoint: str | None
    images: str
    count: int
    content: str
    stated: str = ""
    state: str = ""
    random_runs: int = 5
    seed: int = 0
    batch_size: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.random_runs < 1:
            raise ValueError(f"at least one random order is needed, not {self.random_runs}")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, not {self.batch_size}")


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Holds a batch of images.

    Args:
        start: number of the first one.
        x: inputs, shape (B, C, H, W).
        whole: the model's outputs, float64 of shape (B, classes).
        target: the classes that are predicted, shape (B,).
    """

    start: int
    x: Tensor
    whole: Tensor
    target: Tensor


@dataclass(frozen=True, eq=False)
class ImagesTest(Test):
    """Measures maps of images; a test overrides :meth:`measure`, or :meth:`rows_of`.

    Args:
        plan: what is asked for.
        model: loaded.
        source: its images.
    """

    plan_type: ClassVar[type[ImagesPlan]] = ImagesPlan
    for_model = True
    counted = "batches of images"
    options: ClassVar[Sequence[Option]] = (
        Option(
            "--images",
            "folder, CSV with a column 'file', or torchvision:NAME:ROOT[:SPLIT]",
            required=True,
        ),
        Option("--limit", "up to N of them, spread evenly; else all", kind=int),
        Option("--methods", "METHOD, METHOD:OPTION=VALUE,... or own.py:FUNCTION", METHODS),
        Option("--random-orders", "how many maps of noise ('random', ...) are tried", 5, int),
        Option("--seed", "seed of ties, noise and random orders", 0, int),
        Option("--batch-size", "images at a time; numbers change by rounding only", 10, int),
    )

    plan: ImagesPlan
    model: LoadedModel
    source: Source

    @classmethod
    def prepare(
        cls,
        *,
        images: str,
        limit: int | None,
        methods: tuple[str, ...],
        random_orders: int,
        model: str = DEFAULT_MODEL,
        weights: str | None = None,
        device: str = "cpu",
        **more: Any,
    ) -> ImagesTest:
        """Read the images and load the model; ``more`` are options of the plan."""
        choices = tuple(MethodChoice.parse(text) for text in methods)
        source = open_source(images, limit)
        settings = from_options(more)
        loaded = load_model(model, weights, device, settings)
        state = state_digest(loaded)  # before anything goes through it
        number_of_classes(loaded, WAY_OUT)
        source.check_inputs(loaded.preprocessing)
        more = {k: v for k, v in more.items() if k not in STATED}
        plan = cls.plan_type(
            model=loaded.spec,
            weights=loaded.weights,
            checkpoint=loaded.sha256,
            images=images,
            count=len(source.items),
            content=source.content,
            stated=settings.text(),
            state=state,
            choices=choices,
            random_runs=random_orders,
            **more,
        )
        return cls(plan, loaded, source)

    @property
    def parts(self) -> int:
        """How many batches of images there are."""
        return -(-len(self.source.items) // self.plan.batch_size)

    @property
    def left_out(self) -> int:
        """How many images cannot be read."""
        return len(self.source.excluded)

    def check(self) -> None:
        """Try every method on the first image.

        Raises:
            FullGradError: a method does not apply to the model.
        """
        batch = self.batch(0, 1)
        for choice in self.plan.choices:
            self.maps(choice, batch, 0)

    def remarks(self) -> list[str]:
        """Return what was assumed of the model, and which images are left out, and why."""
        excluded = self.source.excluded
        said = [f"excluded: {printable(name)}: {why}" for name, why in excluded]
        return [*self.model.assumed, *said]

    def batch(self, start: int, stop: int) -> Batch:
        """Return some images with the outputs for them."""
        items = self.source.items[start:stop]
        images = [item.input(self.model.preprocessing) for item in items]
        x = torch.stack(images).to(self.model.device)
        with guarded(self.model.module, evaluate=True), torch.no_grad():
            whole = main_tensor(self.model.module(x))[0].double()
        return Batch(start, x, whole, whole.argmax(1))

    def maps(self, choice: MethodChoice, batch: Batch, run: int) -> Tensor:
        """Return a method's maps of a batch, shape (B, 1, H, W); noise differs by run."""
        options = dict(choice.options)
        if choice.name in NOISE:
            seed = self.plan.seed + options.get("seed", 0)
            options["seed"] = seed + APART * run + batch.start
        return methods.attribute(choice.name, self.model.module, batch.x, batch.target, **options)

    def part(self, number: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """Return the rows of one batch of images, and the seconds that each method took."""
        start = number * self.plan.batch_size
        batch = self.batch(start, min(start + self.plan.batch_size, len(self.source.items)))
        rows: list[dict[str, Any]] = []
        seconds: dict[str, float] = {}
        for choice in self.plan.choices:
            runs = self.plan.random_runs if choice.name in NOISE else 1
            began = time.perf_counter()
            found = [self.maps(choice, batch, run) for run in range(runs)]
            between = time.perf_counter()
            for run, maps in enumerate(found):
                rows += self.rows_of(batch, maps, {"method": choice.label, "run": run})
            seconds[f"maps {choice.label}"] = between - began
            seconds[f"{self.name} {choice.label}"] = time.perf_counter() - between
        return rows, seconds

    def rows_of(
        self, batch: Batch, maps: Tensor, fixed: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows that a method's maps of a batch give.

        Args:
            batch: of images.
            maps: shape (B, 1, H, W).
            fixed: what stands in each row: method and run.
        """
        items = self.source.items[batch.start :]
        for item, score in zip(items, self.measure(batch, maps).tolist(), strict=False):
            yield {"case": item.name, **fixed, "score": score}

    def measure(self, batch: Batch, maps: Tensor) -> Tensor:
        """Return a score for each map, shape (B,), the higher the better.

        Args:
            batch: of images.
            maps: shape (B, 1, H, W).
        """
        raise NotImplementedError

    def notes(self, store: Store) -> dict[str, Any]:
        """Return what was left out, the speed and the machine."""
        seconds, count = self.seconds(store), len(self.source.items)
        took = {
            c.label: seconds[f"maps {c.label}"] + seconds[f"{self.name} {c.label}"]
            for c in self.plan.choices
        }
        return {
            "excluded": [{"image": n, "why": w} for n, w in self.source.excluded],
            "images_per_minute": {k: 60 * count / max(s, 1e-9) for k, s in took.items()},
            "device": str(self.model.device),
        }

"""Remove and retrain as a test of maps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from fullgrad.evaluation import statistics
from fullgrad.evaluation.datasets import FORMS, Dataset, open_dataset
from fullgrad.evaluation.experiment import Test
from fullgrad.evaluation.options import Meter, Option, Silent
from fullgrad.evaluation.plan import ORDERS, MethodChoice, digest_of
from fullgrad.evaluation.removal import IMAGE_FILLS
from fullgrad.evaluation.statistics import Table
from fullgrad.evaluation.store import Store
from fullgrad.evaluation.tests.remove_and_retrain import notes, tables
from fullgrad.evaluation.tests.remove_and_retrain.estimate import estimate, fastest_group
from fullgrad.evaluation.tests.remove_and_retrain.executors import EXECUTORS, InProcess, OnRay
from fullgrad.evaluation.tests.remove_and_retrain.figures import examples, roar_curves
from fullgrad.evaluation.tests.remove_and_retrain.plan import (
    FRACTIONS,
    RetrainPlan,
    maps_code,
    training_code,
)
from fullgrad.evaluation.tests.remove_and_retrain.run import Retraining
from fullgrad.evaluation.training.loop import PRECISIONS, Settings
from fullgrad.evaluation.training.networks import AUTO, NetworkChoice, usable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = (
    "fullgrad",
    "simple_fullgrad",
    "input_gradient",
    "integrated_gradients",
    "smoothgrad",
    "grad_cam",
    "random",
    "sobel",
)
_DEFAULT = Settings()


@dataclass(frozen=True, eq=False)
class RemoveAndRetrain(Test):
    """Removes the most salient pixels of all images, retrains, and measures the accuracy.

    Args:
        plan: all that the numbers depend on, but for the machine's rounding.
        data: the images that it names.
        device: ``cpu``, ``cuda``, ...
        group_size: networks that are trained at once, stacked; or ``auto``.
        minutes: after which nothing else is begun; None for no end.
        ray: options of :class:`~.executors.OnRay`; None for this process.
    """

    name = "roar"
    title = "remove the most salient pixels of all images, retrain, and measure the accuracy"
    description = """\
Trains a network, removes the k % most salient pixels of all training and test images by each
method's map, trains a fresh network on what is left, and measures its test accuracy (Hooker et
al. 2019; Srinivas & Fleuret 2019, section 5.2). --dry-run tells what that takes.

Writes into the results folder
  stages/                        every finished stage, so that nothing is done twice
  results.parquet, results.csv   one row for each network: method, fraction, run
  summary.csv                    means over runs with Student's 95 % intervals
  ranking.csv, differences.csv   mean accuracy over the fractions; every two methods compared
  curves.png, examples.png       the figure; images as the retrained networks see them
  record.json                    what is needed to run it again, what it took, and the caveats
An interrupted run resumes when it is started again. With other options only what depends on them
is done; the results are then those of the new options. The exit code is 1 when --minutes were over
before everything was done.
"""
    epilog = """\
examples:
  fullgrad bench roar --data sklearn:digits --out roar --dry-run
  fullgrad bench roar --data sklearn:digits --out roar --methods fullgrad input_gradient random \\
      --fractions 0.3 0.6 0.9 --runs 2 --epochs 10
  fullgrad bench roar --data torchvision:CIFAR100:data --out roar --device cuda \\
      --precision bfloat16
"""
    options = (
        Option("--data", FORMS, required=True),
        Option("--train-limit", "up to N training images in all, equally many a class", kind=int),
        Option("--test-limit", "up to N test images in all, equally many a class", kind=int),
        Option("--methods", "METHOD, METHOD:OPTION=VALUE,... or own.py:FUNCTION", METHODS),
        Option("--fractions", "shares of the pixels that are removed, in (0, 1]", FRACTIONS, float),
        Option("--runs", "networks for each method and fraction", 3, int),
        Option("--mask-runs", "networks on the masks alone, for each method and fraction", 1, int),
        Option("--order", "which pixels go first; the paper: most", "most", choices=ORDERS),
        Option(
            "--fill",
            "what removed pixels become: the training images' mean color, black, or road, "
            "guessed from the pixels that are left (slower)",
            "mean",
            choices=IMAGE_FILLS,
        ),
        Option("--seed", "seed of everything that is random", 0, int),
        Option(
            "--model",
            "vgg9 (the paper's nine layers), small, torchvision:NAME, timm:NAME or "
            "path/to/file.py:FUNCTION; auto: vgg9 for images of 32 pixels a side and more",
            AUTO,
        ),
        Option("--width", "channels of the first layer: 64 for vgg9, else 24", kind=int),
        Option("--epochs", "passes over the training images", _DEFAULT.epochs, int),
        Option("--batch", "images a step", _DEFAULT.batch, int),
        Option("--rate", "highest learning rate", _DEFAULT.rate, float),
        Option(
            "--shift",
            "pixels that training images are shifted by at most; else an eighth of a side",
            kind=int,
        ),
        Option("--mirror", "half of the training images, else where they have colors", kind=bool),
        Option("--precision", "mixed: bfloat16", _DEFAULT.precision, choices=PRECISIONS),
        Option("--device", "cpu, cuda, cuda:1", "cpu"),
        Option(
            "--map-batch",
            "images explained at a time; maps change by rounding only, but for random's numbers",
            50,
            int,
        ),
        Option(
            "--group-size",
            "networks trained at once, stacked, or 'auto' for the fastest in a short trial; equal "
            "to those trained alone but for rounding",
            1,
            old="--company",
        ),
        Option("--minutes", "time budget: no further stage is begun after it", kind=float),
        Option("--executor", "in this process or on Ray's workers", "here", choices=EXECUTORS),
        Option("--ray-address", "address of a cluster; else one is started on this machine"),
        Option("--workers", "Ray's tasks at a time", 2, int),
    )
    replaces = True
    columns = frozenset({"input", "method", "fraction", "run", "accuracy"})
    meanings: ClassVar[Mapping[str, str]] = {
        "input": "what the networks were trained on: images, or the masks alone (leakage)",
        "runs": "how many networks the mean is over",
        "accuracy": "share of the test images that are classified right, mean over runs",
        "area": "accuracy, averaged along the axis of fractions from no removal on; the least is "
        "best where the most salient go first, else the largest",
    }

    plan: RetrainPlan
    data: Dataset
    device: str = "cpu"
    group_size: int | str = 1
    minutes: float | None = None
    ray: Mapping[str, Any] | None = None
    _trial: dict[int, float] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    @classmethod
    def prepare(
        cls,
        *,
        data: str,
        train_limit: int | None,
        test_limit: int | None,
        methods: tuple[str, ...],
        fractions: tuple[float, ...],
        model: str,
        width: int | None,
        epochs: int,
        batch: int,
        rate: float,
        shift: int | None,
        mirror: bool | None,
        precision: str,
        device: str,
        group_size: int | str,
        minutes: float | None,
        executor: str,
        ray_address: str | None,
        workers: int,
        **plan: Any,
    ) -> RemoveAndRetrain:
        """Read the data set, and see that the options fit each other."""
        if ray_address is not None and executor != "ray":
            raise ValueError("--ray-address needs --executor ray")
        if executor == "ray" and device.startswith("cuda:"):
            raise ValueError("--executor ray hands out the GPUs: give --device cuda")
        if minutes is not None and not minutes > 0:
            raise ValueError(f"--minutes must be positive, not {minutes:g}")
        if group_size != AUTO:
            if not str(group_size).lstrip("-").isdecimal():
                raise ValueError(f"--group-size must be a number or 'auto', not {group_size!r}")
            group_size = int(group_size)
            if group_size < 1:
                raise ValueError(f"--group-size must be at least 1, not {group_size}")
        if workers < 1:
            raise ValueError(f"--workers must be at least 1, not {workers}")
        choices = tuple(MethodChoice.parse(text) for text in methods)
        found = open_dataset(data, train_limit, test_limit)
        colors, side = found.train.shape[1], min(found.train.shape[2:])
        made = RetrainPlan(
            data=data,
            content=found.digest(),
            counts=(len(found.train), len(found.test)),
            network=NetworkChoice.for_images(model, width, found.train, len(found.classes)),
            training=Settings(
                epochs=epochs,
                batch=batch,
                rate=rate,
                shift=side // 8 if shift is None else shift,
                mirror=colors == 3 if mirror is None else mirror,
                precision=precision,
            ),
            choices=choices,
            fractions=tuple(sorted(fractions)),
            **plan,
        )
        ray = {"address": ray_address, "workers": workers} if executor == "ray" else None
        return cls(made, found, usable(device), group_size, minutes, ray)

    @cached_property
    def code(self) -> str:
        """Digest of the code that the numbers depend on."""
        return self.with_own(digest_of({"training": training_code(), "maps": maps_code()}))

    def retraining(self, store: Store, meter: Callable[[str], Meter] = Silent) -> Retraining:
        """Return the work in this process."""
        size = self.group_size if isinstance(self.group_size, int) else 1
        deadline = None if self.minutes is None else self._began + 60 * self.minutes
        return Retraining(
            self.plan, self.data, store, InProcess(), self.device, size, meter, deadline
        )

    def missing(self, store: Store) -> list[str]:
        """Return the names of the stages that are not done and are needed."""
        work = self.retraining(store)
        networks = work.missing()
        maps = work.missing_ranks(networks)
        return [s.digest for s in networks] + [s.digest for s in maps]

    def _sized(
        self, store: Store, meter: Callable[[str], Meter], say: Callable[[str], None]
    ) -> Retraining:
        """Return the work with the group size that was asked for, or is fastest."""
        work = self.retraining(store, meter)
        if self.group_size != AUTO or not work.missing():
            return work
        self._trial.update(fastest_group(work, say))
        size = min(self._trial, key=self._trial.__getitem__)
        say(notes.group_text(self._trial, size))
        return work.of_size(size)

    def outlook(self, store: Store, say: Callable[[str], None] = print) -> str:
        """Return the plan and what it takes by a short trial; nothing is stored."""
        return notes.plan_text(self.plan, self.data, estimate(self._sized(store, Silent, say)))

    def work(self, store: Store, meter: Callable[[str], Meter], say: Callable[[str], None]) -> int:
        """Do what is not done, or as much of it as there is time for."""
        work = self._sized(store, meter, say)
        if self.ray is None or not work.missing():
            return work.run()
        gpus = min(1.0, torch.cuda.device_count() / self.ray["workers"])
        executor = OnRay(**self.ray, gpus=gpus if self.device.startswith("cuda") else 0.0)
        try:
            return work.by(executor).run()
        finally:
            executor.close()

    def rows(self, store: Store) -> Table:
        """Return one row for each network."""
        return tables.rows(self.plan, store)

    def seconds(self, store: Store) -> dict[str, float]:
        """Return what networks, and each method's maps, took in all."""
        return notes.seconds(self.plan, store)

    @classmethod
    def scores(cls, rows: Table, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Return each method's mean area, its sign so that higher is better."""
        order, fill = rows["order"].iloc[0], rows["fill"].iloc[0]
        found = tables.areas(rows).groupby("method", sort=False)["area"].mean()
        name = f"retrained, {order} first, {fill}"
        return {name: found if order == "least" else -found}

    def tables(self, rows: Table) -> dict[str, Table]:
        """Return means, ranking and differences."""
        return {
            "summary": tables.summary(rows),
            "ranking": tables.ranking(rows, self.plan.order),
            "differences": tables.differences(rows),
        }

    def figures(self, tables: Mapping[str, Table], store: Store) -> dict[str, Figure]:
        """Draw the curves, and images as the retrained networks see them."""
        caveats, chance = notes.caveats(self.plan, self.data), notes.chance(self.data)
        return {
            "curves": roar_curves(tables["summary"], self.plan.order, chance, caveats),
            "examples": examples(*notes.examples(self.plan, self.data, store)),
        }

    def text(self, tables: Mapping[str, Table]) -> str:
        """Return the ranking for people."""
        order = self.plan.order
        better = "lower" if order == "most" else "higher"
        return "\n".join(
            [
                f"test accuracy without removal: {tables['summary']['accuracy'].iloc[0]:.4f}",
                f"{order} salient first: mean accuracy over the fractions ({better} is better)",
                *statistics.ranking_text(tables["ranking"], cases="runs"),
            ]
        )

    def notes(self, store: Store) -> dict[str, Any]:
        """Return caveats, machine and group sizes."""
        return {
            "caveats": notes.caveats(self.plan, self.data),
            "chance": notes.chance(self.data),
            "device": notes.device_name(self.device),
            "executor": "here" if self.ray is None else "ray",
            "group_sizes": notes.group_sizes(self.plan, store),
            "group_size_trial": {str(n): seconds for n, seconds in self._trial.items()},
        }

    def unfinished(self, store: Store) -> str:
        """Return a line that says that the time is over, and what is left."""
        left = len(self.retraining(store).missing())
        return (
            f"{notes.duration(60 * (self.minutes or 0))} are over: {left} of "
            f"{len(self.plan.networks())} networks are left; the same command resumes"
        )

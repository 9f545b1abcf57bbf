"""The pixel-perturbation experiment over a set of images (Srinivas & Fleuret 2019, section 5.1).

A batch of images becomes rows: maps of every method once, then every order, fill and fraction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from fullgrad import methods
from fullgrad.engine.model_state import guarded
from fullgrad.engine.targets import main_tensor
from fullgrad.evaluation.fills import fill_named
from fullgrad.evaluation.perturbation import Changes, Order, compared, count_of, logits_of, order_of
from fullgrad.evaluation.plan import MethodChoice, PerturbationPlan
from fullgrad.evaluation.sources import Source
from fullgrad.evaluation.store import Store
from fullgrad.methods.controls import NOISE
from fullgrad.vision.images import preprocess
from fullgrad.vision.models import LoadedModel

_FORWARD = 32  # perturbed images that go through the model together
_APART = 1_000_003  # between the seeds of two random orders


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """A plan with the model and images that it names.

    Args:
        plan: what is asked for.
        model: loaded.
        source: its images.
    """

    plan: PerturbationPlan
    model: LoadedModel
    source: Source

    @property
    def parts(self) -> int:
        """How many batches of images there are."""
        return -(-len(self.source.items) // self.plan.batch_size)

    def check(self) -> None:
        """Try every method and fill on the first image, so that nothing fails half-way.

        Raises:
            FullGradError: a method does not apply to the model.
            ValueError: an unknown fill.
        """
        x, target = self._inputs(0, 1)[:2]
        for fill in self.plan.fills:
            fill_named(fill, self.model.preprocessing)
        for choice in self.plan.choices:
            self._maps(choice, x, target, 0, 0)

    def _inputs(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """The images, the classes that are predicted for them, and their logits."""
        items = self.source.items[start:stop]
        images = [preprocess(item.read()[0], self.model.preprocessing) for item in items]
        x = torch.stack(images).to(self.model.device)
        with guarded(self.model.module, evaluate=True), torch.no_grad():
            whole = main_tensor(self.model.module(x))[0].double()
        return x, whole.argmax(1), whole

    def _maps(
        self, choice: MethodChoice, x: Tensor, target: Tensor, start: int, run: int
    ) -> Tensor:
        options = dict(choice.options)
        if choice.name in NOISE:
            options["seed"] = self.plan.seed + options.get("seed", 0) + _APART * run + start
        return methods.attribute(choice.name, self.model.module, x, target, **options)

    def runs_of(self, choice: MethodChoice) -> int:
        """How many orders of a method are tried: several random ones, else one."""
        return self.plan.random_runs if choice.name in NOISE else 1

    def part(self, number: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """The rows of one batch of images, and the seconds that each method took."""
        start = number * self.plan.batch_size
        stop = min(start + self.plan.batch_size, len(self.source.items))
        x, target, whole = self._inputs(start, stop)
        rows: list[dict[str, Any]] = []
        seconds: dict[str, float] = {}
        for choice in self.plan.choices:
            began = time.perf_counter()
            maps = [self._maps(choice, x, target, start, r) for r in range(self.runs_of(choice))]
            between = time.perf_counter()
            for run, found in enumerate(maps):
                rows += self._rows(choice.label, run, start, x, target, whole, found)
            seconds[f"maps {choice.label}"] = between - began
            seconds[f"perturbation {choice.label}"] = time.perf_counter() - between
        return rows, seconds

    def _rows(
        self,
        label: str,
        run: int,
        start: int,
        x: Tensor,
        target: Tensor,
        whole: Tensor,
        maps: Tensor,
    ) -> Iterator[dict[str, Any]]:
        plan = self.plan
        places = maps[0].numel()
        counts = [count_of(f, places) for f in plan.fractions]
        seeds = [plan.seed * _APART + start + i for i in range(len(x))]
        for order in plan.orders:
            ordered = order_of(maps, cast(Order, order), plan.seed)
            jobs = [(ordered, n) for n in counts]
            for fill in plan.fills:
                filling = fill_named(fill, self.model.preprocessing)
                with guarded(self.model.module, evaluate=True), torch.no_grad():
                    logits = logits_of(self.model.module, x, jobs, filling, seeds, _FORWARD)
                found = compared(whole, logits, target)
                fixed = {"method": label, "run": run, "order": order, "fill": fill}
                yield from self._each(found, logits, whole, start, counts, fixed)

    def _each(
        self,
        found: Changes,
        logits: Tensor,
        whole: Tensor,
        start: int,
        counts: list[int],
        fixed: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        sure = whole.softmax(1).gather(1, found.target[:, None])[:, 0]
        predicted = logits.argmax(2)
        for i, item in enumerate(self.source.items[start : start + len(whole)]):
            for j, fraction in enumerate(self.plan.fractions):
                known = item.label is not None
                yield {
                    "image": item.name,
                    "label": item.label,
                    "target": int(found.target[i]),
                    **fixed,
                    "fraction": fraction,
                    "pixels": counts[j],
                    "output_before": float(found.before[i]),
                    "output_after": float(found.after[i, j]),
                    "relative_change": float(found.relative[i, j]),
                    "probability_before": float(sure[i]),
                    "probability_change": float(found.probability[i, j]),
                    "kept": bool(found.kept[i, j]),
                    "correct_before": int(found.target[i]) == item.label if known else None,
                    "correct_after": int(predicted[j, i]) == item.label if known else None,
                }


def run(bench: Bench, store: Store, say: Callable[[int, int], None]) -> int:
    """Do the parts that are not done.

    Args:
        bench: what to do.
        store: where the rows go.
        say: told, before each part, how many are done and how many there are.

    Returns:
        How many parts were done now.
    """
    missing = store.missing(bench.parts)
    for done, number in enumerate(missing):
        say(bench.parts - len(missing) + done, bench.parts)
        rows, seconds = bench.part(number)
        store.put(number, rows, seconds)
    return len(missing)

"""A plan's stages in order: what is done is read, what is missing is done and stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fullgrad.errors import InputError
from fullgrad.evaluation.datasets import Colors, Dataset
from fullgrad.evaluation.options import Meter
from fullgrad.evaluation.plan import MethodChoice
from fullgrad.evaluation.removal import ROAD, count_of
from fullgrad.evaluation.store import Array, Content, Store
from fullgrad.evaluation.tests.remove_and_retrain.executors import Call, Executor
from fullgrad.evaluation.tests.remove_and_retrain.explaining import RanksJob, compute_ranks
from fullgrad.evaluation.tests.remove_and_retrain.plan import (
    CONTROLS,
    NetworkStage,
    RanksStage,
    RetrainPlan,
)
from fullgrad.evaluation.tests.remove_and_retrain.retraining import (
    NetworksJob,
    Ranks,
    compute_networks,
)
from fullgrad.evaluation.training.networks import check as check_network
from fullgrad.evaluation.training.stacked import check_stackable
from fullgrad.evaluation.training.state import Checkpoint

_TRIED = 2  # images that every method is tried on, so that nothing fails half-way


@dataclass(frozen=True, slots=True, eq=False)
class Retraining:
    """Does the work of a plan.

    Args:
        plan: what is asked for.
        data: the images that it names.
        store: of finished stages.
        executor: where work is done.
        device: ``cpu``, ``cuda``, ...
        group_size: networks that are trained at once, stacked.
        meter: from a name of what is counted to a progress display.
        deadline: on the clock of :func:`time.monotonic`; what is in progress then is finished,
            nothing else begun, but for the first piece of work; None for no end.
    """

    plan: RetrainPlan
    data: Dataset
    store: Store
    executor: Executor
    device: str
    group_size: int
    meter: Callable[[str], Meter]
    deadline: float | None = None

    def of_size(self, size: int) -> Retraining:
        """Return the same work with another group size."""
        return replace(self, group_size=size)

    def by(self, executor: Executor) -> Retraining:
        """Return the same work done elsewhere."""
        return replace(self, executor=executor)

    def missing(self) -> list[NetworkStage]:
        """Return the networks that are not done."""
        return [s for s in self.plan.networks() if not self.store.has(s.digest)]

    def missing_ranks(self, networks: Sequence[NetworkStage]) -> list[RanksStage]:
        """Return the maps that are not done and that these networks, or the examples, need."""
        needed = {s.label for s in networks}
        return [
            stage
            for choice in self.plan.choices
            for stage in self.plan.ranks(choice)
            if (choice.label in needed or (stage.split, stage.start) == ("test", 0))
            and not self.store.has(stage.digest)
        ]

    def check(self, colors: Colors) -> None:
        """Try the network, and every method on two images, untrained.

        Raises:
            FullGradError: one does not apply, the networks cannot be stacked, or nothing would be
                left of an image to impute the rest from.
        """
        largest = self.plan.fractions[-1]
        if self.plan.fill == ROAD and count_of(largest, self.data.pixels) >= self.data.pixels:
            raise InputError(
                f"--fill road needs pixels that are left: the fraction {largest:g} removes all "
                f"{self.data.pixels}"
            )
        images = self.data.test[:_TRIED]
        network, inputs = self.plan.network, colors.standardized(images)
        check_network(network, inputs)
        if self.group_size > 1:
            check_stackable(network.build, inputs, network.spec)
        for choice in self.plan.choices:
            stage = RanksStage(choice, "test", 0, len(images), "")
            compute_ranks(RanksJob.of(self.plan, stage, colors, self.device), images, None)

    def run(self) -> int:
        """Do what is not done, or as much of it as there is time for.

        Returns:
            How many stages were done now.

        Raises:
            FullGradError: work had to stop; what is done is kept.
        """
        self.store.mend()
        networks = self.missing()
        ranks = self.missing_ranks(networks)
        if not networks and not ranks:
            return 0
        colors = Colors.of(self.data.train)
        self.check(colors)
        self.store.prepare()
        shared = self.executor.share(self.data)
        base = self.plan.base()
        done = 0
        if base in networks:
            done += self._train("base network: epochs", [base], shared, colors, first=True)
            networks.remove(base)
        if ranks and not self._late(done):
            done += self._explain(ranks, colors, first=not done)
        if networks and not self._late(done):
            done += self._train("networks: epochs", networks, shared, colors, first=not done)
        return done

    def _late(self, done: int) -> bool:
        """Tell whether the time is over; something is always done, so that each start helps."""
        return done > 0 and self.deadline is not None and time.monotonic() >= self.deadline

    def _explain(self, stages: Sequence[RanksStage], colors: Colors, first: bool) -> int:
        state = None
        if any(s.choice.name not in CONTROLS for s in stages):
            base = self.store.done(self.plan.base().digest)
            state = self.executor.share(dict(base.arrays))

        def calls() -> Iterator[Call]:
            for number, stage in enumerate(stages):
                if self._late(number or not first):
                    return
                images = self.data.train if stage.split == "train" else self.data.test
                job = RanksJob.of(self.plan, stage, colors, self.device)
                own = None if stage.choice.name in CONTROLS else state
                yield job, images[stage.start : stage.stop].clone(), own  # a view ships all

        meter, total, done = self.meter("maps: parts of images"), len(stages), 0

        def keep(number: int, content: Content) -> None:
            nonlocal done
            self.store.put(stages[number].digest, content)
            done += 1
            meter(done, total)

        try:
            meter(0, total)
            self.executor.run(compute_ranks, calls(), keep, lambda: None)
        finally:
            meter.end()
        return done

    def _train(
        self, what: str, stages: Sequence[NetworkStage], shared: Any, colors: Colors, first: bool
    ) -> int:
        groups = [stages[i : i + self.group_size] for i in range(0, len(stages), self.group_size)]
        epochs = self.plan.training.epochs
        meter, seen, finished, done = self.meter(what), 0, 0, 0
        kept: dict[str, Any] = {}

        def ranks_of(choice: MethodChoice | None) -> Any:
            if choice is None:
                return None
            if choice.label not in kept:
                while len(kept) >= 2:
                    kept.pop(next(iter(kept)))
                kept[choice.label] = self.executor.share(self.ranks(choice))
            return kept[choice.label]

        def calls() -> Iterator[Call]:
            for number, group in enumerate(groups):
                if self._late(number or not first):
                    return
                here = self.executor.here
                checkpoint = Checkpoint(self.store, [s.digest for s in group]) if here else None
                job = NetworksJob.of(self.plan, group, colors, self.device, checkpoint)
                yield (job, shared, *(ranks_of(s.choice) for s in group))

        def tick() -> None:
            nonlocal seen
            seen += 1
            meter(seen, epochs * len(groups))

        def keep(number: int, contents: list[Content]) -> None:
            nonlocal seen, finished, done
            digests = [s.digest for s in groups[number]]
            self.store.put_together(dict(zip(digests, contents, strict=True)))
            done += len(digests)
            finished += 1
            seen = max(seen, finished * epochs)
            meter(seen, epochs * len(groups))

        try:
            meter(0, epochs * len(groups))
            self.executor.run(compute_networks, calls(), keep, tick)
        finally:
            meter.end()
        return done

    def ranks(self, choice: MethodChoice) -> Ranks:
        """Return a method's ranks of all training and test images, which are done."""
        halves: dict[str, list[Array]] = {"train": [], "test": []}
        for stage in self.plan.ranks(choice):
            halves[stage.split].append(self.store.done(stage.digest).arrays["ranks"])
        return np.concatenate(halves["train"]), np.concatenate(halves["test"])

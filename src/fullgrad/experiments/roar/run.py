"""A plan's stages in order: what is done is read, what is missing is worked on and stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fullgrad.experiments.plan import MethodChoice
from fullgrad.experiments.roar.data import Colours, Dataset
from fullgrad.experiments.roar.executors import Call, Executor
from fullgrad.experiments.roar.jobs import (
    NetworksJob,
    Ranks,
    RanksJob,
    compute_networks,
    compute_ranks,
)
from fullgrad.experiments.roar.networks import check as check_network
from fullgrad.experiments.roar.plan import CONTROLS, NetworkStage, RanksStage, RoarPlan
from fullgrad.experiments.roar.store import Array, Content, StageStore

_TRIED = 2  # images that every method is tried on, so that nothing fails half-way


class Meter(Protocol):
    """Told how many of how many are done; see ``fullgrad.cli.progress.Progress``."""

    def __call__(self, done: int, total: int) -> None:
        """So many of so many."""

    def end(self) -> None:
        """No more."""


@dataclass(frozen=True, slots=True, eq=False)
class Roar:
    """A plan with all that it takes.

    Args:
        plan: what is asked for.
        data: the images that it names.
        store: of finished stages.
        executor: where work is done.
        device: ``cpu``, ``cuda``, ...
        company: networks that are trained at once, stacked.
        meter: from a name of what is counted to a progress display.
    """

    plan: RoarPlan
    data: Dataset
    store: StageStore
    executor: Executor
    device: str
    company: int
    meter: Callable[[str], Meter]

    def missing(self) -> list[NetworkStage]:
        """The networks that are not done."""
        return [s for s in self.plan.networks() if not self.store.has(s.digest)]

    def missing_ranks(self, networks: Sequence[NetworkStage]) -> list[RanksStage]:
        """The maps that are not done and that these networks, or the examples, need."""
        needed = {s.label for s in networks}
        return [
            stage
            for choice in self.plan.choices
            for stage in self.plan.ranks(choice)
            if (choice.label in needed or (stage.split, stage.start) == ("test", 0))
            and not self.store.has(stage.digest)
        ]

    def check(self, colours: Colours) -> None:
        """Try the network, and every method on two images, untrained.

        Raises:
            FullGradError: one does not apply.
        """
        images = self.data.test[:_TRIED]
        check_network(self.plan.network, colours.standardised(images))
        for choice in self.plan.choices:
            stage = RanksStage(choice, "test", 0, len(images), "")
            compute_ranks(RanksJob.of(self.plan, stage, colours, self.device), images, None)

    def run(self) -> int:
        """Do what is not done.

        Returns:
            How many stages were done now.

        Raises:
            FullGradError: work had to stop; what is done is kept.
        """
        networks = self.missing()
        ranks = self.missing_ranks(networks)
        count = len(networks) + len(ranks)
        if not count:
            return 0
        colours = Colours.of(self.data.train)
        self.check(colours)
        self.store.prepare()
        self.store.sweep()
        shared = self.executor.share(self.data)
        base = self.plan.base()
        if base in networks:
            self._train("base network: epochs", [base], shared, colours)
            networks.remove(base)
        if ranks:
            self._explain(ranks, colours)
        if networks:
            self._train("networks: epochs", networks, shared, colours)
        return count

    def _explain(self, stages: Sequence[RanksStage], colours: Colours) -> None:
        state = None
        if any(s.choice.name not in CONTROLS for s in stages):
            base = self.store.get(self.plan.base().digest)
            assert base is not None
            state = self.executor.share(dict(base.arrays))

        def calls() -> Iterator[Call]:
            for stage in stages:
                images = self.data.train if stage.split == "train" else self.data.test
                job = RanksJob.of(self.plan, stage, colours, self.device)
                own = None if stage.choice.name in CONTROLS else state
                yield job, images[stage.start : stage.stop], own

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

    def _train(
        self, what: str, stages: Sequence[NetworkStage], shared: Any, colours: Colours
    ) -> None:
        groups = [stages[i : i + self.company] for i in range(0, len(stages), self.company)]
        epochs = self.plan.training.epochs
        meter, seen, finished = self.meter(what), 0, 0
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
            for group in groups:
                job = NetworksJob.of(self.plan, group, colours, self.device)
                yield (job, shared, *(ranks_of(s.choice) for s in group))

        def tick() -> None:
            nonlocal seen
            seen += 1
            meter(seen, epochs * len(groups))

        def keep(number: int, contents: list[Content]) -> None:
            nonlocal seen, finished
            for stage, content in zip(groups[number], contents, strict=True):
                self.store.put(stage.digest, content)
            finished += 1
            seen = max(seen, finished * epochs)
            meter(seen, epochs * len(groups))

        try:
            meter(0, epochs * len(groups))
            self.executor.run(compute_networks, calls(), keep, tick)
        finally:
            meter.end()

    def ranks(self, choice: MethodChoice) -> Ranks:
        """A method's ranks of all training and test images, which are done."""
        halves: dict[str, list[Array]] = {"train": [], "test": []}
        for stage in self.plan.ranks(choice):
            content = self.store.get(stage.digest)
            assert content is not None
            halves[stage.split].append(content.arrays["ranks"])
        return np.concatenate(halves["train"]), np.concatenate(halves["test"])

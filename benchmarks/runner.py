"""From the cells that are asked for to a results file: skips finished ones, tells the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import growth
from benchmarks.environment import Environment, source_digest
from benchmarks.isolated import run
from benchmarks.methods import of_kind
from benchmarks.results import ResultsError, Store
from benchmarks.subjects import SIZE
from benchmarks.tasks import Kind, Task

MEMORY_BATCH = {"cpu": 8, "cuda": 64}


def plan(
    kinds: Sequence[Kind],
    models: Sequence[str],
    batches: Sequence[int],
    dtypes: Sequence[str],
    device: str,
    methods: tuple[str, ...],
    *,
    size: int = SIZE,
    quick: bool = False,
    **settings: Any,
) -> list[Task]:
    """The cells to measure, in their order.

    Args:
        kinds: of measurement.
        models: names.
        batches: for the times. Memory is measured for the largest that is not above 8 (GPU: 64).
        dtypes: names.
        device: ``cpu`` or ``cuda``.
        methods: names.
        size: height and width.
        quick: a small part of the growth only.
        settings: of every task.

    Returns:
        The tasks.
    """
    tasks: list[Task] = []
    ordinary = [b for b in batches if b <= MEMORY_BATCH[device]]
    chosen = max(ordinary) if ordinary else min(batches)
    for dtype in dtypes:
        cells: tuple[tuple[Kind, Sequence[int]], ...] = (
            ("time", batches),
            ("memory", (chosen,)),
            ("compiled", batches),
        )
        for kind, wanted in cells:
            if kind in kinds:
                taken = of_kind(kind, methods)
                tasks += [
                    Task(kind, model, batch, size, dtype, device, taken, **settings)
                    for model in models
                    for batch in wanted
                ]
        if "growth" in kinds:
            tasks += growth.tasks(device, dtype, quick=quick, **settings)
    return tasks


def measure_all(
    tasks: Sequence[Task],
    store: Store,
    environment: Environment,
    *,
    measure: Callable[[Task], dict[str, Any]] = run,
    say: Callable[[str], Any] = lambda line: print(line, flush=True),
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Measure what is not in the store yet, and store each cell as it is finished.

    Args:
        tasks: in the order to measure.
        store: of this environment.
        environment: of this process.
        measure: from a task to the outcomes of its methods.
        say: is given each line of progress.
        clock: seconds, rising.

    Raises:
        ResultsError: fullgrad's source changed meanwhile, so that results would not compare.
    """
    missing = [task for task in tasks if not store.done(task)]
    if len(missing) < len(tasks):
        say(f"{len(tasks) - len(missing)} of {len(tasks)} cells are in {store.path} already")
    left = sum(task.weight for task in missing)
    spent = weighed = 0.0
    for number, task in enumerate(missing, 1):
        if source_digest() != environment.source:
            raise ResultsError(
                "fullgrad's source changed while it was measured; nothing after the change is "
                f"stored in {store.path}. Start again with --fresh, or undo the change."
            )
        say(f"[{number}/{len(missing)}] {task}")
        start = clock()
        outcomes = measure(task)
        took = clock() - start
        store.add(task, outcomes, took)
        spent, weighed, left = spent + took, weighed + task.weight, left - task.weight
        for name, outcome in outcomes.items():
            if "failed" in outcome:
                say(f"    {name}: {outcome['failed']}")
        if number < len(missing):
            say(f"    {took:.0f} s; about {duration(left * spent / weighed)} left")


def duration(seconds: float) -> str:
    """A span of time as one would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

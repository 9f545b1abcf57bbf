"""Who computes the units of a store: this process, several here, torchrun's, or Ray's workers."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import torch

from fullgrad.datasets.index import commit_of
from fullgrad.datasets.store import Store, Written, part_name
from fullgrad.datasets.work import Report, Work
from fullgrad.errors import FullGradError, UsageError
from fullgrad.evaluation.tests.remove_and_retrain.executors import ExecutorError, OnRay

EXECUTORS = ("here", "torchrun", "ray")
_TRIES = 3  # of a unit whose process dies
_LOOKS = 1.0  # seconds between looks at what other processes have committed
_REFUSED = 3  # a process's exit code after an error that is reported


class Executor(Protocol):
    """Computes units."""

    def part(self, given: tuple[int, int] | None) -> tuple[int, int] | None:
        """Which part of the units this process is to see done.

        Args:
            given: what the caller asked for.
        """

    def run(self, work: Work, units: Sequence[int], report: Report) -> None:
        """Compute units.

        Args:
            work: of one process.
            units: their numbers.
            report: told of each commit.

        Raises:
            FullGradError: they cannot all be done; what is committed stays.
        """


def executor_of(executor: str | Executor, processes: int) -> Executor:
    """Return an executor by name.

    Raises:
        ValueError: an unknown one.
        UsageError: processes where the executor brings its own.
    """
    if not isinstance(executor, str):
        return executor
    if executor == "here":
        return Here() if processes == 1 else Processes(processes)
    if executor == "ray":
        return Ray(workers=processes)
    if executor == "torchrun":
        if processes != 1:
            raise UsageError("leave processes= out: torchrun's --nproc-per-node says how many")
        return Torchrun()
    raise ValueError(f"executor must be one of {', '.join(EXECUTORS)}, not {executor!r}")


@dataclass(frozen=True, slots=True)
class Here:
    """Computes in this process."""

    def part(self, given: tuple[int, int] | None) -> tuple[int, int] | None:
        """See :class:`Executor`."""
        return given

    def run(self, work: Work, units: Sequence[int], report: Report) -> None:
        """See :class:`Executor`."""
        work.run(units, report)


@dataclass(frozen=True, slots=True)
class Torchrun:
    """Computes this process's share of the units; ``torchrun`` started the others.

    The share is chosen by rank among all processes, so they need not talk to each other. A
    process that dies is started again by torchrun (``--max-restarts``), and resumes.
    """

    def part(self, given: tuple[int, int] | None) -> tuple[int, int] | None:
        """See :class:`Executor`.

        Raises:
            UsageError: this process was not started by torchrun, or a part is asked for as well.
        """
        if given is not None:
            raise UsageError("part= does not go with torchrun, whose processes are the parts")
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            raise UsageError(
                "executor='torchrun' needs RANK and WORLD_SIZE, which torchrun sets: start it with "
                "'torchrun --nproc-per-node 2 -m fullgrad map ...'"
            )
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    def run(self, work: Work, units: Sequence[int], report: Report) -> None:
        """See :class:`Executor`."""
        if work.plan.device == "cuda":
            local = int(os.environ.get("LOCAL_RANK", "0"))
            work = replace(work, device=f"cuda:{local % torch.cuda.device_count()}")
        work.run(units, report)


@dataclass(frozen=True, slots=True)
class Processes:
    """Computes in several processes of this machine; a unit whose process dies is tried again.

    Args:
        count: how many.
    """

    count: int

    def part(self, given: tuple[int, int] | None) -> tuple[int, int] | None:
        """See :class:`Executor`."""
        return given

    def run(self, work: Work, units: Sequence[int], report: Report) -> None:
        """See :class:`Executor`.

        Raises:
            ExecutorError: a process died over the same unit again and again.
            UsageError: the store is in this process's memory.
            FullGradError: of a process that could not go on.
        """
        shared_place(work)
        watch = _Watch(work, units, report)
        for attempt in range(1, _TRIES + 1):
            left = watch.left()
            if not left:
                return
            self._round(replace(work, attempt=attempt), left, watch)
        if left := watch.left():
            raise ExecutorError(
                f"processes died {_TRIES} times over unit {left[0]} ({len(left)} units are not "
                "done); what is done is kept. Memory may be short: try fewer processes=, or "
                "another folder with a smaller batch_size="
            )

    def _round(self, work: Work, units: Sequence[int], watch: _Watch) -> None:
        context = multiprocessing.get_context("spawn")
        gpus = torch.cuda.device_count() if work.plan.device == "cuda" else 0
        works = [
            (replace(work, device=f"cuda:{k % gpus}") if gpus else work, units[k :: self.count])
            for k in range(min(self.count, len(units)))
        ]
        receivers, processes = [], []
        try:
            for own, share in works:
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(own, share, sender), daemon=False)
                process.start()
                sender.close()
                receivers.append(receiver)
                processes.append(process)
            while any(p.is_alive() for p in processes):
                time.sleep(_LOOKS / 5)
                watch.look()
        finally:
            for process in processes:
                if process.is_alive():
                    process.terminate()
                process.join()
        watch.look(now=True)
        for process, receiver in zip(processes, receivers, strict=True):
            if process.exitcode == _REFUSED and receiver.poll():
                raise receiver.recv()


def _child(work: Work, units: Sequence[int], sender: Any) -> None:
    """Compute units in a process of its own."""
    try:
        work.run(units, lambda _: None)
    except KeyboardInterrupt:
        os._exit(130)
    except FullGradError as error:
        sender.send(error)
        sender.close()
        sys.exit(_REFUSED)


class _Watch:
    """Sees what other processes commit, and tells.

    Args:
        work: of them.
        units: they compute.
        report: told of each commit.
    """

    def __init__(self, work: Work, units: Sequence[int], report: Report) -> None:
        self._store = Store(work.address, work.plan)
        self._units, self._report = list(units), report
        self._seen: set[int] = set()
        self._looked = 0.0

    def look(self, *, now: bool = False) -> None:
        """Look at the store, if it is time."""
        if not now and time.monotonic() - self._looked < _LOOKS:
            return
        self._looked = time.monotonic()
        for unit in sorted(set(self._store.done()) & set(self._units) - self._seen):
            self._seen.add(unit)
            content = self._store.files.read(part_name(unit))
            assert content is not None
            commit = commit_of(content, part_name(unit))
            rows = len(self._store.plan.members(unit)) * self._store.plan.targets
            length = sum(int(shard["bytes"]) for shard in commit.shards.values())
            self._report(Written(unit, rows, commit.errors, length, True))

    def left(self) -> list[int]:
        """Return the units that are not there."""
        self.look(now=True)
        return [unit for unit in self._units if unit not in self._seen]


def shared_place(work: Work) -> None:
    """Refuse a store that other processes cannot see.

    Raises:
        UsageError: it is in this process's memory.
    """
    if work.address.startswith("memory://"):
        raise UsageError(
            f"{work.address} is in this process's memory, which others cannot see: use "
            "processes=1, or another address"
        )


@dataclass(frozen=True, slots=True)
class Ray:
    """Computes as tasks of Ray, a unit each; one whose worker dies is tried again.

    Args:
        address: of a cluster (``auto``, ``host:port``); None starts one on this machine.
        workers: units at a time.
        gpus: a task's share of a GPU.
        retries: how often a unit is tried again when its worker dies.
    """

    address: str | None = None
    workers: int = 2
    gpus: float = 0.0
    retries: int = 3

    def part(self, given: tuple[int, int] | None) -> tuple[int, int] | None:
        """See :class:`Executor`."""
        return given

    def run(self, work: Work, units: Sequence[int], report: Report) -> None:
        """See :class:`Executor`.

        Raises:
            ExecutorError: no cluster there, or a worker died over the same unit again and again.
            UsageError: the store is in this process's memory.
            MissingDependencyError: Ray is not installed.
        """
        shared_place(work)
        gpus = self.gpus or (1.0 if work.plan.device == "cuda" else 0.0)
        ray = OnRay(self.address, self.workers, gpus, self.retries)

        def done(_: int, written: list[Written]) -> None:
            for each in written:
                report(each)

        try:
            shared = ray.share(replace(work, model=work.model.cpu()))
            ray.run(_on_ray, (([shared], unit) for unit in units), done, lambda: None)
        finally:
            ray.close()


def _on_ray(shared: Sequence[Any], unit: int, tick: Any = None) -> list[Written]:
    """Compute one unit in a worker of Ray's."""
    written: list[Written] = []
    _fetched(shared[0]).run([unit], written.append)
    return written


@lru_cache(maxsize=1)
def _fetched(reference: Any) -> Work:
    """The work that a reference stands for, kept for the worker's next unit."""
    import ray

    work: Work = ray.get(reference)
    return work

"""The workers, each a thread with its own models, and the queue of the requests that wait."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from fullgrad.app.refusal import Refusal
from fullgrad.vision.models import LoadedModel

_EVERY = 0.1  # seconds between two reports of the same stage


class Abandoned(BaseException):
    """Stops a computation whose result nobody waits for.

    It is not an ``Exception``: no code on the way may take it for a failure of the model.
    """


@dataclass(frozen=True, slots=True)
class Progress:
    """Says how far a job is.

    Args:
        stage: ``waiting``, ``reading``, ``explaining`` or ``drawing``.
        text: the stage in words.
        done: the passes through the model so far, where their number is known.
        of: their number.
    """

    stage: str
    text: str
    done: int | None = None
    of: int | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """Says that a job ended with a result."""

    result: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """Says that a job ended with an error."""

    error: BaseException


Event: TypeAlias = Progress | Done | Failed


class Steps:
    """Reports a computation's stages, and stops it when nobody waits for it any more.

    Args:
        tell: receives the reports, in the worker's thread.
    """

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self._abandoned = threading.Event()
        self._stage = self._text = ""
        self._done = 0
        self._of: int | None = None
        self._told = 0.0

    def abandon(self) -> None:
        """Stop at the next step."""
        self._abandoned.set()

    def stage(self, stage: str, text: str, of: int | None = None) -> None:
        """Begin a stage.

        Args:
            stage: the stage's name.
            text: the stage in words.
            of: the number of its passes through the model, if that is known.

        Raises:
            Abandoned: nobody waits any more.
        """
        self._check()
        self._stage, self._text, self._done, self._of = stage, text, 0, of
        self._report()

    def forward(self) -> None:
        """Count one more pass through the model, which begins now.

        Raises:
            Abandoned: nobody waits any more.
        """
        self._check()
        self._done += 1
        if self._of is not None and time.monotonic() - self._told >= _EVERY:
            self._report()

    def _check(self) -> None:
        if self._abandoned.is_set():
            raise Abandoned

    def _report(self) -> None:
        self._told = time.monotonic()
        if self._of is None:
            self._tell(Progress(self._stage, self._text))
        else:  # the pass that has begun is not done
            done = min(max(self._done - 1, 0), self._of)
            self._tell(Progress(self._stage, self._text, done, self._of))


class WorkerModels:
    """Holds one worker's copies of the models, and counts the passes through them.

    Args:
        models: the copies.
    """

    def __init__(self, models: Sequence[LoadedModel]) -> None:
        self.models = tuple(models)
        self._steps: Steps | None = None
        for model in self.models:
            model.module.register_forward_pre_hook(self._forward)

    def _forward(self, module: nn.Module, args: Any) -> None:
        if self._steps is not None:
            self._steps.forward()

    def count_for(self, steps: Steps | None) -> None:
        """Choose the computation for which passes are counted."""
        self._steps = steps


class Job:
    """Holds a request's computation.

    Args:
        run: the computation, called in a worker's thread.
        tell: receives what happens, from several threads; the last call is with a :class:`Done` or
            :class:`Failed`, unless the job was dropped.
    """

    def __init__(
        self, run: Callable[[WorkerModels, Steps], Any], tell: Callable[[Event], None]
    ) -> None:
        self.run, self.tell = run, tell
        self.steps = Steps(tell)


class Pool:
    """Runs jobs in worker threads, first come, first served.

    Args:
        workers: the models of each worker.
        most: the number of jobs that may wait.
        after: called in the worker's thread after each job.
    """

    def __init__(
        self, workers: Sequence[WorkerModels], most: int, after: Callable[[], None] = lambda: None
    ) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running = 0
        self._closed = False
        self._most, self._after = most, after
        self._threads = [
            threading.Thread(target=self._work, args=(b,), name=f"worker {i}", daemon=True)
            for i, b in enumerate(workers, 1)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Count the jobs that wait."""
        with self._changed:
            return len(self._waiting)

    @property
    def running(self) -> int:
        """Count the jobs that a worker computes."""
        with self._changed:
            return self._running

    def submit(self, job: Job) -> None:
        """Put a job into the queue.

        Raises:
            Refusal: too many wait already, or the pool is closed.
        """
        with self._changed:
            if self._closed:
                raise Refusal("The viewer is stopping.", "busy", 503)
            if len(self._waiting) >= self._most:
                raise Refusal(
                    f"{len(self._waiting)} requests are waiting already. Try again in a moment.",
                    "busy",
                    503,
                )
            self._waiting.append(job)
            self._place(job, len(self._waiting))
            self._changed.notify()

    def drop(self, job: Job) -> None:
        """Remove a job from the queue, or stop it at its next step."""
        job.steps.abandon()
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                self._places()

    def close(self, seconds: float = 0.0) -> bool:
        """Drop all jobs and let the workers end.

        Args:
            seconds: the longest time to wait for them.

        Returns:
            Whether all have ended.
        """
        with self._changed:
            self._closed = True
            dropped = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for job in dropped:
            job.tell(Failed(Refusal("The viewer is stopping.", "busy", 503)))
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _places(self) -> None:
        for place, job in enumerate(self._waiting, 1):
            self._place(job, place)

    def _place(self, job: Job, place: int) -> None:
        free = len(self._threads) - self._running
        before = max(0, place - 1 - free)
        if before:
            text = f"{before} request{'s' * (before > 1)} to be begun before this one"
        elif place > free:
            text = "next, as soon as a worker is free"
        else:
            text = "about to begin"
        job.tell(Progress("waiting", text))

    def _work(self, worker: WorkerModels) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                job = self._waiting.popleft()
                self._running += 1
                self._places()
            try:
                worker.count_for(job.steps)
                outcome = _outcome(job, worker)
            finally:
                worker.count_for(None)
                with self._changed:
                    self._running -= 1
            if outcome is not None:
                job.tell(outcome)
            del job, outcome  # what they hold must not stay until the next job comes
            self._after()


def _outcome(job: Job, worker: WorkerModels) -> Done | Failed | None:
    try:
        return Done(job.run(worker, job.steps))
    except Abandoned:
        return None
    except BaseException as error:
        return Failed(error)

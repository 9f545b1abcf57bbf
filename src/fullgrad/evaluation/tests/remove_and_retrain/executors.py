"""Where stages are worked on: in this process, or on Ray's workers."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeAlias

from fullgrad._optional import require
from fullgrad.errors import FullGradError

Call: TypeAlias = "tuple[Any, ...]"  # arguments; large ones through Executor.share

EXECUTORS = ("here", "ray")
_PATIENCE = 5.0  # seconds


class ExecutorError(FullGradError):
    """Work cannot be handed out, or a worker failed for good."""


class Executor(Protocol):
    """Does work, and reports each piece when it is done.

    ``here`` tells whether the work is done in this process, which may write to the store.
    """

    here: bool

    def share(self, value: Any) -> Any:
        """A value that many calls are given, in a form that is cheap to hand out."""

    def run(
        self,
        function: Callable[..., Any],
        calls: Iterable[Call],
        done: Callable[[int, Any], None],
        tick: Callable[[], None],
    ) -> None:
        """Call the function once for each of the calls.

        Args:
            function: called as ``function(*call)``, perhaps with ``tick=``.
            calls: taken one by one, as room is found for them.
            done: told the call's number and what came back.
            tick: for progress inside a call, where that can be seen.
        """


class InProcess:
    """One call after the other, here."""

    here = True

    def share(self, value: Any) -> Any:
        """The value itself."""
        return value

    def run(
        self,
        function: Callable[..., Any],
        calls: Iterable[Call],
        done: Callable[[int, Any], None],
        tick: Callable[[], None],
    ) -> None:
        """See :class:`Executor`."""
        for number, call in enumerate(calls):
            done(number, function(*call, tick=tick))


def _reach(address: str) -> None:
    """See quickly that somebody listens; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), _PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ExecutorError(f"no Ray cluster at {address!r}: {error}") from error


class OnRay:
    """Tasks of a Ray cluster; one whose worker dies is tried again.

    Results come back to this process, which alone writes to the store, so the workers need no
    common folder.

    Args:
        address: of a cluster (``auto``, ``host:port``, ``ray://host:port``); None starts one on
            this machine, which ends with :meth:`close`.
        workers: tasks at a time; on a cluster of this machine also its processors.
        gpus: a task's share of a GPU.
        retries: how often a task is tried again when its worker dies.

    Raises:
        ExecutorError: no cluster there.
        MissingDependencyError: Ray is not installed.
    """

    here = False

    def __init__(
        self, address: str | None = None, workers: int = 2, gpus: float = 0.0, retries: int = 3
    ) -> None:
        self._ray: Any = require("ray", "ray")
        self._workers, self._gpus, self._retries = workers, gpus, retries
        if address is not None:
            _reach(address)
        here = {"num_cpus": workers, "include_dashboard": False} if address is None else {}
        self._own = not self._ray.is_initialized()
        try:
            self._ray.init(
                address=address,
                ignore_reinit_error=True,
                log_to_driver=False,
                logging_level="ERROR",
                **here,
            )
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            text = str(error).strip().split("\n", maxsplit=1)[0]
            where = f"no Ray cluster at {address!r}" if address else "Ray does not start"
            raise ExecutorError(f"{where}: {text}") from error

    def share(self, value: Any) -> Any:
        """A reference into Ray's object store."""
        return None if value is None else self._ray.put(value)

    def run(
        self,
        function: Callable[..., Any],
        calls: Iterable[Call],
        done: Callable[[int, Any], None],
        tick: Callable[[], None],
    ) -> None:
        """See :class:`Executor`; ``tick`` is not called."""
        remote = self._ray.remote(num_cpus=1, num_gpus=self._gpus, max_retries=self._retries)(
            function
        )
        waiting: dict[Any, int] = {}
        try:
            for number, call in enumerate(calls):
                waiting[remote.remote(*call)] = number
                while len(waiting) >= self._workers:
                    self._one(waiting, done)
            while waiting:
                self._one(waiting, done)
        finally:
            for reference in waiting:
                self._ray.cancel(reference, force=True)

    def _one(self, waiting: dict[Any, int], done: Callable[[int, Any], None]) -> None:
        (reference, *_), _ = self._ray.wait(list(waiting), num_returns=1)
        number = waiting.pop(reference)
        try:
            result = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, FullGradError):
                raise error.cause from error
            raise
        except self._ray.exceptions.RayError as error:
            raise ExecutorError(
                f"a worker died more than {self._retries} times over the same task: "
                f"{str(error).strip().splitlines()[0]}"
            ) from error
        done(number, result)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if self._own:
            self._ray.shutdown()

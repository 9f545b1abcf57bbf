"""Each task in a process of its own: a method that kills it is named, and the others are measured.

``python -m benchmarks.isolated TASK FOLDER`` is the child. FOLDER/outcomes.jsonl receives the
outcomes, one line of JSON each, and FOLDER/current the method at work, so that the parent knows
which method it was if the child dies.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import memory
from benchmarks.measure import measure
from benchmarks.subjects import build
from benchmarks.tasks import Task
from benchmarks.timing import describe

ROOT = Path(__file__).resolve().parents[1]
# Without warnings, which are other packages' deprecations.
COMMAND = (sys.executable, "-W", "ignore", "-m", "benchmarks.isolated")
OUTCOMES, CURRENT = "outcomes.jsonl", "current"
# glibc returns every larger block to the system at once, so that resident memory is what is used.
_RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


class WorkerError(Exception):
    """The child process ended by an error that is not a method's."""


def run(task: Task, command: Sequence[str] = COMMAND) -> dict[str, Any]:
    """Measure one task.

    Args:
        task: what to measure; of kind ``memory``, each method has a process of its own.
        command: the child process, without its arguments.

    Returns:
        The outcome of each of the task's methods, in their order.

    Raises:
        WorkerError: the child could not do its work at all.
    """
    outcomes: dict[str, Any] = {}
    if task.kind == "memory":
        for name in task.methods:
            outcomes |= _until_done(replace(task, methods=(name,)), command)
    else:
        outcomes = _until_done(task, command)
    return {name: outcomes[name] for name in task.methods}


def _until_done(task: Task, command: Sequence[str]) -> dict[str, Any]:
    outcomes: dict[str, Any] = {}
    while missing := tuple(name for name in task.methods if name not in outcomes):
        found, died = _child(replace(task, methods=missing), command)
        outcomes |= found
        if died is not None:
            at_work, why = died
            if at_work in missing:
                outcomes[at_work] = {"failed": why}
            else:  # the model itself, or the baseline, which the rest needs as well
                outcomes |= {name: {"failed": why} for name in missing if name not in outcomes}
    return outcomes


def _child(task: Task, command: Sequence[str]) -> tuple[dict[str, Any], tuple[str, str] | None]:
    """The outcomes that one process told; if it was killed, at which method and by what."""
    environment = os.environ | (_RETURN_MEMORY if task.kind == "memory" else {})
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as stream:
            child = subprocess.Popen(
                [*command, json.dumps(task.as_dict()), folder],
                cwd=ROOT,
                env=environment,
                stdout=stream,
                stderr=stream,
                stdin=subprocess.DEVNULL,
            )
            try:
                code = child.wait()
            except BaseException:  # interrupted: the child must not go on alone
                child.kill()
                child.wait()
                raise
        said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        found, at_work = _read(Path(folder))
    if code == 0 and set(found) == set(task.methods):
        return found, None
    if code >= 0:
        last = said[-1].strip() if said else "it said nothing"
        raise WorkerError(f"measuring {task} ended with code {code}: {last}")
    return found, (at_work, _killed(-code))


def _read(folder: Path) -> tuple[dict[str, Any], str]:
    lines = folder / OUTCOMES
    found = {}
    for line in lines.read_text().splitlines(keepends=True) if lines.exists() else ():
        if line.endswith("\n"):  # else the process died while it wrote
            told = json.loads(line)
            found[told["method"]] = told["outcome"]
    current = folder / CURRENT
    return found, current.read_text() if current.exists() else ""


def _killed(number: int) -> str:
    name = signal.Signals(number).name
    memory = ", perhaps out of memory" if name in {"SIGKILL", "SIGABRT", "SIGSEGV"} else ""
    return f"killed ({name}{memory})"


def main(argv: list[str]) -> int:
    """Measure one task.

    Args:
        argv: the task in JSON, and the folder.

    Returns:
        0: every method has an outcome, if only that it failed.
    """
    task, folder = Task.from_dict(json.loads(argv[0])), Path(argv[1])
    if task.device == "cpu":
        memory.limit_data(task.memory_limit)
    with (folder / OUTCOMES).open("a") as outcomes, (folder / CURRENT).open("w") as current:

        def announce(name: str) -> None:
            current.seek(0)
            current.write(name)
            current.truncate()
            current.flush()

        try:
            workload = build(
                task.model, task.batch, task.size, getattr(torch, task.dtype), task.device
            )
        except (MemoryError, RuntimeError) as error:
            found = iter([(n, {"failed": f"model: {describe(error)}"}) for n in task.methods])
        else:
            found = measure(task, workload, announce)
        for name, outcome in found:
            outcomes.write(json.dumps({"method": name, "outcome": outcome}) + "\n")
            outcomes.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

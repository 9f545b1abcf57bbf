"""What a child process does with its task: warm up, measure group by group, tell each outcome."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch

from benchmarks import memory
from benchmarks.methods import BASELINE, METHODS, Call, NotApplicableError, groups
from benchmarks.subjects import Workload
from benchmarks.tasks import Task
from benchmarks.timing import Times, describe, interleave, rounds_for, spread

FEWEST, MOST, BUDGET = 9, 31, 4.0  # rounds of the cheap methods; seconds
HEAVY_MOST, HEAVY_BUDGET = 3, 60.0
_WARM_CALLS, _WARM_SECONDS = 2, 20.0
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}

Outcome = dict[str, Any]
Announce = Callable[[str], Any]


class _Process:
    """This process between two calls: no garbage, no ``.grad``, and no work left on the GPU."""

    def __init__(self, workload: Workload, device: str, announce: Announce) -> None:
        self._workload = workload
        self._announce = announce
        self._cuda = device == "cuda"
        self.free()

    def before(self, name: str) -> None:
        self._announce(name)
        self._workload.model.zero_grad(set_to_none=True)
        gc.collect()
        self.finish()

    def finish(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()

    def free(self) -> None:
        gc.collect()
        gc.freeze()  # all that is loaded by now, so that collecting the rest is quick
        if self._cuda:
            torch.cuda.empty_cache()


def measure(task: Task, workload: Workload, announce: Announce) -> Iterator[tuple[str, Outcome]]:
    """Measure one task.

    Args:
        task: what to measure.
        workload: model and inputs.
        announce: is called with the name of each method ahead of each of its calls.

    Yields:
        Each method's name and outcome, as soon as it is known. An outcome is ``{"failed": why}``
        or numbers.
    """
    if task.kind == "memory":
        for name in task.methods:
            announce(name)
            yield name, _memory(name, workload, task)
        return
    process = _Process(workload, task.device, announce)
    try:
        together = [task.methods] if task.kind == "compiled" else groups(task.methods)
        for members in together:
            core = METHODS[members[-1]].group in ("core", "compiled")
            for name, outcome in _group(members, task, workload, process).items():
                if name in task.methods and (core or name != BASELINE):
                    yield name, outcome
            process.free()
    finally:
        gc.unfreeze()


def _group(
    members: tuple[str, ...], task: Task, workload: Workload, process: _Process
) -> dict[str, Outcome]:
    """The outcomes of the methods that take turns with each other."""
    group = METHODS[members[-1]].group
    calls: dict[str, Call] = {}
    estimates: dict[str, float] = {}
    failures: dict[str, str] = {}
    for name in members:
        process.before(name)
        try:
            call = METHODS[name].prepare(workload)
            estimates[name] = _warm_up(name, call, process)
            if group == "heavy" and name != BASELINE:
                _check_longest(estimates[name], task.longest)
            calls[name] = call
        except Exception as error:
            failures[name] = describe(error)
            process.free()
    times = Times()
    if BASELINE in calls and (group in ("core", "compiled") or len(calls) > 1):
        rounds = _rounds(task.rounds, sum(estimates[name] for name in calls), group)
        runs = {name: call.run for name, call in calls.items()}
        process.free()
        clock = CLOCKS[task.clock]
        times = interleave(runs, rounds, clock=clock, before=process.before, finish=process.finish)
    times.failures |= failures
    if BASELINE in times.failures:
        lost = f"the baseline failed: {times.failures[BASELINE]}"
        times.failures = dict.fromkeys(members, lost) | times.failures
    return {
        name: _outcome(name, times, calls)
        for name in members
        if name in times.seconds or name in times.failures
    }


def _warm_up(name: str, call: Call, process: _Process) -> float:
    """Call it until it is warm; about how many seconds the whole method takes."""
    started, seconds = time.perf_counter(), 0.0
    for _ in range(_WARM_CALLS):
        process.before(name)
        start = time.perf_counter()
        call.warm()
        process.finish()
        seconds = time.perf_counter() - start
        if time.perf_counter() - started > _WARM_SECONDS:
            break
    return seconds * call.scale


def _check_longest(seconds: float, longest: float) -> None:
    if seconds > longest:
        raise NotApplicableError(
            f"not measured: one call would take about {seconds:.0f} s (--longest {longest:g})"
        )


def _rounds(asked: int | None, seconds: float, group: str) -> int:
    if asked is not None:
        return min(asked, HEAVY_MOST) if group == "heavy" else asked
    if group == "heavy":
        return rounds_for(seconds, 1, HEAVY_MOST, HEAVY_BUDGET)
    return rounds_for(seconds, FEWEST, MOST, BUDGET)


def _outcome(name: str, times: Times, calls: Mapping[str, Call]) -> Outcome:
    if name in times.failures:
        return {"failed": times.failures[name]}
    seconds, ratios = times.seconds[name], times.ratios(name, BASELINE)
    making = calls[name].making
    made = {}
    if making is not None:
        made = {"making": round(making[0], 2), "making_processor": round(making[1], 2)}
    return made | {
        "seconds": {k: float(f"{v:.6g}") for k, v in asdict(spread(seconds)).items()},
        "ratio": {k: float(f"{v:.6g}") for k, v in asdict(spread(ratios)).items()},
        "seconds_of_rounds": [float(f"{s:.6g}") for s in seconds],
        "baseline_of_rounds": [float(f"{s:.6g}") for s in times.seconds[BASELINE]],
    }


def _memory(name: str, workload: Workload, task: Task) -> Outcome:
    try:
        METHODS[name].prepare(_first_sample(workload)).warm()  # loads libraries, compiles kernels
        call = METHODS[name].prepare(workload)
        if METHODS[name].group == "heavy":
            start = time.perf_counter()
            call.warm()
            _check_longest((time.perf_counter() - start) * call.scale, task.longest)
        resident = memory.resident_growth(call.run)
        workload.model.zero_grad(set_to_none=True)
        return {"tensors": memory.tensor_peak(call.run, task.device), "resident": resident}
    except Exception as error:
        return {"failed": describe(error)}


def _first_sample(workload: Workload) -> Workload:
    return Workload(workload.model, workload.x[:1], workload.target[:1])

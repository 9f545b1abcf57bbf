"""The benchmarks measure what they say, each task in a process of its own, and report failures."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import guard, isolated, memory
from benchmarks.environment import Environment
from benchmarks.growth import CONVOLUTIONS
from benchmarks.measure import measure
from benchmarks.methods import (
    BASELINE,
    CORE,
    METHODS,
    NotApplicableError,
    groups,
    input_gradient,
    of_kind,
)
from benchmarks.subjects import SUBJECTS, make_lively, workload
from benchmarks.tasks import Task
from benchmarks.timing import Spread, describe, interleave, rotated, rounds_for, spread
from torch import nn

HERE = Environment(
    "cpu", "a CPU", "a CPU", 2, "3.11", "2.6", "0.21", "0.8", "1.5", "0.1", "abc", "c0ffee", "today"
)
TIMED = of_kind("time", tuple(METHODS))
TASK = Task("time", "resnet18", 2, 64, "float32", "cpu", TIMED)


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


# -- timing -----------------------------------------------------------------------------------


class Clock:
    """A clock that each call moves on by what the call takes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def call(self, name: str, *takes: float) -> Any:
        durations = itertools.cycle(takes)

        def run() -> None:
            self.order.append(name)
            self.now += next(durations)

        return run


def test_medians_and_ratios_come_from_within_the_rounds() -> None:
    clock = Clock()
    # The machine halves its speed in the second round; the ratio does not care.
    calls = {"base": clock.call("base", 1, 2, 1), "other": clock.call("other", 3, 6, 4)}
    times = interleave(calls, 3, clock=clock)
    assert times.seconds == {"base": [1, 2, 1], "other": [3, 6, 4]}
    assert times.ratios("other", "base") == [3, 3, 4]
    assert spread(times.ratios("other", "base")) == Spread(3, 3, 3.5)
    assert spread([1, 2, 3, 4, 5]) == Spread(2, 3, 4)
    assert spread([7.0]) == Spread(7, 7, 7)


def test_each_round_begins_with_another_method() -> None:
    clock = Clock()
    interleave({n: clock.call(n, 1) for n in "abc"}, 4, clock=clock)
    assert "".join(clock.order) == "abcbcacababc"
    assert rotated([], 3) == []


def test_waiting_for_the_gpu_counts_and_tidying_up_does_not() -> None:
    clock = Clock()
    before, finish = clock.call("tidy", 100), clock.call("wait", 5)
    times = interleave(
        {"a": clock.call("a", 1)}, 2, clock=clock, before=lambda name: before(), finish=finish
    )
    assert times.seconds == {"a": [6, 6]}


def test_a_method_that_fails_leaves_the_rounds_and_the_others_go_on() -> None:
    clock = Clock()
    seen = itertools.count()

    def fails_later() -> None:
        if next(seen) == 1:
            raise RuntimeError("no more. Details follow")

    times = interleave({"a": clock.call("a", 1), "b": fails_later}, 3, clock=clock)
    assert times.seconds == {"a": [1, 1, 1]}
    assert times.failures == {"b": "RuntimeError: no more"}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (NotApplicableError("It needs a convolution."), "It needs a convolution"),
        (ValueError("one\ntwo.  Three"), "ValueError: one two"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 999), "ValueError: " + "x" * 159 + "…"),
    ],
)
def test_reasons_are_one_short_line(error: Exception, said: str) -> None:
    assert describe(error) == said


def test_rounds_fill_the_budget_within_bounds() -> None:
    assert rounds_for(0.0, 9, 31, 4) == 31
    assert rounds_for(0.2, 9, 31, 4) == 20
    assert rounds_for(60, 9, 31, 4) == 9


def test_the_baseline_is_in_every_group() -> None:
    found = groups(TIMED)
    assert all(BASELINE in members for members in found)
    assert {n for members in found for n in members} == set(TIMED)
    assert found[0][: len(CORE)] == CORE
    assert groups(("captum_ig",)) == [(BASELINE, "captum_ig")]


# -- a real run of a tiny model ---------------------------------------------------------------


def test_all_methods_on_a_tiny_model() -> None:
    work = workload(tiny(), torch.randn(2, 3, 12, 12))
    at_work: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other packages' own
        outcomes = dict(measure(replace(TASK, rounds=2), work, at_work.append))
    assert set(outcomes) == set(TIMED)
    for name, outcome in outcomes.items():
        if "failed" in outcome:  # only where a package of the extra is not installed
            assert METHODS[name].package, outcome
            assert "fullgrad[bench]" in outcome["failed"]
        else:
            assert len(outcome["seconds_of_rounds"]) == len(outcome["baseline_of_rounds"]) == 2
            assert outcome["seconds"]["low"] > 0
    assert outcomes[BASELINE]["ratio"] == {"low": 1, "median": 1, "high": 1}
    assert set(at_work) == set(TIMED)
    assert all(p.requires_grad for p in work.model.parameters())


def test_compiled_methods_take_turns_with_the_eager_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, fullgraph: graph)
    modes = of_kind(
        "compiled", ("forward", "compiled_gradient", "compiled_graph", "compiled_cudagraphs")
    )
    assert modes == (
        *(BASELINE, "saliency"),
        *("compiled_gradient", "compiled_graph", "compiled_cudagraphs"),
    )
    task = replace(TASK, kind="compiled", methods=modes, rounds=2, clock="processor")
    work = workload(tiny(), torch.randn(2, 3, 12, 12))
    outcomes = dict(measure(task, work, lambda name: None))
    assert tuple(outcomes) == modes
    for name in ("compiled_gradient", "compiled_graph"):
        assert outcomes[name]["making"] > 0 and outcomes[name]["making_processor"] >= 0
    assert "making" not in outcomes["saliency"]
    assert len(outcomes["compiled_graph"]["baseline_of_rounds"]) == 2
    assert outcomes["compiled_cudagraphs"]["failed"].startswith("OptionError: mode='cudagraphs'")


def test_an_expensive_method_that_takes_too_long_is_not_run() -> None:
    task = replace(TASK, methods=(*CORE, "captum_ig"), longest=1e-9, rounds=1)
    outcomes = dict(measure(task, workload(tiny(), torch.randn(1, 3, 12, 12)), lambda name: None))
    assert all("ratio" in outcomes[name] for name in CORE)
    reason = outcomes["captum_ig"]["failed"]
    assert reason.startswith("not measured: one call would take about") or "[bench]" in reason


def test_without_a_baseline_there_is_no_ratio() -> None:
    class Detached(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.detach().mean((2, 3))

    work = workload(Detached(), torch.randn(1, 3, 8, 8))
    outcomes = dict(measure(replace(TASK, methods=CORE, rounds=1), work, lambda name: None))
    assert outcomes[BASELINE]["failed"].startswith("RuntimeError")
    assert outcomes["forward"]["failed"].startswith("the baseline failed: RuntimeError")
    assert outcomes["saliency"]["failed"].startswith("BlockedGradientError")


def test_the_baseline_is_the_gradient_and_leaves_nothing_behind() -> None:
    work = workload(tiny(), torch.randn(2, 3, 12, 12))
    found = input_gradient(work.model, work.x, work.target)
    leaf = work.x.clone().requires_grad_()
    work.model(leaf).amax(1).sum().backward(inputs=[leaf])
    torch.testing.assert_close(found, leaf.grad)
    assert not work.x.requires_grad
    assert all(p.grad is None for p in work.model.parameters())


def test_fresh_models_are_made_lively() -> None:
    model = tiny()
    nn.init.zeros_(model[-1].weight)
    make_lively(model, 100 * torch.randn(8, 3, 12, 12))
    assert not any(m.training for m in model.modules())
    assert model[-1].weight.any()
    assert float(model[1].running_var.min()) > 10
    assert model[1].momentum == 0.1


# -- memory -----------------------------------------------------------------------------------

MIB = 2**20


def known() -> torch.Tensor:
    a = torch.ones(16 * MIB)  # 64 MiB
    b = a * 2  # and 64 more
    del a
    return b[: 8 * MIB] + 1  # 32 MiB beside b


def test_peak_of_a_known_allocation() -> None:
    alive = torch.ones(MIB)
    beyond = memory.tensor_peak(known, "cpu") - 128 * MIB
    assert 0 <= beyond < 64  # the 2 and the 1 are tensors for a moment
    assert alive.all()


RESIDENT = """
import torch
from benchmarks import memory
def known():
    a = torch.ones(16 << 20)
    b = a * 2
    del a
    return b[: 8 << 20] + 1
print(memory.resident_growth(known))
"""


def test_resident_memory_of_a_known_allocation() -> None:
    # In a process of its own: one that has freed much before tells too little.
    run = subprocess.run(
        [sys.executable, "-c", RESIDENT],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    if run.stdout.strip() == "None":
        pytest.skip("this system does not tell")
    assert 0.9 * 128 * MIB < int(run.stdout) < 1.2 * 128 * MIB


def test_what_the_trace_says_is_summed_in_order() -> None:
    def event(at: float, size: int, device: int = 0) -> dict[str, Any]:
        return {"name": "[memory]", "ts": at, "args": {"Bytes": size, "Device Type": device}}

    events = [event(3, -5), event(1, 5), event(2, 7), event(2.5, 99, 1), {"name": "aten::add"}]
    assert memory.peak_of_trace([*events, event(4, 4)]) == 12
    assert memory.peak_of_trace([]) == 0


def test_the_gpu_is_asked_for_its_peak_above_what_was_there(monkeypatch: Any) -> None:
    steps: list[str] = []
    for name, result in {
        "synchronize": None,
        "reset_peak_memory_stats": None,
        "memory_allocated": 100,
        "max_memory_allocated": 350,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda n=name, r=result: steps.append(n) or r)
    assert memory.tensor_peak(lambda: steps.append("call"), "cuda") == 250
    assert steps == [
        "synchronize",
        "reset_peak_memory_stats",
        "memory_allocated",
        "call",
        "synchronize",
        "max_memory_allocated",
    ]


_LIMITED = """
import torch
from benchmarks import memory
from benchmarks.timing import describe

memory.limit_data(0.05)
try:
    torch.ones(2**27)
except RuntimeError as error:
    print(describe(error))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of a Linux process")
def test_a_process_that_is_limited_fails_instead_of_dying() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED],
        cwd=isolated.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "out of memory\n"


# -- processes --------------------------------------------------------------------------------

_WORKER = """
import json, os, signal, sys
task, folder = json.loads(sys.argv[1]), sys.argv[2]
{before}
with open(folder + "/outcomes.jsonl", "w") as out:
    for name in task["methods"]:
        open(folder + "/current", "w").write(name)
        if name == "{kills}":
            os.kill(os.getpid(), signal.SIGKILL)
        out.write(json.dumps({{"method": name, "outcome": {{"by": os.getpid()}}}}) + "\\n")
        out.flush()
"""


def fake_worker(folder: Path, kills: str = "", before: str = "") -> tuple[str, str]:
    script = folder / "worker.py"
    script.write_text(_WORKER.format(kills=kills, before=before))
    return sys.executable, str(script)


def test_a_killed_method_is_named_and_the_others_are_measured(tmp_path: Path) -> None:
    outcomes = isolated.run(TASK, fake_worker(tmp_path, kills="captum_gradcam"))
    assert list(outcomes) == list(TIMED)
    killed = outcomes.pop("captum_gradcam")
    assert killed == {"failed": "killed (SIGKILL, perhaps out of memory)"}
    assert len({outcome["by"] for outcome in outcomes.values()}) == 2


def test_every_method_has_its_own_process_for_memory(tmp_path: Path) -> None:
    outcomes = isolated.run(replace(TASK, kind="memory"), fake_worker(tmp_path))
    assert len({outcome["by"] for outcome in outcomes.values()}) == len(TIMED)


def test_a_death_before_any_method_is_everyones(tmp_path: Path) -> None:
    worker = fake_worker(tmp_path, before="os.kill(os.getpid(), signal.SIGKILL)")
    outcomes = isolated.run(TASK, worker)
    assert all("SIGKILL" in outcome["failed"] for outcome in outcomes.values())


def test_a_broken_worker_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(isolated.WorkerError, match="code 1: ZeroDivisionError"):
        isolated.run(TASK, fake_worker(tmp_path, before="1 / 0"))


# -- the guard --------------------------------------------------------------------------------


def flat(*medians: float) -> Any:
    values = iter(medians)

    def give(model: str) -> Spread:
        median = next(values)
        return Spread(median - 0.1, median, median + 0.1)

    return give


def test_the_guard_passes_at_once(capsys: Any) -> None:
    assert guard.main([], flat(1.2, 1.3), {"resnet18": 1.35, "mobilenet_v3_large": 1.9}) == 0
    out = capsys.readouterr().out
    assert "resnet18, attempt 1: saliency / (forward + input-gradient) = 1.20" in out
    assert "mobilenet_v3_large: 1.30 is within the limit of 1.9" in out


def test_the_guard_passes_if_any_attempt_does(capsys: Any) -> None:
    assert guard.main([], flat(9.0, 1.36, 1.35), {"resnet18": 1.35}) == 0
    assert capsys.readouterr().out.count("attempt") == 3


def test_the_guard_fails_and_names_ratio_and_limit(capsys: Any) -> None:
    assert guard.main([], flat(1.7, 1.5, 1.6, 1.0), {"resnet18": 1.35, "vgg16_bn": 1.9}) == 1
    assert capsys.readouterr().err == (
        "guard: failed: resnet18: saliency took 1.50 times as long as forward + input-gradient in "
        "the best of 3 attempts; the limit is 1.35\n"
    )


def test_the_guard_fails_where_nothing_can_be_measured(capsys: Any) -> None:
    def refuses(model: str) -> Spread:
        raise guard.GuardError(f"{model}: saliency failed: LayoutError")

    assert guard.main([], refuses) == 1
    assert "guard: error: resnet18: saliency failed" in capsys.readouterr().err


def test_the_guards_models_are_known() -> None:
    assert set(guard.LIMITS) <= {*SUBJECTS, *guard.SERIES}
    assert set(CONVOLUTIONS) <= set(SUBJECTS)


def test_the_guard_measures_a_real_ratio(monkeypatch: Any) -> None:
    work = workload(tiny(), torch.randn(1, 3, 12, 12))
    monkeypatch.setattr(guard, "build", lambda *_: work)
    assert guard.measured("resnet18", rounds=2).median > 1


def test_experiments_take_turns_and_report_medians() -> None:
    from benchmarks import experiments

    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    found = experiments.medians(calls, 2)
    assert set(found) == set("abc")
    assert order == [*"abc", *"bca", *"cab"]
    assert all(0 <= ms < 100 for ms in found.values())


def test_a_profile_says_where_the_time_goes(
    monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import experiments

    monkeypatch.setattr(
        experiments, "build", lambda *_: workload(tiny(), torch.randn(1, 3, 12, 12))
    )
    assert experiments.main(["--profile", "--models", "resnet18", "--rounds", "1"]) == 0
    said = capsys.readouterr().out
    head = re.search(r"resnet18, batch 8: map [\d.]+ ms, gradient [\d.]+ ms, (\d+) function", said)
    assert head is not None and int(head[1]) > 500
    lines = [line for line in said.splitlines()[2:] if "%" in line]
    shares = dict(reversed(line.split(maxsplit=1)) for line in lines)
    assert {"fullgrad.engine", "fullgrad.maps", "back-propagation"} <= {*shares}
    assert 90 < sum(float(s.rstrip("%")) for s in shares.values()) < 101
    for call in ("map", "gradient"):
        assert re.search(rf"{call}: \d+ page faults; \d+ ms, the system \d+ ms more", said)


def test_experiments_refuse_nonsense(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import experiments

    for arguments, message in ((["--rounds", "0"], "at least 1"), (["--models", "x"], "resnet18")):
        with pytest.raises(SystemExit) as stopped:
            experiments.main(arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err

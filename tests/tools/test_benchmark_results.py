"""The benchmarks keep what they measured, resume, and make tables, plots and a page of it."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import __main__ as command_line
from benchmarks import page, runner, tables
from benchmarks.environment import Environment, source_digest
from benchmarks.methods import BASELINE, CORE, METHODS
from benchmarks.results import ResultsError, Store, read
from benchmarks.subjects import COMPARED
from benchmarks.tables import MIB
from benchmarks.tasks import KEY, Task

HERE = Environment(
    "cpu", "a CPU", "a CPU", 2, "3.11", "2.6", "0.21", "0.8", "1.5", "0.1", "abc", "c0ffee", "today"
)
TASK = Task("time", "resnet18", 2, 64, "float32", "cpu", tuple(METHODS))


# -- results ----------------------------------------------------------------------------------


def numbers(ratio: float, rounds: int = 9) -> dict[str, Any]:
    return {
        "seconds": {"low": 0.1, "median": 0.1 * ratio, "high": 0.2},
        "ratio": {"low": ratio * 0.99, "median": ratio, "high": ratio * 1.01},
        "seconds_of_rounds": [0.1 * ratio] * rounds,
        "baseline_of_rounds": [0.1] * rounds,
    }


def outcomes_of(task: Task) -> dict[str, Any]:
    if task.kind == "memory":
        return {n: {"tensors": 2 * MIB, "resident": None} for n in task.methods}
    found = {n: numbers(1.0 + 10 * i, 1 if i > 5 else 9) for i, n in enumerate(task.methods)}
    found[BASELINE] = numbers(1.0)
    return found


def measured_environment(**changes: Any) -> Environment:
    return replace(HERE, source=source_digest(), **changes)


def test_finished_cells_are_not_measured_again(tmp_path: Path) -> None:
    path, here = tmp_path / "data" / "benchmarks-cpu.jsonl", measured_environment()
    tasks = runner.plan(
        ("time", "growth"), ["resnet18"], [1, 2], ["float32"], "cpu", CORE, quick=True
    )
    done: list[Task] = []

    def interrupted(task: Task) -> dict[str, Any]:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(task)
        return outcomes_of(task)

    with pytest.raises(KeyboardInterrupt):
        runner.measure_all(
            tasks, Store(path, here), here, measure=interrupted, say=lambda line: None
        )
    with path.open("a") as file:
        file.write('{"kind": "time", "mod')  # the interruption cut a line short
    again: list[Task] = []
    said: list[str] = []
    runner.measure_all(
        tasks,
        Store(path, here),
        here,
        measure=lambda task: again.append(task) or outcomes_of(task),
        say=said.append,
    )
    assert [*done, *again] == tasks
    assert said[0].startswith(f"3 of {len(tasks)} cells are in")
    environment, records = read(path)
    assert environment == here.as_dict()
    assert [tuple(r[k] for k in KEY) for r in records] == [t.key for t in tasks]


def test_progress_tells_failures_and_the_time_left(tmp_path: Path) -> None:
    here = measured_environment()
    clock = itertools.count(step=30.0)
    said: list[str] = []
    runner.measure_all(
        [replace(TASK, batch=b) for b in (1, 2, 3)],
        Store(tmp_path / "x.jsonl", here),
        here,
        say=said.append,
        clock=lambda: next(clock),
        measure=lambda task: {"saliency": {"failed": "LayoutError: somewhere"}},
    )
    assert said[0] == "[1/3] time resnet18, batch 1, 64 px, float32"
    assert said[1] == "    saliency: LayoutError: somewhere"
    assert said[2] == "    30 s; about 61 s left"  # larger batches take longer
    assert [runner.duration(s) for s in (3, 100, 6000)] == ["3 s", "2 min", "1.7 h"]


def test_another_environments_results_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks-cpu.jsonl"
    Store(path, HERE).add(TASK, outcomes_of(TASK), 1.0)
    other = replace(HERE, threads=4, source="def", date="tomorrow", commit="beef")
    with pytest.raises(ResultsError, match="threads was 2, is 4; source was abc, is def"):
        Store(path, other)
    assert Store(path, replace(HERE, date="tomorrow", commit="beef")).done(TASK)
    assert not Store(path, HERE).done(replace(TASK, dtype="bfloat16"))
    assert not Store(path, other, fresh=True).done(TASK)
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "does not begin"),
        ("[]\n", "does not begin"),
        ('{"environment": {}}\nnonsense\n{}\n', "line 2, is not JSON"),
        ('{"environment": {}}\n{"kind": "time"}\n', "line 2, is not a measured cell"),
    ],
)
def test_a_file_that_is_no_results_file_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(ResultsError, match=why):
        read(path)


def test_changed_source_stops_the_run(tmp_path: Path) -> None:
    store = Store(tmp_path / "x.jsonl", HERE)
    with pytest.raises(ResultsError, match="source changed"):
        runner.measure_all([TASK], store, HERE, measure=outcomes_of, say=lambda line: None)


def test_the_digest_follows_the_measured_code_only(tmp_path: Path) -> None:
    (tmp_path / "cli").mkdir()
    (tmp_path / "a.py").write_text("1")
    first = source_digest(tmp_path)
    (tmp_path / "cli" / "b.py").write_text("1")
    assert source_digest(tmp_path) == first
    (tmp_path / "a.py").write_text("2")
    assert source_digest(tmp_path) != first


def test_tasks_survive_json() -> None:
    assert Task.from_dict(json.loads(json.dumps(TASK.as_dict()))) == TASK


def test_memory_is_planned_for_one_batch() -> None:
    tasks = runner.plan(("time", "memory"), COMPARED, (1, 8, 32), ("float32",), "cpu", CORE)
    assert len(tasks) == len(COMPARED) * 4
    assert {t.batch for t in tasks if t.kind == "memory"} == {8}
    assert len({t.key for t in tasks}) == len(tasks)


# -- tables, page and plots -------------------------------------------------------------------


def record(task: Task, outcomes: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(task, name) for name in KEY} | {"rounds": None, "methods": outcomes}


def test_a_failure_is_a_dash_with_its_reason() -> None:
    first = outcomes_of(TASK)
    first["saliency"] = {"failed": "LayoutError: a | b"}
    second = dict(first, captum_ig={"failed": "out of memory"})
    records = [record(replace(TASK, batch=8), second), record(TASK, first)]
    notes = tables.Footnotes("x")
    header, rule, small, large = tables.ratios(records, notes)
    assert header.startswith("| model | batch | forward + input-gradient | forward |")
    assert header.count("|") == rule.count("|") == small.count("|") == large.count("|")
    assert small.startswith("| ResNet-18 | 2 | 100 ms | 1.00 (0.99–1.01) |")
    assert "–[^x1]" in small and "–[^x1]" in large and "–[^x2]" in large
    assert "| 61.0 |" in small  # one round has no quartiles
    assert notes.lines() == ["[^x1]: LayoutError: a \\| b", "[^x2]: out of memory"]


def test_memory_is_told_as_a_multiple() -> None:
    outcomes = {
        BASELINE: {"tensors": 10 * MIB, "resident": 20 * MIB},
        "saliency": {"tensors": 15 * MIB, "resident": None},
        "captum_ig": {"failed": "out of memory"},
    }
    task, notes = replace(TASK, kind="memory"), tables.Footnotes()
    row = tables.memory([record(task, outcomes)], notes, "tensors")[2]
    assert row == "| ResNet-18 | 2 | 10.0 MiB | 1.50 | –[^1] |"
    row = tables.memory([record(task, outcomes)], notes, "resident")[2]
    assert row == "| ResNet-18 | 2 | 20.0 MiB | –[^2] | –[^1] |"
    fewer = record(replace(task, batch=8), {n: outcomes[n] for n in (BASELINE, "captum_ig")})
    row = tables.memory([record(task, outcomes), fewer], notes, "tensors")[3]
    assert row == "| ResNet-18 | 8 | 10.0 MiB | –[^3] | –[^1] |"  # under their own heads


def test_compiled_methods_are_compared_with_each_other_in_the_same_rounds() -> None:
    outcomes: dict[str, Any] = {
        "compiled_inductor": {"seconds_of_rounds": [0.2, 0.3, 0.6]},
        "compiled_gradient": {"seconds_of_rounds": [0.1, 0.1, 0.2]},
    }
    found = [record(TASK, outcomes), record(replace(TASK, batch=8), {})]
    *_, row = tables.against(found, "compiled_inductor", "compiled_gradient")
    assert row == "| ResNet-18 | 2 | 3.00 (2.50–3.00) |"
    assert tables.against(found[1:], "compiled_inductor", "compiled_gradient") == []


def test_the_page_has_every_table_plot_and_command(tmp_path: Path) -> None:
    path = tmp_path / "data" / "benchmarks-cpu.jsonl"
    store = Store(path, HERE)
    kinds = ("time", "memory", "growth")
    tasks = runner.plan(kinds, ["resnet18"], [2], ["float32"], "cpu", tuple(METHODS), quick=True)
    for task in tasks:
        outcomes = outcomes_of(task)
        outcomes["saliency"] = {"failed": "LayoutError: somewhere"}
        store.add(task, outcomes, 1.0)
    written = page.render(tmp_path)
    text = written[0].read_text()
    images = [f"benchmark-{kind}-cpu-float32.png" for kind in kinds]
    assert [p.name for p in written] == ["benchmarks.md", *images]
    for image in images:
        assert (tmp_path / "images" / image).stat().st_size > 10_000
        assert f"(images/{image})" in text
    assert (
        text.count(
            "python -m benchmarks --only time --device cpu --dtype float32 --models resnet18 --batches 2`"
        )
        == 2
    )
    assert "python -m benchmarks --only growth --device cpu --dtype float32 --quick`" in text
    assert "## CPU: a CPU" in text and "2 threads" in text
    assert "–[^b1]" in text and "[^b1]: LayoutError: somewhere" in text


def test_without_results_there_is_no_page(tmp_path: Path, capsys: Any) -> None:
    assert command_line.main(["--only", "render", "--out", str(tmp_path)]) == 2
    assert "there are no results in" in capsys.readouterr().err


# -- the command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--models", "resnet19", "vgg"], "unknown model resnet19, vgg; known: resnet18,"),
        (["--methods", "magic"], "invalid choice: 'magic'"),
        (["--batches", "0"], "'0' is not a whole number of at least 1"),
        (["--longest", "soon"], "'soon' is not a number above 0"),
        (["--only", "everything"], "invalid choice: 'everything'"),
        (["--dtype", "float16"], "invalid choice: 'float16'"),
    ],
)
def test_mistakes_are_told(arguments: list[str], said: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        command_line.main(arguments)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_told(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        command_line.main(["--device", "cuda"])
    assert end.value.code == 2
    assert "sees no GPU" in capsys.readouterr().err


def test_a_missing_package_is_told_before_anything_is_measured(
    monkeypatch: Any, tmp_path: Path, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    assert command_line.main(["--quick", "--out", str(tmp_path)]) == 2
    assert "make install has all" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_says_how_to_go_on(
    monkeypatch: Any, tmp_path: Path, capsys: Any
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "check_installed", lambda names: None)
    monkeypatch.setattr(runner, "measure_all", interrupted)
    assert command_line.main(["--quick", "--out", str(tmp_path)]) == 130
    assert "the same command resumes" in capsys.readouterr().err


def test_the_page_of_compiled_explanations_has_the_stored_times() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs/compiled.md").read_text(encoding="utf-8")
    stored = (root / "docs/data/compiled-cuda.jsonl").read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, stored[1:]):
        eager, recorded = row["methods"]["saliency"], row["methods"]["compiled_cudagraphs"]
        cells = [f"{1000 * row['methods']['gradient']['seconds']['median']:.1f} ms"]
        for ratio in (eager["ratio"], recorded["ratio"]):
            cells.append(f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})")
        assert f"| {row['batch']} | {' | '.join(cells)} | {recorded['making']:.1f} s |" in page

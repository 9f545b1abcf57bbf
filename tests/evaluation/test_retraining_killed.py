"""``fullgrad bench roar``: killed runs, and Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch

from fullgrad import methods
from fullgrad.errors import FullGradError
from fullgrad.evaluation.store import Store
from fullgrad.evaluation.tests.remove_and_retrain import tables as results
from fullgrad.evaluation.tests.remove_and_retrain.executors import ExecutorError, InProcess
from fullgrad.evaluation.tests.remove_and_retrain.plan import RetrainPlan
from fullgrad.evaluation.tests.remove_and_retrain.run import Retraining
from fullgrad.evaluation.training.networks import NetworkChoice
from patches import CLASSES, FILES, SIDE, SMALL, Silent, patch_data, plan_for

KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import pandas, torch
from fullgrad.cli.main import main
from fullgrad.evaluation.training import state as checkpoint
torch.set_num_threads(1)
checkpoint.EVERY = 0.0  # after each step
arguments, out = sys.argv[2:], Path(sys.argv[1])

def first_missing(folder):
    return min((n for n, name in enumerate(order) if name not in stamps(folder)), default=len(order))

def start(folder, number=None, event=None):
    # dies before its so-manieth file is renamed while this stage is the next one to be done
    child = os.fork()
    if child == 0:
        real, seen = os.replace, 0

        def replace(source, target):
            nonlocal seen
            seen += first_missing(folder) == number
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target)

        if event is not None:
            os.replace = replace
        os._exit(main([*arguments, "--out", str(folder)]))
    return child

def stamps(folder):
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("stages/*.stage")}

whole, order = out / "whole", []
assert main([*arguments, "--out", str(whole)]) == 0  # and all is loaded, for the children too
times = stamps(whole)
order += sorted(times, key=times.get)
table = pandas.read_csv(whole / "results.csv").set_index("stage")

def kind(number):
    if number in (0, len(order)):
        return "tables" if number else "base"
    digest = order[number].removesuffix(".stage")
    if "-" in digest:
        return "maps"
    return "intact" if table.method[digest] == "none" else table.input[digest]

def unchanged(folder, before):
    now = stamps(folder)
    assert before.items() <= now.items(), "a finished stage was done again"
    return now

draw, folder, hit, middle, before = random.Random(1), out / "cut", [], 0, {}
for wanted in ("base", "maps", "intact", "images", "masks", "any", "tables"):
    if wanted == "any":  # at some time, whatever is at work
        child = start(folder)
        time.sleep(draw.random())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        before = unchanged(folder, before)
        (folder / "curves.png").unlink(missing_ok=True)  # should everything be done already
        continue
    missing = [n for n in range(first_missing(folder), len(order) + 1) if kind(n) == wanted]
    number = draw.choice(missing[:3])
    child = start(folder, number, 1 if wanted == "maps" else draw.randint(1, 8))
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, wanted
    before = unchanged(folder, before)
    assert first_missing(folder) == number
    hit.append(wanted)
    middle += bool(list(folder.glob("stages/*.partial")))
assert os.waitpid(start(folder), 0)[1] == 0
unchanged(folder, before)
print("killed in its middle", middle, "in", *hit)
"""


def test_killed_in_every_kind_of_stage(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), *SMALL],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    middle, _, *hit = done.stdout.partition("killed in its middle ")[2].split()
    assert hit == ["base", "maps", "intact", "images", "masks", "tables"]
    assert int(middle) >= 1
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    for name in FILES - {"record.json"}:
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    assert {p.name for p in cut.iterdir()} == FILES | {"stages"}
    assert {p.suffix for p in (cut / "stages").iterdir()} == {".stage", ".json"}


def small_plan(tmp_path: Path, executor: Any, name: str) -> tuple[RetrainPlan, Retraining]:
    data = patch_data(60, 40)
    plan = plan_for(data, "input_gradient", "random", fractions=(0.4,), runs=2)
    plan = replace(plan, training=replace(plan.training, epochs=1))
    return plan, Retraining(plan, data, Store(tmp_path / name), executor, "cpu", 1, Silent)


@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_table(cluster: Any, tmp_path: Path) -> None:
    plan, here = small_plan(tmp_path, InProcess(), "here")
    here.run()
    _, there = small_plan(tmp_path, cluster, "there")
    assert there.run() == 12
    assert there.run() == 0
    pandas.testing.assert_frame_equal(
        results.rows(plan, there.store), results.rows(plan, here.store)
    )


@pytest.mark.filterwarnings("ignore")
def test_workers_killed_in_the_middle_of_maps_and_of_training(cluster: Any, tmp_path: Path) -> None:
    driver = os.getpid()
    file = tmp_path / "own.py"
    file.write_text(
        "import os, signal\nfrom pathlib import Path\nfrom torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    steps = 0\n"
        "    def forward(self, x):\n"
        "        self.steps += self.training\n"
        f"        died = Path({str(tmp_path / 'training-died')!r})\n"
        f"        if self.steps == 3 and os.getpid() != {driver} and not died.exists():\n"
        "            died.touch()\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().forward(x)\n"
        f"def net():\n    return Net(nn.Flatten(), nn.Linear({SIDE**2}, {CLASSES}))\n"
    )
    died = tmp_path / "maps-died"

    def deadly(model: torch.nn.Module, inputs: torch.Tensor, target: Any) -> torch.Tensor:
        if os.getpid() != driver and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return inputs.detach()

    methods.register("deadly", deadly)
    try:
        data = patch_data(60, 40)
        plan = plan_for(data, "deadly", fractions=(0.4,), runs=2, mask_runs=0)
        network = NetworkChoice(f"{file}:net", None, CLASSES, 1)
        plan = replace(plan, network=network, training=replace(plan.training, batch=15, epochs=1))
        stores = [Store(tmp_path / name) for name in ("there", "here")]
        for store, executor in zip(stores, (cluster, InProcess()), strict=True):
            assert Retraining(plan, data, store, executor, "cpu", 1, Silent).run() == 6
            assert died.exists()
            assert (tmp_path / "training-died").exists()
        here, there = (results.rows(plan, store) for store in stores)
    finally:
        methods.unregister("deadly")
    pandas.testing.assert_frame_equal(here, there)


@pytest.mark.filterwarnings("ignore")
def test_a_killed_worker_costs_its_task_only(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(number: int) -> int:
        with (tmp_path / f"tried-{number}").open("a") as file:
            file.write("x")
        if number == 2 and len((tmp_path / "tried-2").read_text()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number

    found: dict[int, int] = {}
    cluster.run(work, ((k,) for k in range(5)), found.__setitem__, lambda: None)
    assert found == {k: k * k for k in range(5)}
    tries = [len((tmp_path / f"tried-{k}").read_text()) for k in range(5)]
    assert tries == [1, 1, 2, 1, 1]

    def dying(number: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(cluster, "_retries", 1)
    with pytest.raises(ExecutorError, match="a worker died more than 1 times over the same task"):
        cluster.run(dying, [(1,)], found.__setitem__, lambda: None)

    def refusing(number: int) -> None:
        raise FullGradError("as it was said there")

    with pytest.raises(FullGradError, match=r"^as it was said there$"):
        cluster.run(refusing, [(1,)], found.__setitem__, lambda: None)

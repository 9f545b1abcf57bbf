"""``fullgrad bench roar``: what it writes, refuses, and leaves undone; killed runs; Ray."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from PIL import Image

from fullgrad.cli.main import main
from fullgrad.errors import FullGradError
from fullgrad.experiments.roar import results
from fullgrad.experiments.roar.executors import ExecutorError, InProcess
from fullgrad.experiments.roar.plan import RoarPlan
from fullgrad.experiments.roar.run import Roar
from fullgrad.experiments.roar.store import StageStore
from test_roar import Silent, patch_data, plan_for

FILES = {
    "results.csv", "results.parquet", "summary.csv", "ranking.csv", "differences.csv",
    "curves.png", "examples.png", "record.json",
}  # fmt: skip
SMALL = [
    "bench", "roar", "--data", "sklearn:digits", "--train-limit", "100", "--test-limit", "50",
    "--width", "4", "--epochs", "2", "--batch", "25", "--methods", "input_gradient", "random",
    "--fractions", "0.3", "0.6", "--runs", "2",
]  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def call(out: Path, *more: str) -> int:
    return main([*SMALL, "--out", str(out), *more])


def stages(out: Path) -> dict[str, float]:
    return {p.name: p.stat().st_mtime_ns for p in (out / "stages").glob("*.stage")}


def test_a_small_roar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert call(out, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "100 training and 50 test images of 8 x 8, 10 classes" in said
    assert (
        "networks  14: 2 without removal, 8 for 2 methods x 2 fractions x 2 runs, 4 on masks"
        in said
    )
    assert "14 to train" in said
    assert "maps      2 methods x 150 images in 4 parts; 4 to compute" in said
    assert said.endswith("nothing was written\n")
    assert not out.exists()

    assert call(out) == 0
    said = capsys.readouterr().out
    assert "most salient first: mean accuracy over the fractions (lower is better)" in said
    assert {p.name for p in out.iterdir()} == FILES | {"stages"}
    table = pandas.read_csv(out / "results.csv")
    assert len(table) == 14
    assert list(table.columns[:4]) == ["method", "fraction", "run", "input"]
    pandas.testing.assert_frame_equal(
        table, pandas.read_parquet(out / "results.parquet"), check_dtype=False
    )
    assert set(table["method"]) == {"none", "input_gradient", "random"}
    assert table["accuracy"].between(0, 1).all()
    for name in ("curves.png", "examples.png"):
        with Image.open(out / name) as image:
            assert min(image.size) > 150
    record = json.loads((out / "record.json").read_text())
    assert record["stages_done_now"] == 18
    assert any("leakage" in c for c in record["caveats"])
    assert any("blur" in c for c in record["caveats"])
    assert record["plan"]["training"]["shift"] == 1
    assert not record["plan"]["training"]["mirror"]
    assert {"networks", "maps input_gradient", "maps random"} == set(record["seconds"])

    before = stages(out)
    assert call(out) == 0
    assert capsys.readouterr().out.startswith("finished before: ")
    assert stages(out) == before
    assert call(out, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "; 0 to train" in said
    assert "; 0 to compute" in said

    first = (out / "results.csv").read_bytes()
    assert call(out, "--fill", "black") == 0  # only what depends on it
    assert "holds results of other options, which these replace" in capsys.readouterr().out
    after = stages(out)
    assert before.items() <= after.items()
    assert len(after) == len(before) + 8
    assert call(out) == 0
    assert stages(out) == after
    assert (out / "results.csv").read_bytes() == first


def test_damage_is_said_and_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert call(out) == 0
    table, kept = (out / "results.csv").read_bytes(), stages(out)
    network = next(p for p in sorted((out / "stages").glob("*.stage")) if "-" not in p.name)
    ranks = next(p for p in sorted((out / "stages").glob("*.stage")) if "-test-" in p.name)
    network.write_bytes(network.read_bytes()[:-3])
    content = bytearray(ranks.read_bytes())
    content[-1] ^= 255
    ranks.write_bytes(bytes(content))
    capsys.readouterr()
    assert call(out) == 0
    said = capsys.readouterr().out
    assert said.count(f"damaged, to be done again: {network} (its checksum is wrong)") == 1
    assert f"damaged, to be done again: {ranks} (its checksum is wrong)" in said
    assert (out / "results.csv").read_bytes() == table
    changed = {name for name, at in stages(out).items() if kept[name] != at}
    assert changed == {network.name, ranks.name}


def test_order_of_least_and_company(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    options = ("--order", "least", "--company", "3", "--mask-runs", "0", "--runs", "1")
    assert call(out, *options) == 0
    said = capsys.readouterr().out
    assert "least salient first: mean accuracy over the fractions (higher is better)" in said
    table = pandas.read_csv(out / "results.csv")
    assert len(table) == 5
    record = json.loads((out / "record.json").read_text())
    assert record["company"] == 3
    assert any("how much was not measured" in c for c in record["caveats"])
    alone = tmp_path / "alone"
    assert call(alone, "--order", "least", "--mask-runs", "0", "--runs", "1") == 0
    other = pandas.read_csv(alone / "results.csv")
    assert (table["accuracy"] - other["accuracy"]).abs().max() <= 2 / 50
    assert list(table["stage"]) == list(other["stage"])  # company is no part of what is asked for


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "fullgrd"], "unknown method 'fullgrd'; did you mean 'fullgrad'"),
        (["--methods", "fullgrad:psy=layer"], "method 'fullgrad' has no option 'psy'"),
        (["--fractions", "0", "0.5"], "fractions must lie in (0, 1], not 0.0"),
        (["--runs", "0"], "runs must be at least 1, not 0"),
        (["--company", "0"], "--company must be at least 1, not 0"),
        (["--workers", "0"], "--workers must be at least 1, not 0"),
        (["--epochs", "0"], "epochs must be at least 1, not 0"),
        (["--train-limit", "15"], "the data set is too small: class 0 of sklearn:digits has 1"),
        (["--test-limit", "9"], "has 0 test images, at least 1 are needed"),
        (["--data", "nowhere"], "nowhere is no data set: give sklearn:digits"),
        (["--model", "resnet"], "unknown model 'resnet'"),
        (["--model", "torchvision:resnet18"], "has no width to choose"),
        (["--map-batch", "300"], "map_batch must divide 1000, not 300"),
        (["--rate", "nan"], "the learning rate must be positive, not nan"),
        (["--device", "quantum"], "the device 'quantum' cannot be used"),
        (["--ray-address", "auto"], "--ray-address needs --executor ray"),
        (
            ["--executor", "ray", "--ray-address", "127.0.0.1:1"],
            "no Ray cluster at '127.0.0.1:1': ",
        ),
        (["--rate", "1e30"], "take a lower learning rate than 1e+30"),
    ],
)
def test_refusals(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "ray" in more:
        pytest.importorskip("ray", reason="Ray is not installed")
    out = tmp_path / "out"
    given = [w for w in SMALL if more[0] != "--model" or w not in ("--width", "4")]
    if more == ["--model", "torchvision:resnet18"]:
        given = SMALL
    assert main([*given, "--out", str(out), *more]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("fullgrad: error: ")] == said[-1:]
    assert message in said[-1]
    left = {p.name for p in out.rglob("*") if p.is_file()}
    assert left <= {"roar-store.json"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path / "out", "--device", "cuda") == 2
    assert "the device 'cuda' cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folders_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("x")
    for more in (["--out", str(other)], ["--out", str(tmp_path / "new"), "--store", str(other)]):
        assert main([*SMALL, *more]) == 2
        assert "other holds other files and no" in capsys.readouterr().err
    assert [p.name for p in other.iterdir()] == ["notes.txt"]
    assert not (tmp_path / "new").exists()
    (other / "record.json").write_text('{"plan": {}}')
    assert call(other) == 2
    assert "holds the results of another experiment; give another folder" in capsys.readouterr().err
    assert call(other / "notes.txt") == 2
    assert "notes.txt is not a folder" in capsys.readouterr().err
    assert call(other / "notes.txt" / "below") == 2
    assert "cannot be made" in capsys.readouterr().err

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert call(tmp_path / "full") == 2
    said = capsys.readouterr().err.splitlines()
    assert (
        said[-1]
        == f"fullgrad: error: cannot write to {tmp_path / 'full' / 'stages'}: No space left on device"
    )
    assert not [p for p in (tmp_path / "full").rglob("*") if p.is_file()]


def test_results_that_do_not_fit_leave_the_stages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    real = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if "examples" in self.name:
            real(self, content[:9])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert call(out) == 2
    assert f"cannot write to {out}: No space left on device" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ["stages"]
    monkeypatch.undo()
    before = stages(out)
    assert call(out) == 0
    assert stages(out) == before
    assert {p.name for p in out.iterdir()} == FILES | {"stages"}


KILLED = """
import os, random, signal, sys, time
import matplotlib.backends.backend_agg, pandas, pyarrow.parquet, scipy.stats, sklearn.datasets, torch
from fullgrad.cli.main import main
import fullgrad.cli.bench_roar
torch.set_num_threads(1)
arguments, out = sys.argv[2:], sys.argv[1]

def start(folder):
    child = os.fork()
    if child == 0:
        os._exit(main([*arguments, "--out", folder]))
    return child

began = time.monotonic()
assert os.waitpid(start(out + "/whole"), 0)[1] == 0
took = time.monotonic() - began
draw, kills = random.Random(int(os.environ["KILLED_SEED"])), 0
while True:
    child = start(out + "/cut")
    end, code = time.monotonic() + (draw.uniform(0.02, 0.5) if kills < 4 else 50) * took, 0
    while time.monotonic() < end:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.002)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        continue
    assert code == 0, code
    break
print("kills", kills)
"""


def test_killed_at_random_moments(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KILLED_SEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), *SMALL],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split("kills ")[1]) >= 3
    for name in FILES - {"record.json"}:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), (
            name
        )
    assert {p.name for p in (tmp_path / "cut").iterdir()} == FILES | {"stages"}
    assert not list((tmp_path / "cut" / "stages").glob("*.tmp"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray", reason="Ray is not installed")
    from fullgrad.experiments.roar.executors import OnRay

    executor = OnRay(workers=2)
    yield executor
    executor.close()


def small_plan(tmp_path: Path, executor: Any, name: str) -> tuple[RoarPlan, Roar]:
    data = patch_data(60, 40)
    plan = plan_for(data, "input_gradient", "random", fractions=(0.4,), runs=2)
    plan = replace(plan, training=replace(plan.training, epochs=1))
    return plan, Roar(plan, data, StageStore(tmp_path / name), executor, "cpu", 1, Silent)


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
def test_a_killed_worker_costs_its_task_only(cluster: Any, tmp_path: Path) -> None:
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

    cluster._retries = 1
    with pytest.raises(ExecutorError, match="a worker died more than 1 times over the same task"):
        cluster.run(dying, [(1,)], found.__setitem__, lambda: None)

    def refusing(number: int) -> None:
        raise FullGradError("as it was said there")

    with pytest.raises(FullGradError, match=r"^as it was said there$"):
        cluster.run(refusing, [(1,)], found.__setitem__, lambda: None)

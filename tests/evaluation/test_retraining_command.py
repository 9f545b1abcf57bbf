"""``fullgrad bench roar``: what it writes, refuses, and leaves undone."""

from __future__ import annotations

import errno
import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from PIL import Image

from fullgrad.cli.main import main
from fullgrad.evaluation.store import Store
from fullgrad.evaluation.tests.remove_and_retrain import roar
from fullgrad.evaluation.tests.remove_and_retrain.executors import InProcess
from fullgrad.evaluation.tests.remove_and_retrain.run import Retraining
from patches import FILES, SMALL, Silent, patch_data, plan_for


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


def test_a_complete_small_roar(tmp_path: Path) -> None:
    """Three methods, three fractions, two runs: what is asked for of any machine, in seconds."""
    out, names, fractions = (
        tmp_path / "out",
        ["fullgrad", "input_gradient", "random"],
        [0.3, 0.6, 0.9],
    )
    call = ["bench", "roar", "--data", "sklearn:digits", "--train-limit", "600", "--out", str(out)]
    call += ["--methods", *names, "--fractions", *map(str, fractions), "--runs", "2"]
    assert main([*call, "--width", "8", "--epochs", "6", "--batch", "50"]) == 0
    table = pandas.read_csv(out / "results.csv")
    assert len(table) == 2 + 3 * 3 * 2 + 3 * 3
    images = table[table["input"] == "images"]
    counts = images.groupby(["method", "fraction"]).size()
    assert set(counts.index) == {("none", 0.0)} | {(n, f) for n in names for f in fractions}
    assert set(counts) == {2}
    summary = pandas.read_csv(out / "summary.csv").set_index(["input", "method", "fraction"])
    assert len(summary) == 1 + 9 + 9
    whole = summary.loc[("images", "none", 0.0), "accuracy"]
    assert whole > 0.7  # of ten classes
    for name in names:
        curve = [summary.loc[("images", name, f), "accuracy"] for f in fractions]
        assert whole > curve[0] > curve[2] > 0.05, name
        assert 0 < curve[1] < whole
    assert summary.loc[("masks", "random", 0.6), "accuracy"] < 0.25  # chance is 0.1
    band = summary.loc["images"]
    assert ((band["low"] <= band["accuracy"]) & (band["accuracy"] <= band["high"])).all()
    ranking, pairs = (pandas.read_csv(out / f"{n}.csv") for n in ("ranking", "differences"))
    assert sorted(ranking["method"]) == sorted(names)
    assert list(ranking["area"]) == sorted(ranking["area"])
    assert len(pairs) == 3
    with Image.open(out / "curves.png") as picture:
        assert picture.size[0] > 900
        assert picture.size[1] > 400
        colors = {c for _, c in picture.convert("RGB").getcolors(2**24)}
    assert {(0, 0, 0), (230, 159, 0), (86, 180, 233)} <= colors  # a line for each method
    with Image.open(out / "examples.png") as picture:
        assert len(picture.convert("L").getcolors(256)) > 20
    record = json.loads((out / "record.json").read_text())
    assert any(c.startswith("Caveat, mask leakage") for c in record["caveats"])
    assert set(record["seconds"]) == {"networks", *(f"maps {n}" for n in names)}
    assert {"torch", "python"} <= set(record["versions"])
    assert record["device"] == "cpu"


def test_time_budgets_and_group_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert call(out, "--minutes", "1e-9") == 1
    assert "0 s are over: 13 of 14 networks are left; the same command" in capsys.readouterr().out
    assert [p.name for p in out.iterdir()] == ["stages"]
    first = stages(out)
    assert len(first) == 1
    assert call(out, "--minutes", "1e-9", "--group-size", "auto", "--dry-run") == 0
    assert stages(out) == first
    said = capsys.readouterr().out
    assert "milliseconds a step of one network, by group size: 1: " in said
    assert call(out, "--group-size", "auto", "--minutes", "100") == 0
    said = capsys.readouterr().out
    record = json.loads((out / "record.json").read_text())
    trial = {int(n): seconds for n, seconds in record["group_size_trial"].items()}
    chosen = min(trial, key=trial.__getitem__)
    assert sum(record["group_sizes"].values()) == 14
    assert list(record["group_sizes"])[-1] == str(min(chosen, 13))
    assert f"group     {chosen}; milliseconds" in said
    assert first.items() <= stages(out).items()


def test_the_record_tells_who_was_trained_with_whom(tmp_path: Path) -> None:
    """In all calls, not in the last one."""
    out, options = tmp_path / "out", ("--mask-runs", "0", "--runs", "1")
    assert call(out, *options, "--minutes", "1e-9") == 1
    assert call(out, *options, "--group-size", "4", "--fractions", "0.3") == 0
    assert json.loads((out / "record.json").read_text())["group_sizes"] == {"1": 1, "2": 2}
    assert call(out, *options) == 0
    assert json.loads((out / "record.json").read_text())["group_sizes"] == {"1": 3, "2": 2}


@pytest.mark.parametrize(
    ("gpus", "workers", "share"), [(1, 2, 0.5), (2, 2, 1.0), (4, 2, 1.0), (3, 2, 1.0), (0, 2, 0.0)]
)
def test_a_task_of_ray_gets_one_gpu_at_most(
    gpus: int, workers: int, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Fake(InProcess):
        def __init__(self, address: str | None, workers: int, gpus: float) -> None:
            assert (address, workers) == (None, 2)
            seen.append(gpus)

        def close(self) -> None:
            pass

    monkeypatch.setattr(roar, "OnRay", Fake)
    monkeypatch.setattr(Retraining, "run", lambda self: int(isinstance(self.executor, Fake)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    data = patch_data(60, 40)
    for device in ("cuda", "cpu"):
        ray = {"address": None, "workers": workers}
        test = roar.RemoveAndRetrain(plan_for(data, "random"), data, device, ray=ray)
        assert test.work(Store(tmp_path / "store"), Silent, print) == 1
    assert seen == [share, 0.0]


def test_a_users_network_that_was_edited_is_trained_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "out", tmp_path / "net.py"
    asked = [w for w in SMALL if w not in ("--width", "4")]
    asked += ["--out", str(out), "--model", f"{file}:net", "--mask-runs", "0", "--runs", "1"]
    for number, inner in enumerate(("nn.ReLU()", "nn.Sigmoid()")):
        file.write_text(
            "from torch import nn\n\n\ndef net():\n    return nn.Sequential(\n        nn.Flatten(), "
            f"nn.Linear(64, 16), {inner}, nn.Linear(16, 10)\n    )\n"
        )
        assert main(asked) == 0
        said = capsys.readouterr().out
        assert ("holds results of other options" in said) == bool(number)
        record = json.loads((out / "record.json").read_text())
        assert record["plan"]["network"]["code"] == sha256(file.read_bytes()).hexdigest()[:16]
        assert main(asked) == 0
        assert capsys.readouterr().out.startswith("finished before")


def test_tables_that_are_missing_or_changed_are_written_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert call(out) == 0
    before, table = stages(out), (out / "results.csv").read_bytes()
    for damage in (lambda p: p.unlink(), lambda p: p.write_bytes(table[:-9])):
        damage(out / "results.csv")
        (out / ".results.csv.999999999.tmp").touch()  # of a killed process
        capsys.readouterr()
        assert call(out) == 0
        assert "finished before" not in capsys.readouterr().out
        assert (out / "results.csv").read_bytes() == table
        assert stages(out) == before
        assert {p.name for p in out.iterdir()} == FILES | {"stages"}
    assert call(out) == 0
    assert "finished before" in capsys.readouterr().out


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


def test_order_of_least_and_group_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    options = ("--order", "least", "--group-size", "3", "--mask-runs", "0", "--runs", "1")
    assert call(out, *options) == 0
    said = capsys.readouterr().out
    assert "least salient first: mean accuracy over the fractions (higher is better)" in said
    table = pandas.read_csv(out / "results.csv")
    assert len(table) == 5
    record = json.loads((out / "record.json").read_text())
    assert record["group_sizes"] == {"1": 2, "3": 3}  # the base, three, and the one that is left
    assert any("how much was not measured" in c for c in record["caveats"])
    alone = tmp_path / "alone"
    assert call(alone, "--order", "least", "--mask-runs", "0", "--runs", "1") == 0
    other = pandas.read_csv(alone / "results.csv")
    assert (table["accuracy"] - other["accuracy"]).abs().max() <= 2 / 50
    assert list(table["stage"]) == list(
        other["stage"]
    )  # group_size is no part of what is asked for


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "fullgrd"], "unknown method 'fullgrd'; did you mean 'fullgrad'"),
        (["--methods", "fullgrad:psy=layer"], "method 'fullgrad' has no option 'psy'"),
        (["--fractions", "0", "0.5"], "fractions must lie in (0, 1], not 0.0"),
        (["--runs", "0"], "runs must be at least 1, not 0"),
        (["--group-size", "0"], "--group-size must be at least 1, not 0"),
        (["--group-size", "many"], "--group-size must be a number or 'auto', not 'many'"),
        (["--minutes", "0"], "--minutes must be positive, not 0"),
        (["--minutes", "nan"], "--minutes must be positive, not nan"),
        (["--fractions", "1", "--fill", "road"], "the fraction 1 removes all 64"),
        (["--workers", "0"], "--workers must be at least 1, not 0"),
        (["--epochs", "0"], "epochs must be at least 1, not 0"),
        (["--train-limit", "15"], "the data set is too small: class 0 of sklearn:digits has 1"),
        (["--test-limit", "9"], "has 0 test images, at least 1 are needed"),
        (["--data", "nowhere"], "nowhere is not a data set: give sklearn:digits"),
        (["--model", "resnet"], "unknown model 'resnet'"),
        (["--model", "torchvision:resnet18"], "has no width to choose"),
        (["--map-batch", "300"], "map_batch must divide 1000, not 300"),
        (["--rate", "nan"], "the learning rate must be positive, not nan"),
        (["--device", "quantum"], "the device 'quantum' cannot be used"),
        (["--ray-address", "auto"], "--ray-address needs --executor ray"),
        (["--seed", "-1"], "the seed must be at least 0 and below 2**40, not -1"),
        (["--seed", str(10**20)], "the seed must be at least 0 and below 2**40, not 1000000000000"),
        (
            ["--executor", "ray", "--device", "cuda:0"],
            "--executor ray hands out the GPUs: give --device cuda",
        ),
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
    assert left <= {"store.json"}


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
    assert (
        "holds the results of another experiment, or of an older version" in capsys.readouterr().err
    )
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

"""Nothing is lost and nothing stored twice: killed runs, two at once, a full disk, executors."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pandas
import pytest

from fullgrad import datasets
from fullgrad.datasets.executors import Processes
from fullgrad.errors import MissingDependencyError, UsageError
from fullgrad.evaluation.store import StoreError
from fullgrad.evaluation.tests.remove_and_retrain.executors import ExecutorError
from mapped import Data, Net, rows, shards

TESTS = Path(__file__).parents[1]
HOW = {"unit": 3, "batch_size": 2, "threads": 1}


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    datasets.map(Data(broken=(4,)), Net(), tmp_path / "reference", **HOW)
    return tmp_path / "reference"


def check_equal(folder: Path, reference: Path) -> None:
    pandas.testing.assert_frame_equal(rows(datasets.open(folder)), rows(datasets.open(reference)))
    assert shards(folder) == shards(reference)


def test_killed_runs_and_two_at_once(tmp_path: Path) -> None:
    path = os.pathsep.join([str(TESTS), *sys.path])
    done = subprocess.run(
        [sys.executable, str(TESTS / "kill_maps.py"), str(tmp_path), "6"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"6 kills, \d+ units done by then; two at once wrote", done.stdout)


def test_a_full_disk_keeps_what_is_done(
    tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    real = os.fsync

    def full(file: int) -> None:
        nonlocal written
        written += 1
        if written > 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    out = tmp_path / "out"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot write to .*out: No space left on device"):
        datasets.map(Data(broken=(4,)), Net(), out, **HOW)
    monkeypatch.undo()
    assert datasets.open(out).done == (0, 1)
    assert not list((out / ".tmp").iterdir())
    assert datasets.map(Data(broken=(4,)), Net(), out, **HOW).units_written == 2
    check_equal(out, reference)


def test_unfinished_files_of_dead_processes_are_removed(tmp_path: Path, reference: Path) -> None:
    import socket

    dead = subprocess.run([sys.executable, "-c", ""], check=True)
    assert dead.returncode == 0
    scratch = reference / ".tmp"
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    names = {
        f"{socket.gethostname()}-{process.pid}-1.tmp": False,
        f"{socket.gethostname()}-{os.getpid()}-1.tmp": True,
        f"another-host-{process.pid}-1.tmp": True,
    }
    for name in names:
        (scratch / name).write_bytes(b"half")
    datasets.map(Data(broken=(4,)), Net(), reference, **HOW)
    assert {name: (scratch / name).exists() for name in names} == names


def test_a_damaged_unit_is_done_again_and_reported(reference: Path) -> None:
    before = shards(reference)
    shard = reference / "maps.zarr/map/c/1/0/0"
    content = bytearray(shard.read_bytes())
    content[30] ^= 255
    shard.write_bytes(content)
    done = datasets.map(Data(broken=(4,)), Net(), reference, **HOW)
    assert done.units_written == 0, "its length is right"
    done = datasets.map(Data(broken=(4,)), Net(), reference, check=True, **HOW)
    assert done.units_written == 1 and shards(reference) == before
    assert done.damaged == (
        "damaged, to be done again: unit 1 (maps.zarr/map/c/1/0/0 has another digest than its "
        "index file says)",
    )
    assert done.damaged[0] in str(done)


def test_parts_and_torchrun(
    tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, net = Data(broken=(4,)), Net()
    first = datasets.map(data, net, tmp_path / "parts", part=(0, 2), **HOW)
    assert (first.units, first.units_written, first.complete) == (2, 2, True)
    assert datasets.open(tmp_path / "parts").done == (0, 2)
    datasets.map(data, net, tmp_path / "parts", part=(1, 2), **HOW)
    check_equal(tmp_path / "parts", reference)
    with pytest.raises(UsageError, match=r"start it with 'torchrun --nproc-per-node 2 -m fullgrad"):
        datasets.map(data, net, tmp_path / "run", executor="torchrun", **HOW)
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        datasets.map(data, net, tmp_path / "run", executor="torchrun", **HOW)
    check_equal(tmp_path / "run", reference)
    for options, text in (
        ({"part": (0, 2)}, "part= does not go with torchrun"),
        ({"processes": 2}, "leave processes= out: torchrun's --nproc-per-node says how many"),
    ):
        with pytest.raises(UsageError, match=text):
            datasets.map(data, net, tmp_path / "run", executor="torchrun", **HOW, **options)


class Deadly(Data):
    """Data whose fifth sample ends the process that reads it, until a file is there."""

    def __init__(self, file: Path) -> None:
        super().__init__(broken=(4,))
        self.file = file

    def __getitem__(self, number: int):  # type: ignore[no-untyped-def]
        if number == 5 and not self.file.exists():
            self.file.touch()
            os._exit(9)
        return super().__getitem__(number)


def test_a_process_that_dies_costs_its_unit_alone(tmp_path: Path, reference: Path) -> None:
    data = Deadly(tmp_path / "died")
    seen: list[datasets.Progress] = []
    done = datasets.map(
        data, Net(), tmp_path / "out", executor=Processes(1), progress=seen.append, **HOW
    )
    assert done.complete and done.errors == 1 and seen[-1].done == 10 and seen[-1].errors == 1
    found = rows(datasets.open(tmp_path / "out"))
    own = rows(datasets.open(reference))
    differ = ["digest"]  # the data are called otherwise
    pandas.testing.assert_frame_equal(found.drop(columns=differ), own.drop(columns=differ))
    assert shards(tmp_path / "out") == shards(reference)
    assert set(datasets.open(tmp_path / "out").index["attempt"]) == {1, 2}


def test_a_process_that_dies_over_and_over_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Processes, "_round", lambda *_: None)
    with pytest.raises(ExecutorError, match=r"died 3 times over unit 0 \(4 units are not done\)"):
        datasets.map(Data(), Net(), tmp_path, processes=2, **HOW)


def test_an_address_in_memory(reference: Path) -> None:
    address = "memory://maps/small"
    data, net = Data(broken=(4,)), Net()
    try:
        datasets.map(data, net, address, part=(0, 2), **HOW)
        done = datasets.map(data, net, address, **HOW)
        assert done.units_written == 2 and done.complete
        store = datasets.open(address)
        pandas.testing.assert_frame_equal(rows(store), rows(datasets.open(reference)))
        wanted = datasets.open(reference).maps.values
        assert np.array_equal(store.maps.values, wanted, equal_nan=True)
        content = fsspec.filesystem("memory").cat_file("/maps/small/maps.zarr/map/c/0/0/0")
        assert content == (reference / "maps.zarr/map/c/0/0/0").read_bytes()
        for options in ({"processes": 2}, {"executor": "ray"}):
            with pytest.raises(
                UsageError, match="is in this process's memory, which others cannot"
            ):
                datasets.map(data, net, "memory://maps/other", **HOW, **options)
    finally:
        fsspec.filesystem("memory").rm("/maps", recursive=True)


def test_addresses_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="nosuch://x cannot be used: Protocol not known"):
        datasets.open("nosuch://x")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/plan\.json cannot be read: Not a directory"):
        datasets.map(Data(), Net(), tmp_path / "file", **HOW)

    def missing(address: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    text = r"s3://b/maps: Install s3fs to access S3 \(pip install 'fullgrad\[s3\]'\)"
    with pytest.raises(MissingDependencyError, match=text):
        datasets.open("s3://b/maps")

"""Kills runs of `fullgrad map` at random moments, and compares what they left with an untouched run.

    python tools/data_sets/killed_maps.py                       # 20 kills for each executor
    python tools/data_sets/killed_maps.py --executors here ray --kills 5

For each executor a run is killed (SIGKILL, with all its processes) shortly after it has committed
something, again and again, and then left to finish. Its shards must be those of a run that nobody
killed, to the byte, and the rows of its index too, but for where and when. Further: two runs at once on one
store; a process of several killed alone, while the run goes on; and a file system that is full.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from PIL import Image

from fullgrad import datasets
from fullgrad.datasets.index import WHERE_AND_WHEN

NET = """
import time
import torch

PREPROCESSING = {"resize": 24, "crop": [24, 24]}

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x):
        time.sleep(0.005)
        return self.head(self.stem(x).relu().mean((2, 3)))

def make_model():
    torch.manual_seed(0)
    return Net()
"""
PHOTOGRAPHS, UNIT = 400, 4
FULLGRAD = [sys.executable, "-m", "fullgrad", "map", "photos", "--model", "net.py:make_model"]
OPTIONS = [
    "--method",
    "complete_fullgrad",
    "--unit",
    str(UNIT),
    "--batch-size",
    "2",
    "--threads",
    "1",
]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
EXECUTORS = {
    "here": ["--workers", "1"],
    "processes": ["--processes", "2", "--workers", "0"],
    "torchrun": ["--executor", "torchrun", "--workers", "0"],
    "ray": ["--executor", "ray", "--processes", "2", "--workers", "0"],
    "part": ["--workers", "0"],
}


def command(executor: str, out: str, part: int = 0) -> list[str]:
    """The command line of a run."""
    start = [*TORCHRUN, *FULLGRAD[2:]] if executor == "torchrun" else FULLGRAD
    more = ["--part", f"{part}/2"] if executor == "part" else []
    return [*start, *OPTIONS, "--out", out, "--quiet", *EXECUTORS[executor], *more]


def make_data(folder: Path) -> None:
    """Small photographs, some of which cannot be read, and the model."""
    (folder / "photos").mkdir()
    for number in range(PHOTOGRAPHS):
        path = folder / "photos" / f"{number:04d}.png"
        if number % 97 == 5:
            path.write_bytes(b"damaged")
            continue
        pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), "uint8")
        Image.fromarray(pixels).save(path)
    (folder / "net.py").write_text(NET)


def shards(folder: Path) -> dict[str, str]:
    """The digest of each shard."""
    found = sorted((folder / "maps.zarr" / "map" / "c").glob("*/0/0"))
    return {p.parts[-3]: hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def rows(folder: Path) -> Any:
    """The index without where and when."""
    return datasets.open(folder).index.drop(columns=list(WHERE_AND_WHEN))


def parts(folder: Path) -> int:
    """How many units are committed."""
    return len(list((folder / "index").glob("*.parquet"))) if folder.exists() else 0


def finish(folder: Path, executor: str) -> str:
    """Let runs finish; what they print."""
    said = ""
    for part in range(2 if executor == "part" else 1):
        done = subprocess.run(
            command(executor, folder.name, part),
            cwd=folder.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        said += done.stdout + done.stderr
        if executor != "torchrun" and done.returncode != 1:  # some photographs are damaged
            raise SystemExit(f"{executor} ended with {done.returncode}: {said}")
    return said


def killed_once(folder: Path, executor: str, draw: random.Random, part: int) -> str:
    """Kill a run shortly after its next commit; what it had said, if it had ended by itself."""
    before = parts(folder)
    said = folder.with_suffix(".said")
    with said.open("w") as file:
        process = subprocess.Popen(
            command(executor, folder.name, part),
            cwd=folder.parent,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=file,
        )
    while process.poll() is None and parts(folder) == before:
        time.sleep(0.002)
    time.sleep(draw.random() * 0.15)
    running = process.poll() is None
    for number in family(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.wait()
    return "" if running else f"exit code {process.returncode}: {said.read_text()[-1000:]}"


def family(root: int) -> list[int]:
    """A process and all that it started."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found = [root]
    for number in found:
        found += parents.get(number, [])
    return found


def compare(folder: Path, reference: Path) -> None:
    """Stop where a store differs from the reference."""
    pandas.testing.assert_frame_equal(rows(folder), rows(reference))
    if shards(folder) != shards(reference):
        raise SystemExit(f"{folder.name}: shards differ")


def killed(folder: Path, executor: str, kills: int, reference: Path) -> str:
    """Kill runs of one executor, let one finish, compare."""
    draw = random.Random(executor)
    count = 0
    while count < kills:
        if ended := killed_once(folder, executor, draw, count % 2):
            raise SystemExit(
                f"{executor}: after {count} kills, with {parts(folder)} units done, a run ended by "
                f"itself with {ended}"
            )
        count += 1
    there = parts(folder)
    finish(folder, executor)
    compare(folder, reference)
    left = list((folder / ".tmp").glob("*"))
    return f"{executor}: {count} kills, {there} units done by then; equal to the byte; {len(left)} scratch files"


def together(folder: Path, reference: Path) -> str:
    """Two runs at once on one store."""
    line = command("here", folder.name)
    both = [
        subprocess.Popen(line, cwd=folder.parent, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [p.communicate()[0] for p in both]
    if [p.returncode for p in both] != [1, 1]:
        raise SystemExit(f"two at once: {said}")
    compare(folder, reference)
    counts = [int(s.split("this run: ")[1].split(" ")[0]) for s in said]
    if sum(counts) != -(-PHOTOGRAPHS // UNIT):
        raise SystemExit(f"two at once wrote {counts} units")
    return f"two at once: wrote {counts[0]} and {counts[1]} units, equal to the byte"


def one_lost(folder: Path, reference: Path) -> str:
    """One of several processes is killed; the run itself goes on."""
    process = subprocess.Popen(
        command("processes", folder.name), cwd=folder.parent, stdout=subprocess.PIPE, text=True
    )
    while parts(folder) < 10:
        time.sleep(0.01)
    children = [n for n in family(process.pid)[1:] if b"spawn_main" in cmdline(n)]
    os.kill(children[0], signal.SIGKILL)
    said = process.communicate()[0]
    if process.returncode != 1:
        raise SystemExit(f"a process lost: {process.returncode} {said}")
    compare(folder, reference)
    attempts = datasets.open(folder).index["attempt"].value_counts().to_dict()
    return f"a process lost: the run went on, equal to the byte; rows by attempt {attempts}"


def cmdline(number: int) -> bytes:
    """The command line of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return b""


def full(folder: Path, reference: Path) -> str:
    """A disk that is full: a small tmpfs, where one may be mounted."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        return f"disk full: left out, no tmpfs can be mounted here ({mounted.stderr.strip()})"
    try:
        done = subprocess.run(
            command("here", folder.name),
            cwd=folder.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        there = parts(folder)
        if done.returncode != 2 or "No space left on device" not in done.stderr or not there:
            raise SystemExit(f"disk full: {done.returncode} {done.stderr}")
        datasets.open(folder).index  # noqa: B018 - what is there can be read
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
        finish(folder, "here")
        compare(folder, reference)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    return f"disk full: {done.stderr.strip()}; {there} units kept; with room it went on, equal to the byte"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executors", nargs="+", choices=EXECUTORS, default=list(EXECUTORS))
    parser.add_argument("--kills", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        make_data(home)
        reference = home / "reference"
        finish(reference, "here")
        print(f"reference: {parts(reference)} units, {len(rows(reference))} rows", flush=True)
        for executor in args.executors:
            print(killed(home / executor, executor, args.kills, reference), flush=True)
        print(together(home / "together", reference), flush=True)
        print(one_lost(home / "lost", reference), flush=True)
        print(full(home / "full", reference), flush=True)


if __name__ == "__main__":
    main()

"""What storing maps costs: throughput beside a bare loop, memory, and how fast a large store opens.

    python tools/data_sets/map_costs.py throughput --images ../shared/data/imagenet-sample --photographs 2000
    python tools/data_sets/map_costs.py open --samples 100000

`throughput` takes turns, so that what else the machine does falls on both alike: some photographs by a
loop over fullgrad.saliency (PyTorch's DataLoader, the same batch size and workers; maps are thrown away), the
same ones by fullgrad.datasets, and so on. Throughputs are compared by the clock and by processor time, which
other programs on the machine disturb less; planning is measured apart.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import fullgrad
from fullgrad import datasets
from fullgrad.datasets import encoding
from fullgrad.datasets.executors import Here
from fullgrad.datasets.index import Origin, Row
from fullgrad.datasets.plan import Plan, environment
from fullgrad.datasets.running import Prepared, prepare, run
from fullgrad.datasets.store import Store
from fullgrad.vision.images import preprocess, read_image
from fullgrad.vision.models import LoadedModel, load_model


class Cost(NamedTuple):
    """Seconds by the clock, and of the processor."""

    clock: float
    processor: float


class Photographs(Dataset[torch.Tensor]):
    """Files as the model takes them."""

    def __init__(self, files: list[Path], model: LoadedModel) -> None:
        self.files, self.preprocessing = files, model.preprocessing

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> torch.Tensor:
        return preprocess(read_image(self.files[number]), self.preprocessing)


def spent() -> float:
    """Processor seconds of this process and of its children that have ended."""
    each = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in each)


def loop(files: list[Path], model: LoadedModel, batch: int, workers: int, method: str) -> Cost:
    """What a loop over saliency takes, or over attribute for methods that it does not know."""
    began, before = time.monotonic(), spent()
    for inputs in DataLoader(Photographs(files, model), batch_size=batch, num_workers=workers):
        if method in ("fullgrad", "simple_fullgrad"):
            fullgrad.saliency(model.module, inputs, method=method)
        else:
            fullgrad.methods.attribute(method, model.module, inputs)
    return Cost(time.monotonic() - began, spent() - before)


def mapped(ready: Prepared, units: range) -> Cost:
    """What the same photographs take to be stored."""
    began, before = time.monotonic(), spent()
    some = Prepared(ready.work, ready.store, tuple(units), (), None)
    summary = run(some, Here())
    assert summary.complete
    assert not summary.errors
    return Cost(time.monotonic() - began, spent() - before)


def memory() -> float:
    """Megabytes of this process that are in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("VmRSS")).split()[1]) / 1000


def throughput(args: argparse.Namespace) -> None:
    """A loop and a store by turns."""
    torch.set_num_threads(args.threads)
    model = load_model(args.model)
    given = sorted(args.images.glob("*.jpg"))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "photographs")
        folder.mkdir()
        for number in range(args.photographs):  # under names of their own
            own = given[number % len(given)]
            (folder / f"{number // len(given)}-{own.name}").symlink_to(own.resolve())
        files = sorted(folder.iterdir())
        began = time.monotonic()
        ready = prepare(
            folder,
            model,
            Path(place, "maps"),
            method=args.method,
            batch_size=args.batch_size,
            unit=args.unit,
            workers=args.workers,
            threads=args.threads,
        )
        print(f"planned in {time.monotonic() - began:.1f} s", flush=True)
        loop(files[: 2 * args.batch_size], model, args.batch_size, args.workers, args.method)
        mapped(ready, range(1))  # what is loaded at first is not counted
        shutil.rmtree(Path(place, "maps"))
        per = -(-ready.plan.units // args.turns)
        bare: list[Cost] = []
        stored: list[Cost] = []
        used: list[float] = []
        for start in range(0, ready.plan.units, per):
            units = range(start, min(start + per, ready.plan.units))
            own = [files[i] for u in units for i in ready.plan.members(u)]
            for stores in (True, False) if len(bare) % 2 else (False, True):
                if stores:
                    stored.append(mapped(ready, units))
                else:
                    bare.append(loop(own, model, args.batch_size, args.workers, args.method))
            used.append(memory())
            print(
                f"{len(own)} photographs: loop {bare[-1].clock:.1f} s, stored "
                f"{stored[-1].clock:.1f} s, {used[-1]:.0f} MB",
                flush=True,
            )
        clock = sum(b.clock for b in bare) / sum(s.clock for s in stored)
        turns = [b.clock / s.clock for b, s in zip(bare, stored, strict=True)]
        processor = sum(b.processor for b in bare) / sum(s.processor for s in stored)
        size = sum(p.stat().st_size for p in Path(place, "maps").rglob("*") if p.is_file())
        print(
            f"{len(files)} photographs, {args.method}, batches of {args.batch_size}, "
            f"{args.workers} workers, {args.threads} threads; load average {os.getloadavg()[1]:.1f} "
            f"on {os.cpu_count()} processors\n"
            f"loop {len(files) / sum(b.clock for b in bare):.2f} a second, stored "
            f"{len(files) / sum(s.clock for s in stored):.2f} a second: {clock:.2f} of the loop's "
            f"throughput by the clock, {processor:.2f} by processor time; median of {len(turns)} "
            f"turns {statistics.median(turns):.2f} by the clock\n"
            f"memory {used[0]:.0f} MB after the first turn, {used[-1]:.0f} MB after the last, "
            f"{max(used):.0f} MB at most; store {size / 1e6:.1f} MB"
        )


def large(folder: Path, samples: int, side: int) -> None:
    """A store of made-up maps."""
    plan = Plan(
        data={"spec": "made up", "samples": samples, "digest": "0" * 16},
        model={"name": "none", "weights": "none", "digest": "0" * 16},
        method="complete_fullgrad",
        options={},
        target="predicted",
        targets=1,
        unit=256,
        sizes=None,
        batch_size=32,
        dtype="float16",
        grid=(side, side),
        pooling="sum",
        positions=(side, side),
        dims=("y", "x"),
        stages=tuple(f"layer{i}" for i in range(1, 7)),
        depth=1,
        class_names=None,
        threads=1,
        device="cpu",
        deterministic=False,
        code="0" * 16,
        environment=environment(),
    )
    store = Store(folder, plan)
    store.prepare()
    draw = np.random.default_rng(0)
    names = [f"share.{stage}" for stage in ("input", *plan.stages)]
    origin = Origin("host", datetime.now(UTC), 1.0)
    for unit in range(plan.units):
        members = plan.members(unit)
        values = draw.normal(size=(len(members), side, side))
        maps, rows = [], []
        for number, value in zip(members, values, strict=True):
            stored, scale, zero = encoding.quantized(value, "float16")
            maps.append(stored)
            numbers = {
                name: float(x) for name, x in zip(names, draw.normal(size=len(names)), strict=True)
            }
            about: dict[str, Any] = {
                "label": number % 1000,
                "target": number % 997,
                "prediction": number % 997,
            }
            rows.append(
                Row(
                    number,
                    f"n{number % 1000:08d}/{number:08d}.JPEG",
                    numbers=numbers,
                    scale=scale,
                    zero=zero,
                    shape=(224, 224),
                    **about,
                )
            )
        store.commit(unit, {"map": np.stack(maps)}, rows, "bytes", origin)


def opened(args: argparse.Namespace) -> None:
    """How fast a large store opens, and how fast one sample is read."""
    with tempfile.TemporaryDirectory() as place:
        folder = args.store or Path(place)
        if not (folder / "plan.json").exists():
            began = time.monotonic()
            large(folder, args.samples, args.side)
            print(f"written in {time.monotonic() - began:.0f} s", flush=True)
        for number in range(3):  # packages are loaded the first time
            began, before = time.monotonic(), spent()
            store = datasets.open(folder)
            rows = len(store.index)
            store.maps  # noqa: B018 - lazy, but for its coordinates
            print(
                f"{rows:,} rows in {len(store.done)} units opened in "
                f"{time.monotonic() - began:.2f} s, {spent() - before:.2f} s of the processor "
                f"(time {number + 1})"
            )
        draw = np.random.default_rng(1)
        for name, read in (
            ("store.map(row)", store.map),
            ("store.maps.sel(row=row)", lambda row: store.maps.sel(row=row).values),
        ):
            seconds, used = [], []
            for row in draw.choice(rows, 200, replace=False):
                began, before = time.monotonic(), time.process_time()
                read(int(row))
                seconds.append(time.monotonic() - began)
                used.append(time.process_time() - before)
            print(
                f"{name}: median {1000 * statistics.median(seconds):.1f} ms, slowest of 200 "
                f"{1000 * max(seconds):.1f} ms, first {1000 * seconds[0]:.1f} ms; of the processor "
                f"{1000 * statistics.median(used):.1f}, {1000 * max(used):.1f}, {1000 * used[0]:.1f}"
            )
        began = time.monotonic()
        wrong = store.index[store.index["label"] != store.index["prediction"]]
        mean = store.maps.sel(row=wrong.index[:1000]).mean("row").values
        print(
            f"1,000 of {len(wrong):,} filtered rows averaged in {time.monotonic() - began:.2f} s "
            f"({mean.shape[0]} x {mean.shape[1]})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    own = kinds.add_parser("throughput")
    own.add_argument("--images", type=Path, required=True)
    own.add_argument("--photographs", type=int, default=2000)
    own.add_argument("--model", default="efficientnet_lite0")
    own.add_argument("--method", default="fullgrad")
    own.add_argument("--batch-size", type=int, default=8)
    own.add_argument("--unit", type=int, default=64)
    own.add_argument("--workers", type=int, default=1)
    own.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    own.add_argument("--turns", type=int, default=10)
    own = kinds.add_parser("open")
    own.add_argument("--samples", type=int, default=100_000)
    own.add_argument("--side", type=int, default=14)
    own.add_argument("--store", type=Path, help="kept; by default it is removed again")
    args = parser.parse_args()
    throughput(args) if args.kind == "throughput" else opened(args)


if __name__ == "__main__":
    main()

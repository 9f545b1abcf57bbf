"""``fullgrad bench roar``."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fullgrad._files import check_folder, make_folder, printable, write_together
from fullgrad._optional import require
from fullgrad.cli import UsageError
from fullgrad.cli.bench.roar_text import company_text, duration, plan_text, ranking_text
from fullgrad.cli.main import DONE, SOME_FAILED
from fullgrad.cli.progress import Progress
from fullgrad.evaluation.plan import MethodChoice
from fullgrad.evaluation.retraining import report, results
from fullgrad.evaluation.retraining.data import Dataset, open_dataset
from fullgrad.evaluation.retraining.estimate import estimate, fastest_company
from fullgrad.evaluation.retraining.executors import InProcess, OnRay
from fullgrad.evaluation.retraining.networks import AUTO, NetworkChoice, usable
from fullgrad.evaluation.retraining.plan import FRACTIONS, RoarPlan
from fullgrad.evaluation.retraining.removal import FILLS
from fullgrad.evaluation.retraining.run import Roar
from fullgrad.evaluation.retraining.store import StageStore, sweep
from fullgrad.evaluation.retraining.training import PRECISIONS, Settings
from fullgrad.evaluation.store import StoreError
from fullgrad.vision.image_result import versions
from fullgrad.viz.overlay import png
from fullgrad.viz.roar import examples, roar_curves

METHODS = (
    "fullgrad",
    "simple_fullgrad",
    "input_gradient",
    "integrated_gradients",
    "smoothgrad",
    "grad_cam",
    "random",
    "sobel",
)
RECORD, STAGES = "record.json", "stages"

_DESCRIPTION = """\
Trains a network, removes the k % most salient pixels of all training and test images by each
method's map, trains a fresh network on what is left, and measures its test accuracy (Hooker et
al. 2019; Srinivas & Fleuret 2019, section 5.2). --dry-run tells what that takes.

Writes into the results folder
  stages/                        every finished stage, so that nothing is done twice
  results.parquet, results.csv   one row for each network: method, fraction, run
  summary.csv                    means over runs with Student's 95 % intervals
  ranking.csv, differences.csv   mean accuracy over the fractions; every two methods compared
  curves.png, examples.png       the figure; images as the retrained networks see them
  record.json                    what is needed to run it again, what it took, and the caveats
An interrupted run goes on where it was when it is started again. With other options only what
depends on them is done; the results are then those of the new options. The exit code is 1 when
--minutes were over before everything was done.
"""
_EPILOG = """\
examples:
  fullgrad bench roar --data sklearn:digits --out roar --dry-run
  fullgrad bench roar --data sklearn:digits --out roar --methods fullgrad input_gradient random \\
      --fractions 0.3 0.6 0.9 --runs 2 --epochs 10
  fullgrad bench roar --data torchvision:CIFAR100:data --out roar --device cuda \\
      --precision bfloat16
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the experiment."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    add = parser.add_argument
    text = (
        "sklearn:digits, torchvision:NAME:ROOT, a folder with train/CLASS/ and test/CLASS/, or one "
        "with MNIST's idx files"
    )
    add("--data", required=True, metavar="DATA", help=text)
    text = "so many {} images in all, equally many of each class (default: all)"
    add("--train-limit", type=int, metavar="N", help=text.format("training"))
    add("--test-limit", type=int, metavar="N", help=text.format("test"))
    add("--out", type=Path, required=True, metavar="DIR", help="results folder")
    text = "folder of the stages, which several results may share (default: stages/ in the results)"
    add("--store", type=Path, metavar="DIR", help=text)
    add("--dry-run", action="store_true", help="tell the plan and what it takes; write nothing")
    text = "METHOD or METHOD:OPTION=VALUE,... (default: %(default)s)"
    add("--methods", nargs="+", default=list(METHODS), metavar="METHOD", help=text)
    text = "of the pixels that are removed, in (0, 1] (default: %(default)s)"
    add("--fractions", nargs="+", type=float, default=list(FRACTIONS), metavar="F", help=text)
    text = "networks for each method and fraction (default: %(default)s)"
    add("--runs", type=int, default=3, metavar="N", help=text)
    text = (
        "networks trained on the masks alone, for each method and fraction (default: %(default)s)"
    )
    add("--mask-runs", type=int, default=1, metavar="N", help=text)
    text = "most salient pixels first, as in the paper (default), or least salient first"
    add("--order", choices=("most", "least"), default="most", help=text)
    text = (
        "what removed pixels become: the training images' mean colour (default), black, or road, "
        "guessed from the pixels that are left (slower)"
    )
    add("--fill", choices=FILLS, default="mean", help=text)
    add("--seed", type=int, default=0, help="of everything that is random (default: 0)")
    _add_training(parser)
    _add_execution(parser)


def _add_training(parser: argparse.ArgumentParser) -> None:
    add, default = parser.add_argument, Settings()
    text = (
        "vgg9 (the paper's nine layers), small, torchvision:NAME, timm:NAME or "
        "path/to/file.py:FUNCTION (default: vgg9 for images of 32 pixels a side and more)"
    )
    add("--model", default=AUTO, metavar="MODEL", help=text)
    text = "channels of the first layer (default: 64 for vgg9, 24 for small)"
    add("--width", type=int, metavar="N", help=text)
    add("--epochs", type=int, default=default.epochs, help="(default: %(default)s)")
    text = "images a step (default: %(default)s)"
    add("--batch", type=int, default=default.batch, metavar="N", help=text)
    text = "highest learning rate (default: %(default)s)"
    add("--rate", type=float, default=default.rate, help=text)
    text = "pixels by which training images are shifted (default: an eighth of a side)"
    add("--shift", type=int, metavar="N", help=text)
    text = "mirror half of the training images (default: where they have colours)"
    add("--mirror", action=argparse.BooleanOptionalAction, help=text)
    text = "bfloat16 for mixed precision (default: %(default)s)"
    add("--precision", choices=PRECISIONS, default=default.precision, help=text)


def _add_execution(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: %(default)s)")
    text = (
        "images explained at a time (default: %(default)s); the maps change by rounding only, but "
        "for random's numbers"
    )
    add("--map-batch", type=int, default=50, metavar="N", help=text)
    text = (
        "networks trained at once, stacked (default: %(default)s), or 'auto' for the fastest in a "
        "short trial; equal to those trained alone but for rounding"
    )
    add("--company", type=_company, default=1, metavar="N", help=text)
    text = "begin no further stage after so many minutes; the same command goes on"
    add("--minutes", type=float, metavar="N", help=text)
    text = "'here', one after the other (default), or 'ray', on a cluster's workers"
    add("--executor", choices=("here", "ray"), default="here", help=text)
    text = "of a Ray cluster (default: one is started on this machine)"
    add("--ray-address", metavar="ADDRESS", help=text)
    add("--workers", type=int, default=2, metavar="N", help="Ray's tasks at a time (default: 2)")


def _company(text: str) -> int | str:
    if text == AUTO:
        return AUTO
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a number or 'auto', not {text!r}") from None


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say.

    Returns:
        The exit code.

    Raises:
        FullGradError: a mistake in the arguments, or work that had to stop; what is done is kept.
    """
    for package in ("pandas", "pyarrow", "scipy"):
        require(package, "bench")
    if args.ray_address is not None and args.executor != "ray":
        raise UsageError("--ray-address needs --executor ray")
    if args.executor == "ray" and args.device.startswith("cuda:"):
        raise UsageError("--executor ray hands out the GPUs: give --device cuda")
    if args.minutes is not None and not args.minutes > 0:
        raise UsageError(f"--minutes must be positive, not {args.minutes:g}")
    deadline = None if args.minutes is None else time.monotonic() + 60 * args.minutes
    plan, data = _plan(args)
    device = usable(args.device)
    known = _known(args.out)
    store = StageStore(args.store or args.out / STAGES, lambda line: print(line, flush=True))
    company = 1 if args.company == AUTO else args.company
    roar = Roar(plan, data, store, InProcess(), device, company, Progress, deadline)
    left = roar.missing()
    trial: dict[int, float] = {}
    if args.company == AUTO and left:
        trial = fastest_company(roar, lambda line: print(line, flush=True))
        roar = replace(roar, company=min(trial, key=trial.__getitem__))
        print(company_text(trial, roar.company), flush=True)
    if args.dry_run:
        print(plan_text(plan, data, estimate(roar)))
        return DONE
    same = known is not None and known.get("plan") == plan.values()
    if not left and known is not None and same and _whole(args.out, known):
        print(f"finished before: {printable(args.out / RECORD)}")
        print(ranking_text(results.rows(plan, store), plan))
        return DONE
    if known is not None and not same:
        print(
            f"{printable(args.out)} holds results of other options, which these replace; the "
            "stages of both are kept",
            flush=True,
        )
    make_folder(args.out)
    sweep(args.out)
    done = _work(roar, args) if args.executor == "ray" and left else roar.run()
    left = roar.missing()
    if left or roar.missing_ranks(left):
        print(
            f"{duration(60 * args.minutes)} are over: {len(left)} of {len(plan.networks())} "
            "networks are left; the same command goes on"
        )
        return SOME_FAILED
    _write(roar, args, done, trial)
    print(ranking_text(results.rows(plan, store), plan))
    print(f"\n-> {printable(args.out)}")
    return DONE


def _work(roar: Roar, args: argparse.Namespace) -> int:
    gpus = min(1.0, torch.cuda.device_count() / args.workers)
    executor = OnRay(
        args.ray_address, args.workers, gpus if roar.device.startswith("cuda") else 0.0
    )
    try:
        return replace(roar, executor=executor).run()
    finally:
        executor.close()


def _plan(args: argparse.Namespace) -> tuple[RoarPlan, Dataset]:
    try:
        for name in ("company", "workers"):
            if getattr(args, name) != AUTO and getattr(args, name) < 1:
                raise ValueError(f"--{name} must be at least 1, not {getattr(args, name)}")
        choices = tuple(MethodChoice.parse(text) for text in args.methods)
        data = open_dataset(args.data, args.train_limit, args.test_limit)
        colours, side = data.train.shape[1], min(data.train.shape[2:])
        plan = RoarPlan(
            data=args.data,
            content=data.digest(),
            counts=(len(data.train), len(data.test)),
            network=NetworkChoice.for_images(args.model, args.width, data.train, len(data.classes)),
            training=Settings(
                epochs=args.epochs,
                batch=args.batch,
                rate=args.rate,
                shift=side // 8 if args.shift is None else args.shift,
                mirror=colours == 3 if args.mirror is None else args.mirror,
                precision=args.precision,
            ),
            choices=choices,
            fractions=tuple(sorted(args.fractions)),
            runs=args.runs,
            mask_runs=args.mask_runs,
            order=args.order,
            fill=args.fill,
            seed=args.seed,
            map_batch=args.map_batch,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    return plan, data


def _known(out: Path) -> dict[str, Any] | None:
    """The record of the results that are there.

    Raises:
        StoreError: the folder holds something else.
    """
    check_folder(out)
    try:
        names = {p.name for p in out.iterdir()} if out.is_dir() else set()
        text = (out / RECORD).read_text(encoding="utf-8") if RECORD in names else None
    except OSError as error:
        raise StoreError(f"{printable(out)} cannot be read: {error.strerror}") from error
    if text is None:
        if {n for n in names if not n.endswith(".tmp")} - {STAGES}:
            raise StoreError(
                f"{printable(out)} holds other files and no results of ROAR; give an empty folder"
            )
        return None
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("experiment") != "roar":
        raise StoreError(
            f"{printable(out)} holds the results of another experiment; give another folder"
        )
    return found


def _whole(out: Path, record: Mapping[str, Any]) -> bool:
    """Whether the files are those of the record: they are renamed one by one, the record first."""
    try:
        found = {name: _digest((out / name).read_bytes()) for name in record.get("files", ())}
    except OSError:
        return False
    return bool(found) and found == record["files"]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(roar: Roar, args: argparse.Namespace, done: int, trial: Mapping[int, float]) -> None:
    plan = roar.plan
    rows = results.rows(plan, roar.store)
    summary = results.summary(rows)
    tables = {
        "results": rows,
        "summary": summary,
        "ranking": results.ranking(rows, plan.order),
        "differences": results.differences(rows),
    }
    files = {f"{n}.csv": t.to_csv(index=False).encode() for n, t in tables.items()}
    with io.BytesIO() as file:
        rows.to_parquet(file, engine="pyarrow", index=False)
        files["results.parquet"] = file.getvalue()
    caveats = report.caveats(plan, roar.data)
    chance = report.chance(roar.data)
    files["curves.png"] = png(roar_curves(summary, plan.order, chance, caveats))
    files["examples.png"] = png(examples(*report.examples(roar)))
    record = {
        "experiment": "roar",
        "plan": plan.values(),
        "caveats": caveats,
        "chance": chance,
        "stages_done_now": done,
        "seconds": report.seconds(roar),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "device": report.device_name(roar.device),
        "executor": args.executor,
        "company": report.companies(roar),
        "company_trial": {str(n): seconds for n, seconds in trial.items()},
        "command": " ".join(map(printable, args.command_line)),
        "files": {name: _digest(content) for name, content in files.items()},
    }
    files = {RECORD: (json.dumps(record, indent=1) + "\n").encode(), **files}
    try:
        write_together(args.out, files)
    except OSError as error:
        raise StoreError(f"cannot write to {printable(args.out)}: {error.strerror}") from error

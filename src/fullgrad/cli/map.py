"""``fullgrad map``: the maps of a whole data set, in a store that a run resumes."""

from __future__ import annotations

import argparse
import os
import re
from typing import Any

from fullgrad._files import printable
from fullgrad._user_code import loaded
from fullgrad.cli import UsageError
from fullgrad.cli.arguments import (
    LABELS,
    add_method_arguments,
    add_model_arguments,
    chosen_method,
    class_names,
    model_of,
    positive,
)
from fullgrad.cli.main import DONE, SOME_FAILED
from fullgrad.datasets.encoding import DTYPES
from fullgrad.datasets.executors import EXECUTORS, Executor, Ray, executor_of
from fullgrad.datasets.explaining import PREDICTED, TRUE
from fullgrad.datasets.progress import duration, size
from fullgrad.datasets.running import Prepared, estimated, prepare
from fullgrad.datasets.running import run as run_prepared
from fullgrad.errors import ModelLoadError
from fullgrad.evaluation.sources import DataError
from fullgrad.vision.classification import number_of_classes
from fullgrad.vision.labels import class_index
from fullgrad.vision.models import LoadedModel

_DESCRIPTION = """\
Computes and stores the maps of a whole data set. Stop it when you like: the same command
resumes. Several runs can work on one store.

DATA is one of
  a folder of images, searched recursively
  a .csv or .parquet file with a column 'file' (of images) or 'text', and perhaps 'class_index'
    and 'id'
  a .tar file, or webdataset:PATTERN for many (each is a unit)
  a folder that the datasets library saved
  torchvision:NAME:ROOT[:SPLIT]
  FILE.py:FUNCTION, which returns a map-style data set: of tensors (series, volumes), or of dicts of
    tensors by the names of the model's arguments (token ids, images with texts)
"""
_EPILOG = """\
examples:
  fullgrad map photos/ --out maps
  fullgrad map photos/ --out maps --dry-run
  fullgrad map val.csv --target true --method difference_fullgrad --grid 14 14 --out maps
  fullgrad map reviews.csv --model net.py:make_model --transform net.py:tokenizer --out maps
  fullgrad map photos/ --out s3://bucket/maps --processes 4 --workers 2
  fullgrad map photos/ --out maps --part $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT
  torchrun --nproc-per-node 4 -m fullgrad map photos/ --out maps --executor torchrun

exit code: 0 all done; 1 all done, but some samples have an error instead of a map; 2 a mistake in
the arguments, or the run had to stop; what is done is kept. With --part, all is the run's own part.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fullgrad map``."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    add = parser.add_argument
    add("data", metavar="DATA", help="the data set, see above")
    text = "folder or fsspec address (s3://bucket/maps) of the store"
    add("--out", required=True, metavar="STORE", help=text)
    add_model_arguments(parser)
    add("--labels", metavar="FILE", help=LABELS)
    text = "from an image or a text to the model's input, in place of the model's preprocessing"
    add("--transform", metavar="FILE.py:NAME", help=text)
    add_method_arguments(parser)
    text = "predicted (default), true, or classes by number or name; several give several maps each"
    add("--target", nargs="+", default=[PREDICTED], metavar="CLASS", help=text)
    add("--top", type=positive, metavar="K", help="explain the K highest classes of each sample")
    text = (
        "an image's class is the name of the folder below DATA: one of the model's classes, or "
        "numbered alphabetically where their names are not known"
    )
    add("--folder-classes", action="store_true", help=text)
    add("--limit", type=positive, metavar="N", help="the first N samples alone")
    text = "samples that go through the model together, or 'auto' (default: 8, on a GPU 32)"
    add("--batch-size", type=_batch_size, metavar="N", help=text)
    text = "samples in a unit, which is stored whole or not at all (default: 256)"
    add("--unit", type=positive, metavar="N", help=text)
    text = "type of the stored numbers, each map with its own scale (default: %(default)s)"
    add("--dtype", choices=DTYPES, default="float16", help=text)
    text = "pool maps to this many cells along each axis, as in --grid 14 14 (default: no pooling)"
    add("--grid", type=positive, nargs="+", metavar="N", help=text)
    text = "tokens that are kept of each text; longer ones are rows with an error (default: 512)"
    add("--tokens", type=positive, metavar="N", help=text)
    text = "components of a module's path that make a stage (default: %(default)s)"
    add("--depth", type=positive, default=1, metavar="N", help=text)
    text = "PyTorch's threads in each process (default: the machine's, divided by --processes)"
    add("--threads", type=positive, metavar="N", help=text)
    add("--deterministic", action="store_true", help="PyTorch's deterministic algorithms alone")
    text = "processes that decode, for each that computes (default: %(default)s)"
    add("--workers", type=_not_negative, default=1, metavar="N", help=text)
    text = "processes that compute; with Ray, units at a time (default: %(default)s)"
    add("--processes", type=positive, default=1, metavar="N", help=text)
    text = "who computes (default: %(default)s)"
    add("--executor", choices=EXECUTORS, default="here", help=text)
    add(
        "--ray",
        metavar="ADDRESS",
        help="address of a Ray cluster (default: start one on this machine)",
    )
    text = "every N-th unit from the I-th on, I from 0, for jobs of an array"
    add("--part", type=_part, metavar="I/N", help=text)
    text = "read every shard that is there, and do damaged ones again"
    add("--check", action="store_true", help=text)
    text = "estimate time and bytes; write nothing"
    add("--dry-run", action="store_true", help=text)
    add("--quiet", action="store_true", help="no progress")


def _not_negative(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _batch_size(text: str) -> Any:
    return text if text == "auto" else positive(text)


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N - 1")
    return int(found[1]), int(found[2])


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say.

    Returns:
        The exit code.

    Raises:
        FullGradError: a mistake in the arguments, or work that had to stop.
    """
    executor = _executor(args)
    if args.check and args.dry_run:
        raise UsageError("--check computes damaged units again, --dry-run nothing: leave one out")
    method, options = chosen_method(args)
    model = model_of(args, prepares=args.transform is None)
    names, target = _target(args, model)
    ready = prepare(
        args.data,
        model,
        args.out,
        method=method,
        options=options,
        target=target,
        top=args.top,
        transform=_transform(args.transform),
        labels="folder" if args.folder_classes else None,
        limit=args.limit,
        class_names=names,
        batch_size=args.batch_size,
        unit=args.unit,
        dtype=args.dtype,
        grid=args.grid,
        tokens=args.tokens,
        depth=args.depth,
        deterministic=args.deterministic,
        threads=args.threads,
        workers=args.workers,
        processes=args.processes,
        part=executor.part(args.part),
    )
    if args.dry_run:
        print(_foretold(ready))
        return DONE
    first = int(os.environ.get("RANK", "0")) == 0 or args.executor != "torchrun"
    summary = run_prepared(ready, executor, check=args.check, progress=first and not args.quiet)
    print(summary)
    return DONE if summary.complete and not summary.errors_there else SOME_FAILED


def _transform(spec: str | None) -> Any:
    """What the name in a Python file stands for."""
    if spec is None:
        return None
    _, found = loaded(spec, DataError, again=False)
    if not callable(found):
        raise UsageError(f"--transform {printable(spec)} is a {type(found).__name__}, no function")
    return found


def _executor(args: argparse.Namespace) -> Executor:
    if args.executor == "ray":
        return Ray(args.ray, args.processes)
    if args.ray is not None:
        raise UsageError("--ray belongs to --executor ray")
    return executor_of(args.executor, args.processes)


def _target(args: argparse.Namespace, model: LoadedModel) -> tuple[tuple[str, ...] | None, Any]:
    """The names of the model's classes, and what is explained."""
    given: list[str] = args.target
    try:
        classes = number_of_classes(model)
    except ModelLoadError:  # no classifier; what it is given is tried when planning
        classes = None
    names = None if classes is None else class_names(args.labels, model, classes)
    if len(given) == 1 and given[0] in {PREDICTED, TRUE}:
        return names, given[0]
    word = next((text for text in (PREDICTED, TRUE) if text in given), None)
    if word is not None and word not in (names or ()):
        raise UsageError(
            f"--target {word} goes alone, not with {' '.join(w for w in given if w != word)}: make "
            "a store for each, or name classes"
        )
    if classes is None:
        raise UsageError(
            "--target needs a classifier, with an output for each class; in Python "
            "fullgrad.datasets.map takes a function of the output as target="
        )
    found = [class_index(text, names, classes) for text in given]
    return names, found[0] if len(found) == 1 else found


def _foretold(ready: Prepared) -> str:
    """What a run is going to take, for people."""
    plan, found = ready.plan, estimated(ready)
    shape = " x ".join(map(str, plan.positions))
    return "\n".join(
        [
            f"{plan.samples:,} samples in {plan.units} units, {len(ready.done)} of them done",
            f"{plan.method} maps of {shape}, {plan.dtype}, minibatches of {plan.batch_size}, "
            f"{plan.threads} threads",
            f"left: {found.maps:,} maps, about {duration(found.seconds)} of one process without "
            f"loading, and {size(found.bytes)}",
        ]
    )

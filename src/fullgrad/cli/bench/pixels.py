"""``fullgrad bench pixel-perturbation``."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import torch

from fullgrad._files import printable
from fullgrad._optional import require
from fullgrad.cli import UsageError
from fullgrad.cli.explain import add_model_arguments
from fullgrad.cli.main import DONE
from fullgrad.cli.progress import Progress
from fullgrad.evaluation import statistics
from fullgrad.evaluation.fills import FILLS
from fullgrad.evaluation.pixel_perturbation import Bench
from fullgrad.evaluation.pixel_perturbation import run as run_parts
from fullgrad.evaluation.plan import FRACTIONS, MethodChoice, PerturbationPlan
from fullgrad.evaluation.sources import open_source
from fullgrad.evaluation.store import RECORD, TABLE, Store
from fullgrad.vision.image_result import number_of_classes, versions
from fullgrad.vision.models import load_model
from fullgrad.viz.curves import perturbation_curves
from fullgrad.viz.overlay import png

METHODS = (
    "fullgrad",
    "simple_fullgrad",
    "smooth_fullgrad",
    "input_gradient",
    "input_x_gradient",
    "integrated_gradients",
    "smoothgrad",
    "grad_cam",
    "random",
    "sobel",
)

_DESCRIPTION = """\
Removes the k % least (or most) salient pixels of each image by each method's map, and measures
|f(x') - f(x)| / |f(x)| of the predicted class's logit (Srinivas & Fleuret 2019, section 5.1).

Writes into the results folder
  results.parquet, results.csv   one row for each image, method, order, fill and fraction
  summary.csv, ranking.csv       means over images with bootstrap 95 % intervals
  differences.csv                paired differences between methods
  curves.png                     the paper's figure
  record.json                    what is needed to run it again, and what it took
An interrupted run goes on where it was when it is started again; a finished one is not repeated.
"""
_EPILOG = """\
examples:
  fullgrad bench pixel-perturbation --images photos/ --out results
  fullgrad bench pixel-perturbation --images labels.csv --order both --fill black blur --out results
  fullgrad bench pixel-perturbation --images photos/ --out results \\
      --methods fullgrad fullgrad:terms=explicit fullgrad:psi=channel grad_cam random
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the experiment."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    add = parser.add_argument
    text = "folder of images, CSV with a column 'file', or torchvision:NAME:ROOT[:SPLIT]"
    add("--images", required=True, metavar="SOURCE", help=text)
    add("--limit", type=int, metavar="N", help="so many of them, spread evenly (default: all)")
    text = "results folder; each belongs to one run"
    add("--out", type=Path, required=True, metavar="DIR", help=text)
    text = "METHOD or METHOD:OPTION=VALUE,... (default: %(default)s)"
    add("--methods", nargs="+", default=list(METHODS), metavar="METHOD", help=text)
    text = "of the pixels that are removed, in (0, 1] (default: %(default)s)"
    add("--fractions", nargs="+", type=float, default=list(FRACTIONS), metavar="F", help=text)
    text = "least salient pixels first, as in the paper, most salient first, or both"
    add("--order", choices=("least", "most", "both"), default="least", help=text)
    text = "what removed pixels become (default: black)"
    add("--fill", nargs="+", choices=tuple(FILLS), default=["black"], help=text)
    text = "how many orders noise ('random', 'random_blobs') is tried with (default: %(default)s)"
    add("--random-orders", type=int, default=5, metavar="N", help=text)
    add("--seed", type=int, default=0, help="of ties, noise and random orders (default: 0)")
    text = "images at a time (default: %(default)s); the numbers depend on it by rounding only"
    add("--batch-size", type=int, default=10, metavar="N", help=text)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say.

    Returns:
        The exit code.

    Raises:
        FullGradError: a mistake in the arguments, or work that had to stop; what is done is kept.
    """
    require("pandas", "bench")
    require("pyarrow", "bench")
    bench = _bench(args)
    for name, why in bench.source.excluded:
        print(f"excluded: {printable(name)}: {why}", flush=True)
    store = Store(args.out, bench.plan.values())
    if store.missing(bench.parts):
        bench.check()
    progress = Progress(f"batches of {bench.plan.batch_size} images")
    try:
        done = run_parts(bench, store, progress)
    finally:
        progress.end()
    if not done and (args.out / RECORD).is_file():
        print(f"finished before: {printable(args.out / RECORD)}")
        print(_table(_typed(store.rows(bench.parts))))
        return DONE
    rows = _typed(store.rows(bench.parts))
    _write(store, bench, rows, args)
    print(_table(rows))
    print(f"\n-> {printable(args.out)}")
    return DONE


def _bench(args: argparse.Namespace) -> Bench:
    try:
        if args.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, not {args.batch_size}")
        choices = tuple(MethodChoice.parse(text) for text in args.methods)
        source = open_source(args.images, args.limit)
        model = load_model(args.model, args.weights, args.device)
        number_of_classes(model)
        plan = PerturbationPlan(
            model=model.spec,
            weights=model.weights,
            checkpoint=model.sha256,
            images=args.images,
            count=len(source.items),
            content=source.content,
            choices=choices,
            random_runs=args.random_orders,
            fractions=tuple(sorted(args.fractions)),
            orders=("least", "most") if args.order == "both" else (args.order,),
            fills=tuple(args.fill),
            seed=args.seed,
            batch_size=args.batch_size,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    return Bench(plan, model, source)


def _typed(rows: Any) -> Any:
    """Columns that may be empty, where labels are not known, keep their types."""
    types = {"label": "Int64", "correct_before": "boolean", "correct_after": "boolean"}
    return rows.astype(types)


def _write(store: Store, bench: Bench, rows: Any, args: argparse.Namespace) -> None:
    with io.BytesIO() as file:
        rows.to_parquet(file, engine="pyarrow", index=False)
        store.write(f"{TABLE}.parquet", file.getvalue())
    summary = statistics.summary(rows)
    for name, table in (
        (TABLE, rows),
        ("summary", summary),
        ("ranking", statistics.ranking(rows)),
        ("differences", statistics.differences(rows)),
    ):
        store.write(f"{name}.csv", table.to_csv(index=False).encode())
    note = f"{len(bench.source.items)} images, {bench.model.spec}."
    store.write("curves.png", png(perturbation_curves(summary, note)))
    seconds = store.seconds(bench.parts)
    minutes = {
        c.label: (seconds[f"maps {c.label}"] + seconds[f"perturbation {c.label}"]) / 60
        for c in bench.plan.choices
    }
    record = {
        "plan": bench.plan.values(),
        "excluded": [{"image": n, "why": w} for n, w in bench.source.excluded],
        "seconds": seconds,
        "images_per_minute": {
            label: len(bench.source.items) / max(m, 1e-9) for label, m in minutes.items()
        },
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "device": str(bench.model.device),
        "command": " ".join(map(printable, args.command_line)),
    }
    store.write(RECORD, (json.dumps(record, indent=1) + "\n").encode())


def _table(rows: Any) -> str:
    """The ranking, for people."""
    ranking = statistics.ranking(rows)
    width = max(6, *(len(m) for m in ranking["method"]))
    lines = []
    for (order, fill), group in ranking.groupby(["order", "fill"], sort=False):
        better = "lower" if order == "least" else "higher"
        lines.append(
            f"\n{order} salient first, filled {fill}: mean |change| / |output| over the "
            f"logarithmic axis ({better} is better)"
        )
        for _, r in group.iterrows():
            lines.append(
                f"  {r['rank']:>2}. {r['method']:<{width}}  {r['area']:.4f}  "
                f"[{r['low']:.4f}, {r['high']:.4f}]"
            )
    return "\n".join(lines).lstrip("\n")

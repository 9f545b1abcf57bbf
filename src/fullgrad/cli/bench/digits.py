"""``fullgrad bench digit-flipping``."""

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
from fullgrad.cli.main import DONE
from fullgrad.cli.progress import Progress
from fullgrad.errors import FullGradError
from fullgrad.evaluation import digit_flipping
from fullgrad.evaluation.digit_flipping import PAIRS, PIXELS, Choice, Flipping, FlippingPlan
from fullgrad.evaluation.digits import Digits, accuracy, load_digits, network, split, trained
from fullgrad.evaluation.statistics import interval
from fullgrad.evaluation.store import RECORD, TABLE, Store
from fullgrad.vision.checkpoints import load_state, read_checkpoint
from fullgrad.vision.image_result import versions
from fullgrad.viz.digits import Example, flipping_curves, flipping_examples
from fullgrad.viz.overlay import png

METHODS = (
    "fullgrad",
    "fullgrad/absolute",
    "input_gradient",
    "input_x_gradient",
    "integrated_gradients",
    "smoothgrad",
    "grad_cam:relu=False",
    "deeplift",
    "random",
)
NETWORK = "network.pt"

_DESCRIPTION = """\
Erases the pixels that make a handwritten digit one class rather than another, by the signed map for
its class less that for the other, and measures by how much the log-odds fall (Shrikumar et al.
2017; supplement of Srinivas & Fleuret 2019). A small network is trained on the digits first.

Writes into the results folder results.parquet, results.csv, summary.csv, curves.png (log-odds
against pixels), examples.png (digits before and after) and record.json. An interrupted run goes on
where it was; a finished one is not repeated.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the experiment."""
    parser.description = _DESCRIPTION
    add = parser.add_argument
    text = "folder with MNIST's idx files, image folder with 0/ to 9/, or torchvision:ROOT"
    add("--digits", required=True, metavar="SOURCE", help=text)
    add("--download", action="store_true", help="let torchvision fetch the digits")
    add("--out", type=Path, required=True, metavar="DIR", help="results folder")
    text = "METHOD, METHOD:OPTION=VALUE,... or either with /absolute (default: %(default)s)"
    add("--methods", nargs="+", default=list(METHODS), metavar="METHOD", help=text)
    text = "pairs of digits A-B: erase what makes A rather than B (default: 8-3 8-6 9-1 9-4)"
    add("--pairs", nargs="+", default=[f"{a}-{b}" for a, b in PAIRS], metavar="A-B", help=text)
    text = "how many pixels are erased at most (default: %(default)s; 157 are a fifth)"
    add("--pixels", nargs="+", type=int, default=list(PIXELS), metavar="N", help=text)
    add("--count", type=int, default=50, help="digits of each pair (default: %(default)s)")
    text = "share of the digits that the network does not learn from (default: %(default)s)"
    add("--test-share", type=float, default=0.2, metavar="SHARE", help=text)
    add("--epochs", type=int, default=5, help="of the network's training (default: %(default)s)")
    add("--seed", type=int, default=0, help="default: 0")


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say.

    Returns:
        The exit code.

    Raises:
        FullGradError: a mistake in the arguments, or work that had to stop; what is done is kept.
    """
    require("pandas", "bench")
    require("pyarrow", "bench")
    digits = load_digits(args.digits, args.download)
    plan = _plan(args, digits)
    store = Store(args.out, plan.values())
    train, test = split(digits, plan.test_share, plan.seed)
    model = _network(store, plan, train)
    flipping = Flipping(plan, model, test)
    progress = Progress("pairs of digits")
    try:
        done = digit_flipping.run(flipping, store, progress)
    finally:
        progress.end()
    rows = store.rows(len(plan.pairs))
    if not len(rows):
        raise UsageError("no test digit of these pairs is told right by the network")
    table = _summary(rows)
    if done or not (args.out / RECORD).is_file():
        _write(store, flipping, rows, table, args, accuracy(model, test))
    else:
        print(f"finished before: {printable(args.out / RECORD)}")
    print(_text(table, plan.pixels[-1]))
    print(f"\n-> {printable(args.out)}")
    return DONE


def _plan(args: argparse.Namespace, digits: Digits) -> FlippingPlan:
    pairs = []
    for text in args.pairs:
        a, dash, b = text.partition("-")
        if not (dash and a.isdecimal() and b.isdecimal()):
            raise UsageError(f"--pairs {text!r} is not of the form A-B, like 8-3")
        pairs.append((int(a), int(b)))
    try:
        return FlippingPlan(
            digits=args.digits,
            content=digits.digest(),
            choices=tuple(Choice.parse(text) for text in args.methods),
            pairs=tuple(pairs),
            pixels=tuple(sorted(args.pixels)),
            count=args.count,
            test_share=args.test_share,
            epochs=args.epochs,
            seed=args.seed,
        )
    except FullGradError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def _network(store: Store, plan: FlippingPlan, train: Digits) -> Any:
    """The trained network: from the folder if it is there and whole, else trained now."""
    path = store.folder / NETWORK
    model = network()
    try:
        load_state(model, read_checkpoint(path), NETWORK)
        return model.eval()
    except FullGradError:
        pass  # not there, or damaged
    print(f"training on {len(train.labels)} digits, {plan.epochs} epochs", flush=True)
    model = trained(train, plan.epochs, plan.seed)
    with io.BytesIO() as file:
        torch.save(model.state_dict(), file)
        store.write(NETWORK, file.getvalue())
    return model


def _summary(rows: Any) -> Any:
    pandas: Any = require("pandas", "bench")
    keys = ["pair", "method", "pixels"]
    found = []
    for key, group in rows.groupby(keys, sort=False):
        values = group["change"].to_numpy()
        low, high = interval(values)
        found.append(
            {
                **dict(zip(keys, key, strict=True)),
                "digits": len(values),
                "change": float(values.mean()),
                "low": low,
                "high": high,
                "erased": float(group["erased"].mean()),
            }
        )
    return pandas.DataFrame(found)


def _write(
    store: Store, flipping: Flipping, rows: Any, table: Any, args: Any, share: float
) -> None:
    with io.BytesIO() as file:
        rows.to_parquet(file, engine="pyarrow", index=False)
        store.write(f"{TABLE}.parquet", file.getvalue())
    store.write(f"{TABLE}.csv", rows.to_csv(index=False).encode())
    store.write("summary.csv", table.to_csv(index=False).encode())
    note = f"Network: {share:.1%} of {len(flipping.test.labels)} test digits right."
    store.write("curves.png", png(flipping_curves(table, note)))
    most = flipping.plan.pixels[-1]
    store.write("examples.png", png(flipping_examples(_examples(flipping, most), most)))
    record = {
        "plan": flipping.plan.values(),
        "accuracy": share,
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "command": " ".join(map(printable, args.command_line)),
    }
    store.write(RECORD, (json.dumps(record, indent=1) + "\n").encode())


def _examples(flipping: Flipping, pixels: int) -> list[Example]:
    """The first digit of each pair."""
    found = []
    for a, b in flipping.plan.pairs:
        index = flipping.chosen(a)[:1]
        if not len(index):
            continue
        x = flipping.test.rows(index).inputs()
        after, changes = {}, {}
        for choice in flipping.plan.choices:
            order, positive = digit_flipping.ranked(flipping.difference(choice, x, a, b))
            gone = digit_flipping.erased(x, order, positive, pixels)
            after[choice.label] = gone[0, 0].numpy()
            odds = flipping.log_odds(torch.cat([x, gone]), a, b)
            changes[choice.label] = float(odds[0] - odds[1])
        found.append(Example(f"{a}→{b}", x[0, 0].numpy(), after, changes))
    return found


def _text(table: Any, pixels: int) -> str:
    """Fall of the log-odds at the most pixels, averaged over pairs, for people."""
    last = table[table["pixels"] == pixels].groupby("method", sort=False)["change"].mean()
    width = max(map(len, last.index))
    lines = [
        f"fall of the log-odds with {pixels} pixels erased, mean over pairs (higher is better)"
    ]
    ordered = last.sort_values(ascending=False, kind="stable")
    lines += [f"  {i:>2}. {m:<{width}}  {v:8.2f}" for i, (m, v) in enumerate(ordered.items(), 1)]
    return "\n".join(lines)

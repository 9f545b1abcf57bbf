"""The command ``python -m benchmarks``: measures, stores, and writes the page with its plots."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch

from benchmarks import environment, page, runner
from benchmarks.isolated import ROOT, WorkerError
from benchmarks.methods import BASELINE, METHODS, ON_REQUEST, check_installed, of_kind
from benchmarks.results import ResultsError, Store
from benchmarks.subjects import COMPARED, SIZE, SUBJECTS
from benchmarks.tasks import Kind

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
KINDS: tuple[Kind, ...] = get_args(Kind)
RENDER = "render"
BATCHES = {"cpu": (1, 8, 32), "cuda": (1, 8, 32, 64, 256)}
DTYPES = {"cpu": ("float32",), "cuda": ("float32", "bfloat16")}
_QUICK = {"models": ["resnet18"], "batches": [1, 2], "size": 96, "rounds": 3}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure what explanations cost, and write docs/benchmarks.md with its plots. "
        "An interrupted run resumes when the same command is given again.",
        allow_abbrev=False,
    )
    parser.add_argument("--models", nargs="+", metavar="NAME", help="(all eight of the comparison)")
    parser.add_argument(
        "--batches", nargs="+", type=_positive, metavar="N", help="(1 8 32; GPU: and 64 256)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.add_argument(
        "--dtype", nargs="+", choices=DTYPES["cuda"], help="(float32; GPU: and bfloat16)"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=tuple(METHODS),
        metavar="NAME",
        help=f"of {', '.join(METHODS)} (all but what takes minutes to make; of the compiled ones "
        f"cudagraphs on a GPU, graph elsewhere); {BASELINE} is always measured",
    )
    parser.add_argument("--size", type=_positive, metavar="PIXELS", help=f"({SIZE})")
    parser.add_argument(
        "--rounds",
        type=_positive,
        metavar="N",
        help="exactly N, of expensive methods at most 3 (as many as seem sensible)",
    )
    parser.add_argument(
        "--longest",
        type=_amount,
        default=300.0,
        metavar="SECONDS",
        help="skip an expensive method where one call would take longer (%(default)g)",
    )
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="the time that the process itself gets, on a machine that does other work; set "
        "OMP_NUM_THREADS=1",
    )
    parser.add_argument(
        "--memory-limit",
        type=_amount,
        metavar="GIB",
        help="of each process beyond its libraries, on the CPU (nine tenths of what is free)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=(*KINDS, RENDER),
        default=list(KINDS),
        metavar="PART",
        help=f"of {', '.join((*KINDS, RENDER))} (all); the page is written in any case",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few minutes: ResNet-18, small inputs, three rounds, into build/benchmarks",
    )
    parser.add_argument("--out", type=Path, help="folder of data, images and page (docs)")
    parser.add_argument("--fresh", action="store_true", help="discard the stored results")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _amount(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")


def _completed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, with the defaults that depend on other arguments."""
    options = parser.parse_args(argv)
    usual = {"models": list(COMPARED), "batches": BATCHES[options.device], "size": SIZE}
    usual["methods"] = [m for m in METHODS if m not in ON_REQUEST[options.device]]
    usual |= {"dtype": DTYPES[options.device], "out": ROOT / "docs", "rounds": None}
    if options.quick:
        usual |= {**_QUICK, "out": ROOT / "build" / "benchmarks"}
    for name, value in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    unknown = [name for name in options.models if name not in SUBJECTS]
    if unknown:
        parser.error(f"unknown model {', '.join(unknown)}; known: {', '.join(SUBJECTS)}")
    measured = set(options.only) != {RENDER}
    if measured and options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here")
    for name in ("models", "batches", "dtype"):  # each once, in the order given
        setattr(options, name, list(dict.fromkeys(getattr(options, name))))
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments; by default those of the process.

    Returns:
        0: done; 1: a measuring process broke; 2: a mistake in the arguments, a missing package, or
        results that do not fit; 130: interrupted.
    """
    options = _completed(_parser(), argv)
    try:
        _measure(options)
        for path in page.render(options.out):
            print(path)
    except KeyboardInterrupt:
        return _say("interrupted; the same command resumes", INTERRUPTED)
    except ImportError as error:
        return _say(f"error: {error}; make install has all that the benchmarks need", REFUSED)
    except ResultsError as error:
        return _say(f"error: {error}", REFUSED)
    except WorkerError as error:
        return _say(f"error: {error}", FAILED)
    return DONE


def _measure(options: argparse.Namespace) -> None:
    kinds = [kind for kind in KINDS if kind in options.only]
    if not kinds:
        return
    methods = tuple(m for m in METHODS if m in options.methods or m == BASELINE)
    check_installed(tuple({n for kind in kinds for n in of_kind(kind, methods)}))
    here = environment.here(options.device)
    store = Store(
        options.out / "data" / f"benchmarks-{options.device}.jsonl", here, fresh=options.fresh
    )
    tasks = runner.plan(
        kinds,
        options.models,
        options.batches,
        options.dtype,
        options.device,
        methods,
        size=options.size,
        quick=options.quick,
        rounds=options.rounds,
        longest=options.longest,
        clock="processor" if options.processor_time else "wall",
        memory_limit=options.memory_limit,
    )
    runner.measure_all(tasks, store, here)


def _say(message: str, code: int) -> int:
    print(f"benchmarks: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

"""``fullgrad bench``: tests of saliency maps, each a command of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fullgrad._files import check_folder, printable
from fullgrad.cli import UsageError
from fullgrad.cli.arguments import add_model_arguments, add_stated_arguments
from fullgrad.cli.main import DONE, SOME_FAILED
from fullgrad.cli.progress import Progress
from fullgrad.errors import FullGradError
from fullgrad.evaluation import bench
from fullgrad.evaluation.agreement import agreement
from fullgrad.evaluation.experiment import Test
from fullgrad.evaluation.options import Option
from fullgrad.evaluation.store import RECORD, sweep

_AGREEMENT = "agreement"
_NOT_OPTIONS = ("command", "command_line", "experiment", "out", "store", "dry_run")


class _Renamed(argparse.Action):
    """Takes an option under its old name, and reports the new one."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        new = f"--{self.dest.replace('_', '-')}"
        print(f"fullgrad: warning: {option_string} is now {new}", file=sys.stderr)
        setattr(namespace, self.dest, values)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of every test."""
    parser.description = "Tests of saliency maps. Interrupted runs resume."
    commands = parser.add_subparsers(dest="experiment", metavar="EXPERIMENT", required=True)
    options: dict[str, Any] = {
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "allow_abbrev": False,
    }
    for name, kind in bench.kinds().items():
        sub = commands.add_parser(name, help=kind.title, **options)
        add_test_arguments(sub, kind)
    sub = commands.add_parser(
        _AGREEMENT, help="how methods rank under each test of several runs", **options
    )
    sub.description = (
        "Ranks methods under each test (order, fill) of several runs, gives the rank correlation\n"
        "of the tests, and says where they disagree."
    )
    sub.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="results folders")
    text = "folder for agreement.md, ranks.csv and correlations.csv (default: print only)"
    sub.add_argument("--out", type=Path, metavar="DIR", help=text)


def add_test_arguments(parser: argparse.ArgumentParser, kind: type[Test]) -> None:
    """Declare the arguments of one test.

    Args:
        parser: of its command, whose description and examples are set as well.
        kind: the test's class.
    """
    parser.description, parser.epilog = kind.description or kind.title, kind.epilog
    add = parser.add_argument
    for option in kind.declared():
        _declare(parser, option)
    add("--out", type=Path, required=True, metavar="DIR", help="results folder")
    text = "folder of finished work, which several results may share (default: stages/ in --out)"
    add("--store", type=Path, metavar="DIR", help=text)
    if hasattr(kind, "outlook"):
        text = "tell the plan and what it takes; write nothing"
        add("--dry-run", action="store_true", help=text)
    if kind.for_model:
        add_model_arguments(parser)
    elif kind.for_models:
        add_stated_arguments(parser)


def _declare(parser: argparse.ArgumentParser, option: Option) -> None:
    default, text = option.default, option.help
    if default not in (None, ()) and option.kind is not bool:
        several = isinstance(default, tuple)
        written = " ".join(map(str, default)) if several else default
        text += f" (default: {written})".replace("%", "%%")
    settings: dict[str, Any] = {"help": text, "default": default, "required": option.required}
    if option.kind is bool:
        settings["action"] = "store_true" if default is False else argparse.BooleanOptionalAction
    else:
        settings |= {"type": option.kind, "choices": option.choices}
        if option.kind is not str:
            settings["metavar"] = "N"
        if isinstance(default, tuple):
            settings["nargs"] = "+"
    flags = [f for f in (option.flag, option.also) if f is not None]
    parser.add_argument(*flags, **settings)
    if option.old is not None:
        hidden = argparse.SUPPRESS
        old: dict[str, Any] = {"dest": option.name, "action": _Renamed}
        parser.add_argument(option.old, default=hidden, help=hidden, **old)


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say.

    Returns:
        The exit code.

    Raises:
        FullGradError: a mistake in the arguments, or work that had to stop; what is done is kept.
    """
    if args.experiment == _AGREEMENT:
        if args.out is not None:
            check_folder(args.out)
        return _agreement(args.runs, args.out)
    return run_test(args, args.experiment)


def run_test(args: argparse.Namespace, name: str) -> int:
    """Run one test with its arguments.

    Args:
        args: of :func:`add_test_arguments`.
        name: of the test.

    Returns:
        The exit code.

    Raises:
        FullGradError: a mistake in the arguments, or work that had to stop; what is done is kept.
    """
    check_folder(args.out)
    options = {k: v for k, v in vars(args).items() if k not in _NOT_OPTIONS}
    try:
        return _run(args, name, options)
    except FullGradError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def _run(args: argparse.Namespace, name: str, options: dict[str, Any]) -> int:
    if getattr(args, "dry_run", False):
        print(bench.outlook(name, args.out, store=args.store, say=_say, **options))
        return DONE
    found = bench.bench(
        name,
        args.out,
        store=args.store,
        meter=Progress,
        say=_say,
        command=args.command_line,
        **options,
    )
    if found.known:
        print(f"finished before: {printable(args.out / RECORD)}")
    print(found)
    if not found.finished:
        return SOME_FAILED
    where = args.out
    if found.test.page:
        from fullgrad.report.page import write_page

        sweep(args.out)  # a killed run's half-written page
        where = write_page(args.out)
    print(f"\n-> {printable(where)}")
    return SOME_FAILED if found.test.left_out else DONE


def _say(line: str) -> None:
    print(line, flush=True)


def _agreement(runs: Sequence[Path], out: Path | None) -> int:
    found = agreement(runs)
    if out is not None:
        found.write(out)
        print(f"-> {printable(out)}\n")
    print(found.as_markdown(), end="")
    return DONE

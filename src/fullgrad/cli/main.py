"""The command ``fullgrad``: finds the subcommand, and turns every failure into one line.

A subcommand is one module with ``add_arguments(parser)`` and ``run(args) -> exit code``; it is
imported only when it is named on the command line.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from fullgrad._version import __version__
from fullgrad.errors import FullGradError

DONE, SOME_FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
_TRACEBACK = "FULLGRAD_TRACEBACK"


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand.

    Args:
        name: on the command line.
        module: that implements it.
        help: one line.
    """

    name: str
    module: str
    help: str


COMMANDS = (
    Command("explain", "fullgrad.cli.explain", "draw and store maps of photographs"),
    Command("compare", "fullgrad.cli.compare", "draw several methods on one sheet"),
    Command("map", "fullgrad.cli.map", "store maps of a whole data set"),
    Command("report", "fullgrad.cli.report", "make one HTML file of results, to share"),
    Command("app", "fullgrad.cli.app", "open a viewer in the browser, on this machine"),
    Command("evaluate", "fullgrad.cli.evaluate", "test which map to trust on your model"),
    Command("bench", "fullgrad.cli.bench", "run single tests of maps, the paper's among them"),
    Command("methods", "fullgrad.cli.listing", "list the methods, their options and papers"),
    Command("demo", "fullgrad.cli.demo", "explain a few photographs that need no download"),
    Command("check", "fullgrad.cli.check", "show what a model's output is made of"),
    Command(
        "export", "fullgrad.cli.export", "write a file that makes maps without fullgrad: ONNX, .pt2"
    ),
    Command("theory", "fullgrad.cli.theory", "show the paper's two properties on a small network"),
)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without repeating the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(REFUSED, f"fullgrad: error: {message} (see {self.prog} --help)\n")


def _close(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word.partition("=")[0], known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments after the command's name; by default those of the process.

    Returns:
        0: all done; 1: some images failed, the others are done; 2: a mistake in the arguments,
        model, target or output folder, nothing done; 130: interrupted.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(given)
    except SystemExit as end:  # argparse: after --help, --version or a mistake
        return end.code if isinstance(end.code, int) else REFUSED
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output, `head` for example, has had enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - else Python complains on its way out
        return SOME_FAILED
    except Exception as error:
        if os.environ.get(_TRACEBACK):
            raise
        if isinstance(error, FullGradError):
            return _fail(str(error), REFUSED)
        return _fail(
            f"unexpected {type(error).__name__}: {error}; set {_TRACEBACK}=1 to see where", REFUSED
        )


def _run(given: list[str]) -> int:
    parser = _Parser(
        prog="fullgrad",
        description="Shows which parts of an input a PyTorch model's output comes from, as numbers "
        "that add up to that output.",
        epilog="fullgrad COMMAND --help shows a command's options and examples.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fullgrad {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    named = next((word for word in given if not word.startswith("-")), None)
    chosen: Any = None
    for command in COMMANDS:
        subparser = commands.add_parser(
            command.name,
            help=command.help,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if command.name == named:
            chosen = importlib.import_module(command.module)
            chosen.add_arguments(subparser)
    if named is not None and named not in commands.choices:
        parser.error(f"unknown command {named!r}{_close(named, [c.name for c in COMMANDS])}")
    args, unknown = parser.parse_known_args(given)
    if unknown:
        options = re.findall(r"--[\w-]+", commands.choices[named or ""].format_usage())
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{_close(unknown[0], options)}")
    args.command_line = ["fullgrad", *given]
    code: int = chosen.run(args)
    sys.stdout.flush()
    return code


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    print(f"fullgrad: error: {line}", file=sys.stderr)
    return code

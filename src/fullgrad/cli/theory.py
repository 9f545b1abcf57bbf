"""``fullgrad theory``: the two properties of full-gradients, on a network small enough to see."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fullgrad._files import check_folder, make_folder, printable, write_together
from fullgrad._optional import require
from fullgrad.cli import UsageError
from fullgrad.cli.arguments import path_of, seed
from fullgrad.cli.main import DONE
from fullgrad.evaluation.theory.figure import figure
from fullgrad.evaluation.theory.properties import theory
from fullgrad.evaluation.theory.summary import record, table
from fullgrad.viz.overlay import png

_DESCRIPTION = """\
Trains a small ReLU network on points of the plane (seconds, on the CPU), finds its linear regions
exactly, and measures two properties of three representations:
  complete          its numbers, with the input, give the output
  weakly dependent  they are constant within a linear region

It prints the table and writes into the output folder
  theory.png   the regions, the sums, and what changes along a path
  theory.json  every number behind it
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fullgrad theory``."""
    parser.description = _DESCRIPTION
    text = "output folder, made if need be (default: %(default)s)"
    parser.add_argument(
        "--out", type=path_of, default=Path("theory-output"), metavar="DIR", help=text
    )
    text = "seed of the points and of the network's first weights (default: %(default)s)"
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help=text)


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say.

    Returns:
        The exit code.

    Raises:
        FullGradError: nothing was done.
    """
    require("matplotlib", "cli")
    check_folder(args.out)
    result = theory(args.seed)
    text = json.dumps(record(result, args.command_line), indent=2, allow_nan=False) + "\n"
    contents = {"theory.png": png(figure(result)), "theory.json": text.encode()}
    make_folder(args.out)
    try:
        files = write_together(args.out, contents)
    except OSError as error:
        raise UsageError(f"the results cannot be written: {error.strerror}") from error
    print(table(result))
    print("\n".join(f"-> {printable(file)}" for file in files))
    return DONE

"""``fullgrad report``: one HTML file of what other commands wrote."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from fullgrad._files import check_folder, make_folder, printable, write_together
from fullgrad._optional import require
from fullgrad.cli import UsageError
from fullgrad.cli.arguments import positive
from fullgrad.cli.main import DONE, SOME_FAILED
from fullgrad.datasets.analysis.choice import Choice
from fullgrad.report import report
from fullgrad.report.stored import MOST, Look

_HEAVY = 25_000_000  # bytes from which on a page is slow to open and to send

_DESCRIPTION = """\
Makes one HTML file of results, to share: pictures, where each logit comes from, tables, how they
were made and how to make them again. It holds its pictures, needs no network, and opens from disk.

PATH is a folder that 'fullgrad explain', 'compare', 'map', 'evaluate' or 'bench' wrote into, or a
single record (NAME.json) of the first two. Pictures of stages are shown where NAME.layers.npz is
beside a record. For a store of maps it shows mean maps, clusters, and some of the samples.
"""
_EPILOG = """\
examples:
  fullgrad report fullgrad-output
  fullgrad report STORE --where "prediction != label" --sort probability --out wrong.html
  fullgrad report maps/cat.json sheet.json results/ --out cat.html --title "The cat"

exit code: 0 all done; 1 the page is written, but something is missing in it, which it says; 2
mistake in the arguments or nothing to report, nothing written.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fullgrad report``."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    add = parser.add_argument
    add("paths", nargs="+", type=Path, metavar="PATH", help="folder or record of results")
    text = "the page (default: %(default)s)"
    add("--out", type=Path, default=Path("report.html"), metavar="FILE", help=text)
    add("--title", default="", metavar="TEXT", help="title of the page (default: what it holds)")
    text = "for a store: which samples, such as 'prediction != label'; given again, both must hold"
    add("--where", action="append", metavar="CONDITION", help=text)
    add("--sort", metavar="COLUMN", help="for a store: the column to order samples by")
    add("--largest-first", action="store_true", help="with --sort, the largest first")
    text = f"for a store: how many samples the contact sheet shows (default: {MOST})"
    add("--most", type=positive, metavar="N", help=text)
    text = "for a store: where its data are now, if they were moved"
    add("--data", metavar="DATA", help=text)


def _look(args: argparse.Namespace) -> Look | None:
    """What is shown of stores, where anything was asked for."""
    if args.largest_first and not args.sort:
        raise UsageError("--largest-first needs a column to order by: --sort COLUMN")
    if args.where is None and not any((args.sort, args.most, args.data)):
        return None
    choice = Choice.parse(args.where or (), args.sort or "")
    choice = replace(choice, descending=choice.descending or args.largest_first)
    return Look(choice, args.most or MOST, args.data)


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say.

    Returns:
        The exit code.

    Raises:
        FullGradError: nothing was written.
    """
    require("matplotlib", "cli")
    out: Path = args.out
    if out.suffix.lower() not in {".html", ".htm"}:
        raise UsageError(f"--out {printable(out)} must end in .html")
    if out.is_dir():
        raise UsageError(f"--out {printable(out)} is a folder: name a file")
    check_folder(out.parent)
    command = shlex.join(map(printable, args.command_line))
    made = report(args.paths, args.title, command, _look(args))
    make_folder(out.parent)
    content = made.html.encode()
    try:
        write_together(out.parent, {out.name: content})
    except OSError as error:
        raise UsageError(f"{printable(out)} cannot be written: {error.strerror}") from error
    for problem in made.problems:
        print(f"fullgrad: note: {' '.join(problem.split())}", file=sys.stderr)
    if len(content) > _HEAVY:
        size = f"{len(content) / 1e6:.0f} MB"
        print(
            f"fullgrad: note: the page has {size}; report fewer photographs for a lighter one",
            file=sys.stderr,
        )
    print(f"{made.counted}\n-> {printable(out)}")
    return SOME_FAILED if made.problems else DONE

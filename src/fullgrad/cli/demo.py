"""``fullgrad demo``: a few photographs explained, without a download."""

from __future__ import annotations

import argparse
from pathlib import Path

from fullgrad import methods
from fullgrad._files import printable, write_together
from fullgrad._optional import require
from fullgrad.cli import UsageError
from fullgrad.cli.arguments import add_model_arguments
from fullgrad.cli.explain import explain_files
from fullgrad.vision.areas import CELL
from fullgrad.vision.images import FoundImage
from fullgrad.vision.samples import sample_photographs
from fullgrad.viz.overlay import png
from fullgrad.viz.sheet import Row, sheet

SHEET = "contact-sheet.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fullgrad demo``."""
    parser.description = (
        "Explains photographs that come with scikit-image, and puts them on one contact sheet."
    )
    text = "output folder, made if need be (default: %(default)s)"
    parser.add_argument("--out", type=Path, default=Path("demo-output"), metavar="DIR", help=text)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say.

    Returns:
        The exit code.

    Raises:
        FullGradError: nothing was done.
    """
    require("matplotlib", "demo")
    contents = {f"{name}.png": content for name, content in sample_photographs().items()}
    args.images = [args.out / name for name in contents]
    args.target, args.labels, args.batch_size = None, None, 1
    args.method, args.psi, args.terms, args.option = None, None, None, []
    args.layers, args.rather_than, args.check = False, None, False
    args.cell, args.depth = CELL, None
    args.overlay, args.replace, args.quiet, args.json = True, False, False, False
    found = [FoundImage(path, path.stem) for path in args.images]
    results, code = explain_files(args, found)  # which checks before it explains anything
    try:
        write_together(args.out, contents)
    except OSError as error:
        raise UsageError(f"the photographs cannot be written: {error.strerror}") from error
    rows = [
        Row(
            result.view,
            result.map.shown,
            result.label,
            f"probability {result.probability or 0:.0%}\nlogit {result.logit:.1f}",
            result.map.signed,
        )
        for result in results
    ]
    if rows:
        write_together(args.out, {SHEET: png(sheet(rows, f"{methods.RECOMMENDED} (red raises)"))})
        print(f"all together: {printable(args.out / SHEET)}")
    return code()

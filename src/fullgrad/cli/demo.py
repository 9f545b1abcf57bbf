"""``fullgrad demo``: a few photographs explained, without a download."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from fullgrad import methods
from fullgrad._files import printable, write_together
from fullgrad._optional import require
from fullgrad.cli import UsageError
from fullgrad.cli.arguments import add_model_arguments, path_of
from fullgrad.cli.explain import explain_files
from fullgrad.vision.areas import CELL
from fullgrad.vision.images import OVERLAY_SUFFIX, FoundImage
from fullgrad.vision.samples import sample_photographs
from fullgrad.viz.images import MAP_SUFFIX
from fullgrad.viz.overlay import png
from fullgrad.viz.sheet import Row, sheet

SHEET = "contact-sheet.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fullgrad demo``."""
    parser.description = (
        "Explains photographs that come with scikit-image, and puts them on one contact sheet."
    )
    text = "output folder, made if need be (default: %(default)s)"
    parser.add_argument(
        "--out", type=path_of, default=Path("demo-output"), metavar="DIR", help=text
    )
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
    found = [FoundImage(image, image.stem) for image in args.images]
    _refuse_others(args.out, contents)
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


def _refuse_others(out: Path, contents: Mapping[str, bytes]) -> None:
    """Refuse to replace what no demo wrote: other photographs, or results beside none of its own.

    Raises:
        UsageError: there is such a file.
    """
    there = {out / name: content for name, content in contents.items() if (out / name).exists()}
    others = [file for file, content in there.items() if not _holds(file, content)]
    if len(others) == len(there):
        suffixes = (OVERLAY_SUFFIX, MAP_SUFFIX, ".json")
        stems = (Path(name).stem for name in contents)
        results = [SHEET, *(f"{stem}{suffix}" for stem in stems for suffix in suffixes)]
        others += [out / name for name in results if (out / name).exists()]
    if others:
        raise UsageError(
            f"{printable(others[0])} is there already and not from fullgrad demo: name another "
            "folder with --out"
        )


def _holds(file: Path, content: bytes) -> bool:
    return file.is_file() and file.read_bytes() == content

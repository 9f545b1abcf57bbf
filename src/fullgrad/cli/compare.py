"""``fullgrad compare``: a sheet of photographs and saliency methods."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fullgrad import methods
from fullgrad._files import check_folder, make_folder, printable, write_together
from fullgrad._optional import require
from fullgrad.cli import UsageError
from fullgrad.cli.explain import (
    RATHER_THAN,
    add_model_arguments,
    classes_of,
    note_random_weights,
    options_of,
)
from fullgrad.cli.main import DONE, SOME_FAILED
from fullgrad.cli.progress import Progress
from fullgrad.vision.image_result import ImageResult
from fullgrad.vision.images import find_images
from fullgrad.vision.models import LoadedModel, load_model
from fullgrad.vision.provenance import provenance
from fullgrad.viz.compare import RULES, most_rows
from fullgrad.viz.comparison import Comparison, compare, parse_choices, word
from fullgrad.viz.style import FORMATS, saved

METHODS = (
    "input_gradient",
    "integrated_gradients",
    "smoothgrad",
    "grad_cam",
    "fullgrad",
    methods.RECOMMENDED,
)

_DESCRIPTION = """\
Draws the maps of several saliency methods on several photographs side by side, for the class that
the model predicts, or for one given class, or for what speaks for it rather than for another.

Writes FILE, and beside it FILE's name with .json: classes, probabilities, why a method does not
apply, and how to get it again. 'fullgrad report' makes a page of them.
"""
_EPILOG = """\
examples:
  fullgrad compare cat.jpg dog.jpg --out sheet.png
  fullgrad compare holiday/ --methods fullgrad fullgrad:psi=channel grad_cam random --out sheet.pdf
  fullgrad compare cat.jpg --model torchvision:resnet50 --target "tiger cat" --scale rank
  fullgrad compare cat.jpg --rather-than "tiger cat" --methods complete_fullgrad grad_cam

exit code: 0 all done; 1 some photographs or maps failed, the others are drawn; 2 mistake in the
arguments or no method applies, nothing done. A method that does not apply to the model is no
failure: the sheet says so.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fullgrad compare``."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    add = parser.add_argument
    add("images", nargs="*", type=Path, metavar="IMAGE", help="image file, or folder of them")
    text = "METHOD or METHOD:OPTION=VALUE,... ('fullgrad methods' lists them; default: %(default)s)"
    add("--methods", nargs="+", default=list(METHODS), metavar="METHOD", help=text)
    text = f"the sheet, in the format of its name: {', '.join(FORMATS)} (default: %(default)s)"
    add("--out", type=Path, default=Path("comparison.png"), metavar="FILE", help=text)
    text = "class to explain in every photograph: index or name (default: the predicted one)"
    add("--target", metavar="CLASS", help=text)
    add("--rather-than", metavar="CLASS", help=RATHER_THAN)
    text = "class names, one a line, or 'imagenet' for those of ImageNet-1k"
    add("--labels", metavar="FILE", help=text)
    text = (
        "what the colours of two maps have in common: 'map' nothing, each map by itself; 'rank' "
        "how many pixels have a colour; 'method' the numbers of a method (default: %(default)s)"
    )
    add("--scale", choices=tuple(RULES), default="map", help=text)
    add("--title", metavar="TEXT", help="on top (default: the model)")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say.

    Returns:
        The exit code.

    Raises:
        FullGradError: nothing was written.
    """
    if not args.images:
        raise UsageError(
            "no photograph given: name image files or folders, as in 'fullgrad compare cat.jpg'"
        )
    require("matplotlib", "cli")
    try:
        choices = parse_choices(args.methods)
    except ValueError as error:
        raise UsageError(str(error)) from error
    paths = find_images(args.images)
    _check_out(args.out, paths)
    if len(paths) > (most := most_rows(len(choices))):
        raise UsageError(f"a sheet has room for {most} photographs, not for {len(paths)}")
    model = load_model(args.model, args.weights, args.device)
    note_random_weights(model)
    names, target, other = classes_of(args, model)
    make_folder(args.out.parent)
    progress = Progress("maps")

    def on_row(row: ImageResult) -> None:
        progress.end()
        print(told(row), flush=True)

    def on_failure(path: Path, reason: str) -> None:
        progress.end()
        print(f"fullgrad: error: {' '.join(reason.split())}", file=sys.stderr, flush=True)

    try:
        found = compare(
            model,
            paths,
            choices,
            names=names,
            target=target,
            rather_than=other,
            scale=args.scale,
            on_map=progress,
            on_row=on_row,
            on_failure=on_failure,
        )
    finally:
        progress.end()
    if not found.rows:
        print("nothing was written: no photograph is left to compare", file=sys.stderr)
        return SOME_FAILED
    if all(cell.values is None for row in found.rows for cell in row.maps):
        first = found.rows[0].map
        raise UsageError(f"no method gives a map; {first.label}: {first.reason}")
    _write(args, model, found)
    return DONE if found.complete else SOME_FAILED


def _check_out(out: Path, images: Sequence[Path]) -> None:
    kind = out.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        known = ", ".join(f".{f}" for f in FORMATS)
        raise UsageError(f"--out {printable(out)} must end in one of {known}")
    if out.is_dir():
        raise UsageError(f"--out {printable(out)} is a folder: name a file")
    check_folder(out.parent)
    if out.resolve() in {path.resolve() for path in images}:
        raise UsageError(f"--out {printable(out)} is one of the photographs")


def told(row: ImageResult) -> str:
    """One photograph, for people."""
    lines = [
        f"{printable(row.photograph.path)}: {row.subject_indices}, "
        f"probability {row.probability:.1%}, {row.numbers}"
    ]
    lines += [f"  {c.label} {word(c)}: {c.reason}" for c in row.maps if c.values is None]
    return "\n".join(lines)


def _write(args: argparse.Namespace, model: LoadedModel, found: Comparison) -> None:
    out: Path = args.out
    sheet = saved(found.figure(args.title), out.suffix.lower().removeprefix("."))
    made = provenance(model, args.command_line, options_of(args))
    text = found.record(made, out.name, sheet).text()
    try:
        files = write_together(out.parent, {out.name: sheet, f"{out.stem}.json": text.encode()})
    except OSError as error:
        raise UsageError(f"{printable(out)} cannot be written: {error.strerror}") from error
    for file in files:
        print(f"-> {printable(file)}")

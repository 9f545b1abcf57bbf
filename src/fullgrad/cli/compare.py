"""``fullgrad compare``: a sheet of photographs and saliency methods."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fullgrad import methods
from fullgrad._files import check_folder, make_folder, printable, sha256_of, write_together
from fullgrad._optional import require
from fullgrad.cli import UsageError
from fullgrad.cli._earlier import record_in
from fullgrad.cli.arguments import (
    LABELS,
    RATHER_THAN,
    TARGET,
    add_model_arguments,
    asked_of,
    check_words,
    images_of,
    model_of,
    options_of,
    path_of,
    target_forms,
)
from fullgrad.cli.main import DONE, SOME_FAILED
from fullgrad.cli.progress import Progress
from fullgrad.vision.image_result import ImageResult
from fullgrad.vision.models import LoadedModel
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
    parser.description = _DESCRIPTION
    parser.epilog = f"{_EPILOG}\n{target_forms()}\n"
    add = parser.add_argument
    add("images", nargs="*", type=path_of, metavar="IMAGE", help="image file, or folder of them")
    text = (
        "METHOD, METHOD:OPTION=VALUE,... or own.py:FUNCTION ('fullgrad methods' lists them; "
        f"default: {' '.join(METHODS)})"
    )
    add("--methods", nargs="+", metavar="METHOD", help=text)
    text = f"the sheet, in the format of its name: {', '.join(FORMATS)} (default: %(default)s)"
    add("--out", type=path_of, default=Path("comparison.png"), metavar="FILE", help=text)
    add("--target", metavar="TARGET", help=TARGET)
    add("--rather-than", metavar="CLASS", help=RATHER_THAN)
    add("--labels", metavar="FILE", help=LABELS)
    text = (
        "what the colors of two maps have in common: 'map' nothing, each map by itself; 'rank' "
        "how many pixels have a color; 'method' the numbers of a method (default: %(default)s)"
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
    require("matplotlib", "cli")
    try:
        choices = parse_choices(args.methods or METHODS)
    except ValueError as error:
        raise UsageError(str(error)) from error
    paths = [image.path for image in images_of(args, "compare")]
    _check_out(args.out, paths)
    if len(paths) > (most := most_rows(len(choices))):
        raise UsageError(
            f"a sheet has room for {most} photographs, not for {len(paths)}: name fewer"
        )
    check_words(args)
    model = model_of(args)
    asked = asked_of(args, model)
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
            names=asked.names,
            target=asked.target,
            rather_than=asked.rather_than,
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
    from fullgrad.vision.schema import ComparisonRecord

    kind = out.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        known = ", ".join(f".{f}" for f in FORMATS)
        raise UsageError(f"--out {printable(out)} must end in one of {known}")
    if out.is_dir():
        raise UsageError(f"--out {printable(out)} is a folder: name a file")
    check_folder(out.parent)
    if out.resolve() in {path.resolve() for path in images}:
        raise UsageError(f"--out {printable(out)} is one of the photographs")
    record = out.with_name(f"{out.stem}.json")
    try:
        found = record_in(record, ComparisonRecord)
    except ValueError as error:
        raise UsageError(
            f"{printable(record)}, where the record of --out {printable(out)} would be, is no "
            "comparison: name another file with --out"
        ) from error
    own = found is not None and found.sheet is not None and found.sheet.sha256
    if out.exists() and own != sha256_of(out):
        raise UsageError(
            f"{printable(out)} is no sheet of fullgrad, or was changed since: name another file "
            "with --out"
        )


def told(row: ImageResult) -> str:
    """One photograph, for people."""
    likely = "" if row.probability is None else f"probability {row.probability:.1%}, "
    lines = [f"{printable(row.photograph.path)}: {row.subject_indices}, {likely}{row.numbers}"]
    lines += [f"  {c.label} {word(c)}: {c.reason}" for c in row.maps if c.values is None]
    return "\n".join(lines)


def _write(args: argparse.Namespace, model: LoadedModel, found: Comparison) -> None:
    out: Path = args.out
    sheet = saved(found.figure(args.title), out.suffix.lower().removeprefix("."))
    made = provenance(model, args.command_line, options_of(args))
    text = found.record(made, out.name, sheet, by_default=args.methods is None).text()
    try:
        files = write_together(out.parent, {out.name: sheet, f"{out.stem}.json": text.encode()})
    except OSError as error:
        raise UsageError(f"{printable(out)} cannot be written: {error.strerror}") from error
    for file in files:
        print(f"-> {printable(file)}")

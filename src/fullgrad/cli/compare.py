"""``fullgrad compare``: a sheet of photographs and saliency methods."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fullgrad import methods
from fullgrad._files import printable, write_together
from fullgrad._optional import require
from fullgrad.cli import UsageError
from fullgrad.cli.compared import Row, compared, reasons, record, said, told
from fullgrad.cli.explain import add_model_arguments, class_names
from fullgrad.cli.files import check_folder, make_folder
from fullgrad.cli.main import DONE, SOME_FAILED
from fullgrad.cli.progress import Progress
from fullgrad.errors import FullGradError, ImageError
from fullgrad.evaluation.plan import MethodChoice
from fullgrad.methods.attribution import EXTRA
from fullgrad.vision.image_result import number_of_classes
from fullgrad.vision.images import find_images, read_photograph
from fullgrad.vision.labels import class_index
from fullgrad.vision.models import LoadedModel, load_model
from fullgrad.viz.compare import RULES, Compared, comparison, most_rows
from fullgrad.viz.style import FORMATS, saved

METHODS = ("input_gradient", "integrated_gradients", "smoothgrad", "grad_cam", "fullgrad")

_DESCRIPTION = """\
Draws the maps of several saliency methods on several photographs side by side, for the class that
the model predicts, or for one given class.

Writes FILE, and beside it FILE's name with .json: classes, probabilities, why a method does not
apply, and how to get it again. 'fullgrad report' makes a page of them.
"""
_EPILOG = """\
examples:
  fullgrad compare cat.jpg dog.jpg --out sheet.png
  fullgrad compare holiday/ --methods fullgrad fullgrad:psi=channel grad_cam random --out sheet.pdf
  fullgrad compare cat.jpg --model torchvision:resnet50 --target "tiger cat" --scale rank

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
    choices = _choices(args.methods)
    paths = find_images(args.images)
    _check_out(args.out, paths)
    if len(paths) > (most := most_rows(len(choices))):
        raise UsageError(f"a sheet has room for {most} photographs, not for {len(paths)}")
    model = load_model(args.model, args.weights, args.device)
    if not model.trained:
        print(
            f"fullgrad: note: {model.spec} has random weights: its classes and maps mean nothing",
            file=sys.stderr,
        )
    classes = number_of_classes(model)
    names = class_names(args.labels, model, classes)
    target = None if args.target is None else class_index(args.target, names, classes)
    make_folder(args.out.parent)
    failed: list[tuple[Path, str]] = []
    rows = _rows(model, paths, choices, names, target, failed)
    if not rows:
        print("nothing was written: no photograph is left to compare", file=sys.stderr)
        return SOME_FAILED
    if all(cell.map is None for row in rows for cell in row.cells):
        first = rows[0].cells[0]
        raise UsageError(f"no method gives a map; {first.method}: {first.reason}")
    _write(args, model, rows, choices, failed)

    broken = any(c.map is None and c.applies for r in rows for c in r.cells)
    return SOME_FAILED if failed or broken else DONE


def _choices(texts: Sequence[str]) -> tuple[MethodChoice, ...]:
    try:
        choices = tuple(map(MethodChoice.parse, texts))
    except ValueError as error:
        raise UsageError(str(error)) from error
    labels = [c.label for c in choices]
    if twice := sorted({x for x in labels if labels.count(x) > 1}):
        raise UsageError(f"asked for twice: {', '.join(twice)}")
    for choice in choices:
        if package := methods.get(choice.name).package:
            require(package, EXTRA)
    return choices


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


def _rows(
    model: LoadedModel,
    paths: Sequence[Path],
    choices: Sequence[MethodChoice],
    names: tuple[str, ...] | None,
    target: int | None,
    failed: list[tuple[Path, str]],
) -> list[Row]:
    rows = []
    progress = Progress("maps")
    total = len(paths) * len(choices)

    def fail(path: Path, text: str) -> None:
        progress.end()
        failed.append((path, text))
        print(f"fullgrad: error: {' '.join(text.split())}", file=sys.stderr, flush=True)

    try:
        for place, path in enumerate(paths):
            try:
                photograph = read_photograph(path)
            except ImageError as error:
                fail(path, str(error))
                continue
            tick = partial(_tick, progress, place * len(choices), total)
            try:
                row = compared(model, photograph, choices, names, target, tick)
            except (FullGradError, RuntimeError, MemoryError, ValueError) as error:
                fail(path, f"{printable(path)} cannot be explained: {said(error)}")
                continue
            rows.append(row)
            progress.end()
            print(told(row), flush=True)
    finally:
        progress.end()
    return rows


def _tick(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _rule(target: int | None) -> str:
    which = "which the model predicts" if target is None else "which was asked for"
    return f"Every map explains the class at its left, {which}; probability is its softmax."


def _write(
    args: argparse.Namespace,
    model: LoadedModel,
    rows: Sequence[Row],
    choices: Sequence[MethodChoice],
    failed: Sequence[tuple[Path, str]],
) -> None:
    rule = _rule(args.target)
    shown = [
        Compared(
            row.view,
            row.name,
            tuple(c.shown for c in row.cells),
            f"probability {row.probability:.1%}\n{row.photograph.path.name}",
        )
        for row in rows
    ]
    figure = comparison(
        shown,
        [c.label for c in choices],
        scale=args.scale,
        rule=rule,
        notes=reasons(rows),
        title=model.spec if args.title is None else args.title,
    )
    sheet = saved(figure, args.out.suffix.lower().removeprefix("."))
    values = record(model, rows, choices, failed, args.command_line) | {
        "scale": args.scale,
        "rule": f"{RULES[args.scale]} {rule}",
        "sheet": {"file": printable(args.out.name), "sha256": hashlib.sha256(sheet).hexdigest()},
    }
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    contents = {args.out.name: sheet, f"{args.out.stem}.json": text.encode()}
    try:
        files = write_together(args.out.parent, contents)
    except OSError as error:
        raise UsageError(f"{printable(args.out)} cannot be written: {error.strerror}") from error
    for file in files:
        print(f"-> {printable(file)}")

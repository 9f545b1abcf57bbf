"""``fullgrad demo``: a few photographs explained, without a download."""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fullgrad._files import printable, write_together
from fullgrad._optional import require
from fullgrad.cli import UsageError
from fullgrad.cli.explain import add_model_arguments, explain_files
from fullgrad.errors import ImageError
from fullgrad.viz.overlay import png
from fullgrad.viz.sheet import Row, sheet

# Functions of skimage.data whose photographs come with scikit-image; they show one clear thing.
PHOTOGRAPHS = {
    "cat": "chelsea",
    "coffee": "coffee",
    "rocket": "rocket",
    "photographer": "camera",
    "motorcycle": "stereo_motorcycle",
}
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
    require("matplotlib", "cli")
    contents = {f"{name}.png": content for name, content in _photographs()}
    args.images = [args.out / name for name in contents]
    args.target, args.labels, args.batch_size = None, None, 1
    args.method, args.psi, args.terms, args.option = "fullgrad", None, None, []
    args.layers = False
    results, code = explain_files(args)  # which checks everything before it explains anything
    try:
        write_together(args.out, contents)
    except OSError as error:
        raise UsageError(f"the photographs cannot be written: {error.strerror}") from error
    rows = [
        Row(
            result.view,
            result.saliency,
            result.label,
            f"probability {result.probability:.0%}\nlogit {result.logit:.1f}",
        )
        for result in results
    ]
    if rows:
        write_together(args.out, {SHEET: png(sheet(rows))})
        print(f"\nall together: {printable(args.out / SHEET)}")
    return code()


def _photographs() -> Iterator[tuple[str, bytes]]:
    """Name and PNG content of each photograph that scikit-image has at hand."""
    data: Any = require("skimage.data", "demo")
    pil: Any = require("PIL.Image", "vision")
    found = False
    for name, function in PHOTOGRAPHS.items():
        try:
            pixels = getattr(data, function)()
        except Exception:  # some releases leave photographs out, to be downloaded
            continue
        found = True
        pixels = pixels[0] if isinstance(pixels, tuple) else pixels
        with io.BytesIO() as file:
            pil.fromarray(pixels).save(file, format="PNG")
            yield name, file.getvalue()
    if not found:
        raise ImageError("scikit-image holds none of the demo's photographs, and none can be got")

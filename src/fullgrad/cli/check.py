"""``fullgrad check``: a model's decomposition, in numbers."""

from __future__ import annotations

import argparse
from dataclasses import replace

from fullgrad._files import printable, write_together
from fullgrad.cli import UsageError
from fullgrad.cli.arguments import (
    add_stated_arguments,
    add_weights_arguments,
    note_about,
    options_of,
    path_of,
    positive,
    sample_shape,
    seed,
    target_forms,
)
from fullgrad.cli.main import DONE
from fullgrad.operations.linearization import NAMES
from fullgrad.vision.check import ROWS, check
from fullgrad.vision.models import DEFAULT_MODEL, from_options, load_model
from fullgrad.vision.provenance import provenance

_DESCRIPTION = """\
Splits a model's output into its terms, and shows where it comes from: the input and each stage,
their sum and what it leaves over, the kinds of terms, and what a saliency map can be made of.
The input is a photograph, or random numbers.
"""
_EPILOG = """\
examples:
  fullgrad check
  fullgrad check torchvision:resnet18 --weights none --depth 2
  fullgrad check timm:vit_tiny_patch16_224 --weights none --input cat.jpg --target "tiger cat"
  fullgrad check my_model.py:make_model --size 3x16x112x112 --json check.json
  fullgrad check my_model.py:make_model --size 40 --dtype float64
  fullgrad check torchvision:vit_b_16 --weights none --linearization balanced

exit code: 0 done; 2 mistake in the arguments or a model that cannot be decomposed, nothing done.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fullgrad check``."""
    parser.description = _DESCRIPTION
    parser.epilog = f"{_EPILOG}\n{target_forms()}\n"
    add = parser.add_argument
    text = (
        "%(default)s (default), torchvision:NAME, timm:NAME, hf:FOLDER (of transformers), or "
        "path/to/file.py:FUNCTION, which is executed and returns an nn.Module"
    )
    add("model", nargs="?", default=DEFAULT_MODEL, metavar="MODEL", help=text)
    add_weights_arguments(parser)
    add_stated_arguments(parser, size=False)
    text = "photograph, prepared as the model wants it (default: random numbers)"
    add("--input", type=path_of, metavar="PHOTO", help=text)
    text = (
        "size of the random input: HxW of an image with 3 channels, CxHxW, or any shape of one "
        "sample "
        "(40, 3x16x112x112; with commas two numbers are two axes: 10,16) "
        "(default: the model's input size)"
    )
    add("--size", type=sample_shape, metavar="SIZE", help=text)
    add("--batch", type=positive, metavar="N", help="random samples (default: 1)")
    add("--seed", type=seed, metavar="N", help="seed of the random input (default: 0)")
    text = "precision of model and input (default: the model's own)"
    add("--dtype", choices=("float32", "float64"), help=text)
    text = "class, or indices C,Y,X of a dense output (default: predicted); all forms are below"
    add("--target", metavar="TARGET", help=text)
    text = "linear maps that stand for the operations (default: %(default)s)"
    add("--linearization", choices=NAMES, default="jacobian", help=text)
    text = "components of the module path that make a stage (default: %(default)s)"
    add("--depth", type=positive, default=1, metavar="N", help=text)
    text = f"every stage, not only the {ROWS} that contribute most"
    add("--all", action="store_true", help=text)
    add("--json", type=path_of, metavar="FILE", help="write the numbers there as well")


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say.

    Returns:
        The exit code.

    Raises:
        FullGradError: nothing was done.
    """
    _check(args)
    settings = from_options(vars(args))
    model = load_model(args.model, args.weights, args.device, settings)
    found = check(
        model,
        args.input,
        size=args.size,
        batch=args.batch or 1,
        seed=args.seed or 0,
        dtype=args.dtype,
        target=args.target,
        depth=args.depth,
        linearization=args.linearization,
    )
    text = found.text(None if args.all else ROWS)
    if args.json:
        content = found.record(provenance(model, args.command_line, options_of(args))).text()
        try:
            write_together(args.json.parent, {args.json.name: content.encode()})
        except OSError as error:
            raise UsageError(
                f"{printable(args.json)} cannot be written: {error.strerror}"
            ) from error
        text += f"\n-> {printable(args.json)}"
    note_about(model if args.input else replace(model, assumed=()))
    print(text)
    return DONE


def _check(args: argparse.Namespace) -> None:
    for option in ("size", "batch", "seed"):
        if args.input is not None and getattr(args, option) is not None:
            raise UsageError(f"--{option} belongs to random inputs: leave it out, or --input")
    if args.json is not None:
        if args.json.is_dir() or not args.json.name:
            raise UsageError(f"--json {printable(args.json)} is a folder: name a file")
        if not args.json.parent.is_dir():
            raise UsageError(f"the folder of --json {printable(args.json)} does not exist")

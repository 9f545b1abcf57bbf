"""``fullgrad export``: a model's maps as a file that runs without fullgrad."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import get_args

import torch

from fullgrad._files import printable
from fullgrad.cli import UsageError
from fullgrad.cli.arguments import (
    add_stated_arguments,
    add_weights_arguments,
    chosen_method,
    note_about,
    path_of,
    positive,
    sample_shape,
)
from fullgrad.cli.main import DONE
from fullgrad.interop.compiling.call import METHODS
from fullgrad.interop.exporting.artifact import Artifact, Format, Port, export, file_of
from fullgrad.vision.images import input_of, read_photograph
from fullgrad.vision.models import DEFAULT_MODEL, LoadedModel, from_options, load_model

_DESCRIPTION = """\
Writes a model's maps as one file that runs without fullgrad: from a batch and its classes to
logits, maps and residuals. The model's weights are constants in it, and the batch size is fixed.

The file is then loaded, run, and compared with fullgrad. One that differs is not kept.
"""
_EPILOG = """\
examples:
  fullgrad export --out map.onnx
  fullgrad export --model torchvision:resnet18 --method complete_fullgrad --out map.onnx
  fullgrad export --model my_model.py:make_model --size 3x112x112 --batch-size 8 --out map.pt2
  fullgrad export --input cat.jpg --format aot_inductor --out map.pt2

exit code: 0 done; 2 a mistake in the arguments, a model that cannot be exported, or other numbers
than fullgrad's; no file is written then.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fullgrad export``."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    add = parser.add_argument
    text = "file to write: .onnx, or .pt2 for PyTorch"
    add("--out", type=path_of, required=True, metavar="FILE", help=text)
    text = (
        "%(default)s (default), torchvision:NAME, timm:NAME, hf:FOLDER (of transformers), or "
        "path/to/file.py:FUNCTION, which is executed and returns an nn.Module"
    )
    add("--model", default=DEFAULT_MODEL, metavar="MODEL", help=text)
    add_weights_arguments(parser)
    add_stated_arguments(parser, size=False)
    text = f"saliency method: {', '.join(METHODS)} (default: %(default)s)"
    add("--method", default=METHODS[0], metavar="METHOD", help=text)
    text = "an option of the method, as in --option psi=channel; may be repeated"
    add("--option", action="append", default=[], metavar="NAME=VALUE", help=text)
    parser.set_defaults(psi=None, terms=None)
    text = "torch (.pt2), aot_inductor (.pt2, compiled), onnx (default: onnx for .onnx, else torch)"
    add("--format", choices=get_args(Format), help=text)
    text = (
        "of one sample: HxW of an image with 3 channels, or any shape (40, 3x16x112x112) "
        "(default: the model's input size)"
    )
    add("--size", type=sample_shape, metavar="SIZE", help=text)
    text = "samples that the file takes at a time, no more and no fewer (default: 1)"
    add("--batch-size", type=positive, metavar="N", help=text)
    text = "photograph that the file is compared with fullgrad on (default: random numbers, seed 0)"
    add("--input", type=path_of, metavar="PHOTO", help=text)


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say.

    Returns:
        The exit code.

    Raises:
        FullGradError: nothing was written.
    """
    if args.input is not None:
        for option in ("size", "batch_size"):
            if getattr(args, option) is not None:
                flag = option.replace("_", "-")
                raise UsageError(f"--{flag} belongs to random inputs: leave it out, or --input")
    out, kind = file_of(args.out, args.format)
    method, options = chosen_method(args)
    if method is None or method.name not in METHODS:
        raise UsageError(
            f"--method {args.method} cannot be exported: choose {', '.join(METHODS)}. "
            "'fullgrad explain' and 'fullgrad map' take any method"
        )
    model = load_model(args.model, args.weights, args.device, from_options(vars(args)))
    own = (p.dtype for p in model.module.parameters() if p.is_floating_point())
    if args.input is not None:
        x = input_of(read_photograph(args.input), model.preprocessing)[None]
    else:
        prepared = model.preprocessing
        shape = (args.batch_size or 1, *(args.size or (prepared.channels, *prepared.crop)))
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    x = x.to(model.device, next(own, torch.get_default_dtype()))
    made = export(model.module, x, out, method=method.name, format=kind, **options)
    note_about(model if args.input else replace(model, assumed=()))
    print(_text(made, model, "the photograph" if args.input else "random numbers"))
    return DONE


def _text(made: Artifact, model: LoadedModel, inputs: str) -> str:
    found, prepared = made.compared, model.preprocessing
    rows = {
        "inputs": _ports(made.inputs),
        "outputs": _ports(made.outputs),
        "prepared": f"by the caller: colors 0 to 1, minus {prepared.mean}, divided by "
        f"{prepared.std}",
        "compared": f"with fullgrad, {found.samples} samples ({inputs} and mirror images): "
        f"{found.equal} equal, with differences up to {found.difference:.1e} of a map's largest",
    }
    if found.samples > found.equal:
        rows["rounding"] = (
            f"{found.samples - found.equal} others differ by up to {found.jumps:.1e}: fullgrad's "
            "own maps of them jump with rounding as far"
        )
    own = made.in_pytorch
    rows["graph"] = (
        f"run by PyTorch: {own.equal} of {own.samples} equal, differences up to "
        f"{own.difference:.1e}"
    )
    width = max(map(len, rows))
    first = f"{made.method} of {model.spec}: {made.format}, {made.size / 1e6:.1f} MB"
    lines = [f"{name:<{width}}  {text}" for name, text in rows.items()]
    return "\n".join([first, *lines, f"-> {printable(made.path)}"])


def _ports(ports: tuple[Port, ...]) -> str:
    return ", ".join(f"{p.name} ({p.dtype}, {'x'.join(map(str, p.shape))})" for p in ports)

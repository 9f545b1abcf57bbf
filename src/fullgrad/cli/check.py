"""``fullgrad check``: a model's decomposition, in numbers."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fullgrad._files import printable, write_together
from fullgrad.cli import UsageError
from fullgrad.cli.checked import ROWS, Report, as_json, as_text, report_of
from fullgrad.cli.main import DONE
from fullgrad.decomposition import decompose
from fullgrad.decomposition.result import Decomposition
from fullgrad.engine.targets import Target
from fullgrad.errors import FullGradError
from fullgrad.vision.images import preprocess, read_photograph
from fullgrad.vision.labels import class_index
from fullgrad.vision.models import DEFAULT_MODEL, LoadedModel, load_model

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

exit code: 0 done; 2 mistake in the arguments or a model that cannot be decomposed, nothing done.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fullgrad check``."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    add = parser.add_argument
    text = (
        "%(default)s (default), torchvision:NAME, timm:NAME, or path/to/file.py:FUNCTION, "
        "which is executed and returns an nn.Module"
    )
    add("model", nargs="?", default=DEFAULT_MODEL, metavar="MODEL", help=text)
    text = (
        "local checkpoint (.pth, .safetensors), 'none' for random weights, or a name of "
        "torchvision's (default: the model's pre-trained weights)"
    )
    add("--weights", metavar="WEIGHTS", help=text)
    add("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: %(default)s)")
    text = "photograph, prepared as the model wants it (default: random numbers)"
    add("--input", type=Path, metavar="PHOTO", help=text)
    text = (
        "of the random input: HxW of an image with 3 channels, CxHxW, or any shape of one sample "
        "(40, 3x16x112x112; with commas two numbers are two axes: 10,16) "
        "(default: the model's input size)"
    )
    add("--size", type=_size, metavar="SIZE", help=text)
    add("--batch", type=_count, metavar="N", help="random samples (default: 1)")
    add("--seed", type=_seed, metavar="N", help="of the random input (default: 0)")
    text = "precision of model and input (default: the model's own)"
    add("--dtype", choices=("float32", "float64"), help=text)
    text = "class to explain: index, name, or indices C,Y,X of a dense output (default: predicted)"
    add("--target", metavar="CLASS", help=text)
    text = "components of the module path that make a stage (default: %(default)s)"
    add("--depth", type=_count, default=1, metavar="N", help=text)
    text = f"every stage, not only the {ROWS} that contribute most"
    add("--all", action="store_true", help=text)
    add("--json", type=Path, metavar="FILE", help="write the numbers there as well")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def _size(text: str) -> tuple[int, ...]:
    parts = text.split("," if "," in text else "x")
    if not all(p.isascii() and p.isdecimal() and int(p) > 0 for p in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size: give HxW, or the shape of one sample as in 40 or 3x224x224"
        )
    sizes = tuple(map(int, parts))
    return (3, *sizes) if len(sizes) == 2 and "x" in text else sizes


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say.

    Returns:
        The exit code.

    Raises:
        FullGradError: nothing was done.
    """
    _check(args)
    model = load_model(args.model, args.weights, args.device)
    x, about = _input(args, model, _in_precision(model, args.dtype))
    d = _decomposed(model, x, _target(args.target, model))
    report = report_of(d, args.depth)
    explained = _explained(report, model, args.target)
    text = as_text(report, _heading(model, about, explained), None if args.all else ROWS)
    if args.json:
        values = as_json(report, model, about, explained, args.command_line)
        content = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            write_together(args.json.parent, {args.json.name: content.encode()})
        except OSError as error:
            raise UsageError(
                f"{printable(args.json)} cannot be written: {error.strerror}"
            ) from error
        text += f"\n-> {printable(args.json)}"
    if not model.trained:
        note = f"{model.spec} has random weights: its classes and maps mean nothing"
        print(f"fullgrad: note: {note}", file=sys.stderr)
    print(text)
    return DONE


def _check(args: argparse.Namespace) -> None:
    for option in ("size", "batch", "seed"):
        if args.input is not None and getattr(args, option) is not None:
            raise UsageError(f"--{option} is of random inputs: leave it out, or --input")
    if args.json is not None:
        if args.json.is_dir() or not args.json.name:
            raise UsageError(f"--json {printable(args.json)} is a folder: name a file")
        if not args.json.parent.is_dir():
            raise UsageError(f"the folder of --json {printable(args.json)} does not exist")


def _in_precision(model: LoadedModel, dtype: str | None) -> torch.dtype:
    """Bring the model to a precision; the one it has by default."""
    if dtype is None:
        own = (p.dtype for p in model.module.parameters() if p.is_floating_point())
        return next(own, torch.get_default_dtype())
    wanted: torch.dtype = getattr(torch, dtype)
    try:
        model.module.to(wanted)
    except (RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"{model.spec} cannot be brought to {dtype}: {reason}") from error
    return wanted


def _input(
    args: argparse.Namespace, model: LoadedModel, dtype: torch.dtype
) -> tuple[Tensor, dict[str, Any]]:
    preprocessing = model.preprocessing
    if args.input is not None:
        photograph = read_photograph(args.input)
        x = preprocess(photograph.image, preprocessing)[None]
        about: dict[str, Any] = {"kind": "photograph", "path": printable(args.input)}
        about["sha256"] = photograph.sha256
    else:
        seed = args.seed or 0
        shape = (args.batch or 1, *(args.size or (3, *preprocessing.crop)))
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        about = {"kind": "random", "seed": seed}
    about |= {"shape": list(x.shape), "dtype": str(dtype).removeprefix("torch.")}
    return x.to(model.device, dtype), about


def _target(text: str | None, model: LoadedModel) -> Target:
    if text is None:
        return None
    parts = text.split(",")
    if all(p.strip().isascii() and p.strip().isdecimal() for p in parts):
        indices = tuple(map(int, parts))
        return indices[0] if len(indices) == 1 else indices
    names = model.class_names
    if not names:
        raise UsageError(
            f"the target {text!r} is no index, and the class names of {model.spec} are not known"
        )
    return class_index(text, names, len(names))


def _decomposed(model: LoadedModel, x: Tensor, target: Target) -> Decomposition:
    try:
        return decompose(model.module, x, target)
    except FullGradError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UsageError("out of memory: choose a smaller --size or --batch") from error
    except Exception as error:
        try:
            with torch.no_grad():
                model.module(x)
        except Exception as its_own:
            size = "x".join(map(str, x.shape))
            raise UsageError(
                f"{model.spec} fails on an input of shape {size}: {type(its_own).__name__}: "
                f"{its_own} (--size gives the shape of one sample)"
            ) from error
        raise


def _explained(report: Report, model: LoadedModel, target: str | None) -> dict[str, Any]:
    """What f is, for the first sample."""
    index, names = report.samples[0].target, model.class_names
    given = "" if target is None or index is not None else target.replace(" ", "")
    return {
        "source": report.source,
        "target": given if index is None else index,
        "name": names[index] if names and index is not None and index < len(names) else None,
        "chosen": "predicted" if target is None and index is not None else "given",
    }


def _heading(model: LoadedModel, about: dict[str, Any], explained: dict[str, Any]) -> list[str]:
    what = f"random, seed {about['seed']}" if about["kind"] == "random" else about["path"]
    shape = "x".join(map(str, about["shape"]))
    target = "" if explained["target"] == "" else f"[{explained['target']}]"
    name = f" {printable(explained['name'])}" if explained["name"] else ""
    chosen = ", the predicted class" * (explained["chosen"] == "predicted")
    samples = ", of the first sample" * (about["shape"][0] > 1)
    return [
        f"model      {printable(model.spec)} ({model.weights})",
        f"input      {what}: {shape}, {about['dtype']}, {model.device}",
        f"explained  f = {explained['source']}{target}{name}{chosen}{samples}",
    ]

"""``fullgrad explain``: heat maps and records of photographs."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fullgrad import methods
from fullgrad._files import check_folder, make_folder, printable, unique_names
from fullgrad._optional import require
from fullgrad.cli import UsageError
from fullgrad.cli.earlier import Earlier, earlier
from fullgrad.cli.explaining import Explaining
from fullgrad.cli.main import DONE, SOME_FAILED
from fullgrad.evaluation.perturbation import area_effect
from fullgrad.maps.selection import NAMED
from fullgrad.methods import Method
from fullgrad.vision.areas import CELL
from fullgrad.vision.classification import number_of_classes
from fullgrad.vision.image_result import ImageResult, explain_images
from fullgrad.vision.images import OVERLAY_SUFFIX, found_images, preprocess
from fullgrad.vision.labels import class_index, imagenet_names, read_labels
from fullgrad.vision.models import DEFAULT_MODEL, LoadedModel, load_model
from fullgrad.vision.provenance import provenance
from fullgrad.viz.images import LAYERS_SUFFIX, MAP_SUFFIX

_DESCRIPTION = """\
Shows where in a photograph an image classifier's decision comes from.

A folder counts with its subfolders; results lie in the same subfolders of the output folder. For
each photograph NAME it prints the class and writes
  NAME.overlay.png   photograph and heat map
  NAME.saliency.npy  the map itself: float32, height x width of the model's input
  NAME.json          classes, the logit's exact decomposition, and how to get it again
A second start with the same settings explains what is not there yet.
"""
_EPILOG = """\
examples:
  fullgrad explain cat.jpg
  fullgrad explain cat.jpg --target "tiger cat" --out maps
  fullgrad explain cat.jpg --target tabby --rather-than "tiger cat"
  fullgrad explain holiday/ --model torchvision:resnet50 --quiet --no-overlay
  fullgrad explain holiday/ --json > records.jsonl
  fullgrad explain cat.jpg --method grad_cam
  fullgrad explain cat.jpg --model timm:convnext_tiny --weights convnext_tiny.safetensors \\
      --labels imagenet
  fullgrad explain scan.png --model my_model.py:make_model --weights best.pth --labels names.txt

exit code: 0 all done; 1 some images failed; 2 mistake in the arguments, or results with other
settings are in the output folder, nothing done.
"""


BATCH = 8  # photographs at a time
RATHER_THAN = "explain why the class rather than this one: the difference of their logits"
CHECK = "remove the cells that the map says raise the output most, and random ones, and tell both"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fullgrad explain``."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    add = parser.add_argument
    text = "image file, or folder of them with its subfolders"
    add("images", nargs="*", type=Path, metavar="IMAGE", help=text)
    text = "output folder, made if need be (default: %(default)s)"
    add("--out", type=Path, default=Path("fullgrad-output"), metavar="DIR", help=text)
    text = "class to explain: index or name (default: the predicted one)"
    add("--target", metavar="CLASS", help=text)
    add("--rather-than", metavar="CLASS", help=RATHER_THAN)
    add_model_arguments(parser)
    text = "class names, one a line, or 'imagenet' for those of ImageNet-1k"
    add("--labels", metavar="FILE", help=text)
    text = "photographs at a time; fewer need less memory (default: %(default)s)"
    add("--batch-size", type=_positive, default=BATCH, metavar="N", help=text)
    add_method_arguments(parser)
    text = "also keep the map of each stage (NAME.layers.npz), which 'fullgrad report' draws"
    add("--layers", action="store_true", help=text)
    add("--check", action="store_true", help=CHECK)
    text = "pixels along a cell's side, in which complete maps are drawn (default: %(default)s)"
    add("--cell", type=_positive, default=CELL, metavar="PIXELS", help=text)
    text = "draw no NAME.overlay.png, which takes about as long as a small model's map"
    add("--no-overlay", dest="overlay", action="store_false", help=text)
    text = "replace results of other settings in the output folder (default: refuse to begin)"
    add("--replace", action="store_true", help=text)
    add("--quiet", action="store_true", help="print errors and the last line only")
    text = "print records instead, one JSON object a line; all else goes to standard error"
    add("--json", action="store_true", help=text)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which model to explain, and where it runs."""
    add = parser.add_argument
    text = (
        "%(default)s (default), torchvision:NAME, timm:NAME, or path/to/file.py:FUNCTION, "
        "which is executed and returns an nn.Module"
    )
    add("--model", default=DEFAULT_MODEL, metavar="MODEL", help=text)
    text = (
        "local checkpoint (.pth, .safetensors), 'none' for random weights, or a name of "
        "torchvision's (default: the model's pre-trained weights)"
    )
    add("--weights", metavar="WEIGHTS", help=text)
    add("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: %(default)s)")


def add_method_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the saliency method and its options."""
    add = parser.add_argument
    text = (
        "saliency method (default: %(default)s); 'fullgrad methods' lists them; "
        f"recommended by tests of maps: {methods.RECOMMENDED}"
    )
    add("--method", default="fullgrad", metavar="METHOD", help=text)
    text = "rescale terms by layer (the authors' code, default) or by channel (the paper's formula)"
    add("--psi", choices=("layer", "channel"), help=text)
    text = (
        f"terms that the map is made of: {', '.join(NAMED)}, or a module's path (a stage); several "
        "paths with commas, 'input' among them for the input term (default: all)"
    )
    add("--terms", metavar="TERMS", help=text)
    text = "an option of the method, as in --option samples=10; may be repeated"
    add("--option", action="append", default=[], metavar="NAME=VALUE", help=text)


def chosen_method(args: argparse.Namespace) -> tuple[Method, dict[str, Any]]:
    """The saliency method that the arguments name, and its options.

    Raises:
        UsageError: an unknown method or option, or a value that cannot be.
    """
    options: dict[str, Any] = {}
    for text in args.option:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--option {text!r} is not of the form NAME=VALUE")
        options[name] = _value(value)
    if args.psi is not None:
        options["psi"] = args.psi
    if args.terms is not None:
        parts = tuple(t.strip() for t in args.terms.split(","))
        options["terms"] = parts[0] if len(parts) == 1 else parts
    try:
        method = methods.get(args.method)
        method.settings(options)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return method, options


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say.

    Returns:
        The exit code.

    Raises:
        FullGradError: nothing was done.
    """
    results, code = explain_files(args)
    for _ in results:
        pass
    return code()


def explain_files(
    args: argparse.Namespace, afresh: bool = False
) -> tuple[Iterator[ImageResult], Callable[[], int]]:
    """Check everything, then explain photograph after photograph.

    Args:
        args: of ``fullgrad explain``.
        afresh: whether what is complete is explained again.

    Returns:
        The results as they come (each is written and printed), and what gives the exit code once
        they have come.

    Raises:
        FullGradError: a mistake in the arguments, model, target or output folder.
    """
    if not args.images:
        raise UsageError(
            "no photograph given: name image files or folders, as in 'fullgrad explain cat.jpg'"
        )
    require("matplotlib", "cli")
    found = found_images(args.images)
    images = dict(zip(unique_names([image.name for image in found]), found, strict=True))
    check_folder(args.out)
    model = load_model(args.model, args.weights, args.device)
    note_random_weights(model)
    names, target, other = classes_of(args, model)
    method, options = chosen_method(args)
    made = provenance(model, args.command_line, options_of(args))
    suffixes = [MAP_SUFFIX, *[OVERLAY_SUFFIX] * args.overlay, *[LAYERS_SUFFIX] * args.layers]
    there = Earlier({}, (), "") if afresh else earlier(images, args.out, suffixes, made)
    if there.changed and not args.replace:
        raise UsageError(
            f"{printable(args.out)} holds results of {len(there.changed)} of these photographs "
            f"with other settings ({there.difference}): add --replace to replace them, or name "
            "another folder with --out"
        )
    make_folder(args.out)
    explain = partial(
        explain_images,
        model,
        names=names,
        target=target,
        rather_than=other,
        method=method,
        options=options,
        parts=("map", "split", "layers") if args.layers else ("map", "split"),
        cell=args.cell,
    )
    check = partial(_checked, model, args.cell) if args.check else None
    complete = {} if args.check else there.complete  # a check is not stored
    command = Explaining(args, explain, made, images, complete, check)
    return command.results(), lambda: SOME_FAILED if command.failed else DONE


def _checked(model: LoadedModel, cell: int, result: ImageResult) -> str:
    """What removing areas of an image does, in a sentence."""
    other = result.rather_than

    def explained(logits: Tensor) -> Tensor:
        own = logits[:, result.target]
        return own if other is None else own - logits[:, other.index]

    x = preprocess(result.photograph.image, model.preprocessing)[None].to(model.device)
    values = torch.from_numpy(result.saliency).to(model.device)
    found = area_effect(model.module, x, values, explained, cell=cell)
    return found.text("logit" if other is None else "margin")


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The command's options as its records hold them."""
    return {k: v for k, v in vars(args).items() if k not in {"command", "command_line"}}


def note_random_weights(model: LoadedModel) -> None:
    """Say so where a model's weights are random."""
    if not model.trained:
        note(f"{model.spec} has random weights: its classes and maps mean nothing")


def classes_of(
    args: argparse.Namespace, model: LoadedModel
) -> tuple[tuple[str, ...] | None, int | None, int | None]:
    """The names of the model's classes, the one to explain, and the one it is compared with.

    Raises:
        FullGradError: the model is not a classifier, or ``--labels``, ``--target`` or
            ``--rather-than`` do not fit it.
    """
    classes = number_of_classes(model)
    names = class_names(args.labels, model, classes)
    target, other = (
        None if text is None else class_index(text, names, classes)
        for text in (args.target, args.rather_than)
    )
    if other is not None and other == target:
        raise UsageError(f"--target and --rather-than are the same class: {other}")
    return names, target, other


def class_names(labels: str | None, model: LoadedModel, classes: int) -> tuple[str, ...] | None:
    """Names of the classes: those given with ``--labels``, else the model's own.

    Raises:
        UsageError: another number of names than of classes.
        ModelLoadError: the names cannot be read.
    """
    if labels is None:
        names = model.class_names
        return names if names is None or len(names) == classes else None
    names = imagenet_names() if labels == "imagenet" else read_labels(labels)
    if len(names) != classes:
        raise UsageError(f"--labels has {len(names)} names, but the model has {classes} classes")
    return names


def note(message: str) -> None:
    """Say something that is not an error."""
    print(f"fullgrad: note: {message}", file=sys.stderr)

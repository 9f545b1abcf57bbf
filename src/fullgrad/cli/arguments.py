"""Arguments that several commands have: model, method, what is explained; and what they mean."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fullgrad import methods
from fullgrad._files import printable
from fullgrad.cli import UsageError
from fullgrad.engine.targets import Target
from fullgrad.maps.selection import NAMED
from fullgrad.methods import Method
from fullgrad.targets import FORMS, Known, Margin, parse
from fullgrad.vision.classification import (
    classes_if_any,
    number_of_classes,
    refuse_no_classes,
    target_of,
)
from fullgrad.vision.images import (
    INTERPOLATIONS,
    FoundImage,
    class_folders,
    exists,
    found_images,
    read_photograph,
)
from fullgrad.vision.labels import imagenet_names, read_labels
from fullgrad.vision.models import DEFAULT_MODEL, LoadedModel, from_options, load_model

RATHER_THAN = "explain why the class rather than this one: the difference of their logits"
TARGET = (
    "what to explain: a class by index or name (default: the predicted one), 'A - B', log:A, "
    "region:A:mask.png, ...; all forms are below"
)
PAPERS = "fullgrad"  # the method of the paper
LABELS = "class names, one a line, or 'imagenet' for those of ImageNet-1k"


def target_forms() -> str:
    """The forms of ``--target`` for a command's help."""
    width = max(map(len, FORMS))
    lines = [f"  {form:<{width}}  {meaning}" for form, meaning in FORMS.items()]
    return "\n".join(["forms of --target:", *lines])


class Once(argparse.Action):
    """Takes an option that has two names once, under either."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the value, or refuse the second one."""
        if getattr(namespace, self.dest) != self.default:
            names = " and ".join(self.option_strings)
            raise argparse.ArgumentError(self, f"{names} are the same option: give it once")
        setattr(namespace, self.dest, values)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which model to explain, where it runs, and what is stated of it."""
    add = parser.add_argument
    text = (
        "%(default)s (default), torchvision:NAME, timm:NAME, hf:FOLDER (of transformers), or "
        "path/to/file.py:FUNCTION, which is executed and returns an nn.Module"
    )
    add("--model", default=DEFAULT_MODEL, metavar="MODEL", help=text)
    add_weights_arguments(parser)
    add_stated_arguments(parser)


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare a model's weights and device."""
    add = parser.add_argument
    text = (
        "local checkpoint (.pth, .ckpt, .safetensors; FILE#NAME for the weights under NAME in "
        "it), 'none' for random weights, or a name of torchvision's (default: the model's "
        "pre-trained weights)"
    )
    add("--weights", "--checkpoint", action=Once, metavar="WEIGHTS", help=text)
    add("--device", default="cpu", help="cpu, cuda, cuda:1 (default: %(default)s)")


def add_stated_arguments(parser: argparse.ArgumentParser, size: bool = True) -> None:
    """Declare what may be stated of a model: number of classes and preprocessing.

    Args:
        parser: of the command.
        size: whether ``--size`` is another name of ``--resize``.
    """
    add = parser.add_argument
    text = "classes of the last layer, where the checkpoint has others than the model's own weights"
    add("--num-classes", type=positive, metavar="N", help=text)
    text = (
        "mean of each channel, for values from 0 to 1; subtracted (1 number: brightness, 3: colors)"
    )
    add("--mean", type=float, nargs="+", metavar="X", help=text)
    add(
        "--std",
        type=float,
        nargs="+",
        metavar="X",
        help="standard deviation of each channel; divided by",
    )
    names = ("--resize", "--size") if size else ("--resize",)
    text = "the photograph's shorter side becomes N pixels; HxW stretches it"
    add(*names, dest="resize", action=Once, type=_side, metavar="N", help=text)
    text = "the center that the model sees: N or HxW (default with --resize: all of it)"
    add("--crop", type=_crop, metavar="N", help=text)
    text = "how photographs are resized"
    add("--interpolation", choices=INTERPOLATIONS, help=text)


def _side(text: str) -> int | tuple[int, int]:
    parts = text.split("x")
    if not all(p.isascii() and p.isdecimal() and int(p) > 0 for p in parts) or len(parts) > 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: give N or HxW")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


def _crop(text: str) -> tuple[int, int]:
    side = _side(text)
    return (side, side) if isinstance(side, int) else side


def add_method_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the saliency method and its options."""
    add = parser.add_argument
    text = (
        f"saliency method (default: {methods.RECOMMENDED}, recommended by tests of maps) or "
        "own.py:FUNCTION; 'fullgrad methods' lists all; the paper's: fullgrad"
    )
    add("--method", metavar="METHOD", help=text)
    text = "rescale terms by layer (the authors' code, default) or by channel (the paper's formula)"
    add("--psi", choices=("layer", "channel"), help=text)
    text = (
        f"terms that the map is made of: {', '.join(NAMED)}, or a module's path (a stage); several "
        "paths with commas, 'input' among them for the input term (default: all)"
    )
    add("--terms", metavar="TERMS", help=text)
    text = "an option of the method, as in --option samples=10; may be repeated"
    add("--option", action="append", default=[], metavar="NAME=VALUE", help=text)


def chosen_method(args: argparse.Namespace) -> tuple[Method | None, dict[str, Any]]:
    """The saliency method that the arguments name, None for the recommended one, and its options.

    Raises:
        UsageError: an unknown method or option, or a value that cannot be.
    """
    options: dict[str, Any] = {}
    for text in args.option:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--option {text!r} is not of the form NAME=VALUE")
        if name in options:
            raise UsageError(f"--option {name} is given twice: leave one of them out")
        options[name] = _value(value)
    for name in ("psi", "terms"):
        if name in options and getattr(args, name) is not None:
            raise UsageError(f"--{name} and --option {name} are the same: leave one of them out")
    if args.psi is not None:
        options["psi"] = args.psi
    if args.terms is not None:
        parts = tuple(t.strip() for t in args.terms.split(","))
        options["terms"] = parts[0] if len(parts) == 1 else parts
    try:
        method = None if args.method is None else methods.get(args.method)
        (method or methods.get(methods.RECOMMENDED)).settings(options)
    except ValueError as error:
        way_out = ""
        if args.method is None:
            with suppress(ValueError):
                methods.get(PAPERS).settings(options)
                way_out = f"; {PAPERS} takes this: add --method {PAPERS}"
        raise UsageError(f"{error}{way_out}") from error
    return method, options


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def positive(text: str) -> int:
    """A whole number of at least 1, as an option's type."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 15 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def path_of(text: str) -> Path:
    """A path that is not empty, as an option's type: the empty one would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; '.' is the current folder")
    return Path(text)


def sample_shape(text: str) -> tuple[int, ...]:
    """The shape of one sample: HxW of an image with 3 channels, or any other."""
    parts = text.split("," if "," in text else "x")
    if not all(p.isascii() and p.isdecimal() and int(p) > 0 for p in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size: give HxW, or the shape of one sample as in 40 or 3x224x224"
        )
    sizes = tuple(map(int, parts))
    return (3, *sizes) if len(sizes) == 2 and "x" in text else sizes


def seed(text: str) -> int:
    """A seed of random numbers, as an option's type."""
    if not (text.isascii() and text.isdecimal() and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The command's options as its records hold them."""
    return {k: v for k, v in vars(args).items() if k not in {"command", "command_line"}}


def model_of(
    args: argparse.Namespace, spec: str | None = None, *, prepares: bool = True
) -> LoadedModel:
    """Load the model that the arguments name, and say what was assumed of it.

    Args:
        args: of a command with :func:`add_model_arguments`.
        spec: of the model; None for ``--model``.
        prepares: whether its own preprocessing is used.

    Raises:
        UsageError: preprocessing is stated that is not used.
        FullGradError: it cannot be loaded.
    """
    settings = from_options(vars(args))
    stated = [name for name in settings.values() if name != "num_classes"]
    if stated and not prepares:
        raise UsageError(
            f"--{stated[0]} is about the model's own preprocessing, which --transform replaces: "
            "leave one of the two out"
        )
    model = load_model(spec or args.model, args.weights, args.device, settings)
    note_about(model if prepares else replace(model, assumed=()))
    return model


def note_about(model: LoadedModel) -> None:
    """Say where a model's weights are random, and what was assumed of it."""
    if not model.trained:
        note(f"{model.spec} has random weights: its classes and maps mean nothing")
    for text in model.assumed:
        note(text)


def note(message: str) -> None:
    """Say something that is not an error."""
    print(f"fullgrad: note: {message}", file=sys.stderr)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be explained.

    Args:
        names: of the model's classes, if they are known.
        target: of every photograph; None for the predicted class.
        rather_than: the class that it is compared with, if there is one.
    """

    names: tuple[str, ...] | None
    target: Target
    rather_than: int | None


def images_of(args: argparse.Namespace, command: str) -> list[FoundImage]:
    """The photographs that the arguments name, before a model is loaded.

    Raises:
        UsageError: none is named, or none of those that are is there.
        ImageError: a folder holds none.
    """
    if not args.images:
        raise UsageError(
            f"no photograph given: name image files or folders, as in 'fullgrad {command} cat.jpg'"
        )
    found = found_images(args.images)
    missing = [image.path for image in found if not exists(image.path)]
    if len(missing) == len(found):
        names = ", ".join(map(printable, missing[:3])) + ", ..." * (len(missing) > 3)
        raise UsageError(f"{names} {'does' if len(missing) == 1 else 'do'} not exist")
    return found


def check_words(args: argparse.Namespace) -> None:
    """Look at the names of classes and the files of targets, as far as possible without the model.

    Raises:
        FullGradError: names that cannot be read, no such class, or no such file.
    """
    names: Sequence[str] | None = None
    if args.labels is not None:
        names = imagenet_names() if args.labels == "imagenet" else read_labels(args.labels)
    elif args.model == DEFAULT_MODEL and args.weights is None:
        names = imagenet_names()
    classes = len(names) if names is not None else args.num_classes

    def read(file: str) -> Tensor:
        read_photograph(file)
        return torch.ones(1)

    for text in (args.target, args.rather_than):
        if text is None:
            continue
        if names is not None:
            parse(text, Known(names, classes, read, read))
        elif (parts := text.split(":", 2))[0] in ("region", "similar") and len(parts) > 1:
            file = text.partition(":")[2] if parts[0] == "similar" else "".join(parts[2:])
            if file and " - " not in file:
                read_photograph(file)


def asked_of(args: argparse.Namespace, model: LoadedModel) -> Asked:
    """What the arguments say is to be explained by a model.

    Raises:
        FullGradError: a class is asked for and the model is not a classifier, or ``--labels``,
            ``--target`` or ``--rather-than`` do not fit it.
    """
    classes = number_of_classes(model) if args.target is None else classes_if_any(model)
    names = class_names(args.labels, model, classes, class_folders(args.images))
    target, other = (
        None if text is None else target_of(text, model, names, classes)
        for text in (args.target, args.rather_than)
    )
    if target is None or isinstance(target, int):
        refuse_no_classes(model, classes)
    if other is not None and not (isinstance(other, int) and isinstance(target, int | None)):
        raise UsageError(
            "--rather-than compares one class with another: for anything else write the target as "
            "--target 'A - B'"
        )
    if isinstance(target, Margin):
        first, second = target.parts
        if isinstance(first, int) and isinstance(second, int):
            target, other = first, second
    if other is not None and other == target:
        raise UsageError(f"--target and --rather-than are the same class: {other}")
    return Asked(names, target, other)


def class_names(
    labels: str | None,
    model: LoadedModel,
    classes: int | None,
    folders: Sequence[str] | None = None,
) -> tuple[str, ...] | None:
    """Names of the classes: those given with ``--labels``, else the model's own, else of folders.

    Args:
        labels: what was given.
        model: the model.
        classes: how many it has; None where its outputs are no classes.
        folders: of the photographs, one for each class.

    Raises:
        UsageError: another number of names than of classes.
        ModelLoadError: the names cannot be read.
    """
    if labels is None:
        own = model.class_names
        if own is not None and len(own) == classes:
            return own
        if own is not None or folders is None or len(folders) != classes:
            return None
        some = ", ".join(folders[:5]) + ", ..." * (len(folders) > 5)
        note(f"class names are assumed to be those of the folders: {some}")
        return tuple(folders)
    names = imagenet_names() if labels == "imagenet" else read_labels(labels)
    if len(names) != classes:
        raise UsageError(f"--labels has {len(names)} names, but the model has {classes} classes")
    return names

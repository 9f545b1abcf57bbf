"""``fullgrad explain``: heat maps and records of photographs."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fullgrad import methods
from fullgrad._files import check_folder, make_folder, printable, unique_stems
from fullgrad._optional import require
from fullgrad.cli import UsageError
from fullgrad.cli.main import DONE, SOME_FAILED
from fullgrad.errors import FullGradError, ImageError, LayoutError, MethodError, ModelError
from fullgrad.evaluation.perturbation import area_effect
from fullgrad.maps.selection import NAMED
from fullgrad.methods import Method
from fullgrad.vision.areas import CELL
from fullgrad.vision.classification import number_of_classes, one_line
from fullgrad.vision.image_result import ImageResult, explain_images
from fullgrad.vision.images import Photograph, find_images, preprocess, read_photograph
from fullgrad.vision.labels import class_index, imagenet_names, read_labels
from fullgrad.vision.models import DEFAULT_MODEL, LoadedModel, load_model
from fullgrad.vision.provenance import provenance
from fullgrad.viz.images import write_files

if TYPE_CHECKING:
    from fullgrad.vision.schema import Provenance

_DESCRIPTION = """\
Shows where in a photograph an image classifier's decision comes from.

For each photograph NAME it prints the most probable classes and writes into the output folder
  NAME.overlay.png   photograph and heat map
  NAME.saliency.npy  the map itself: float32, height x width of the model's input
  NAME.json          classes, the logit's exact decomposition, and how to get it again
"""
_EPILOG = """\
examples:
  fullgrad explain cat.jpg
  fullgrad explain cat.jpg --target "tiger cat" --out maps
  fullgrad explain cat.jpg --target tabby --rather-than "tiger cat"
  fullgrad explain holiday/ --model torchvision:resnet50
  fullgrad explain cat.jpg --method grad_cam
  fullgrad explain cat.jpg --model timm:convnext_tiny --weights convnext_tiny.safetensors \\
      --labels imagenet
  fullgrad explain scan.png --model my_model.py:make_model --weights best.pth --labels names.txt

exit code: 0 all done; 1 some images failed; 2 mistake in the arguments, nothing done.
Results of an earlier run with the same names are replaced.
"""


RATHER_THAN = "explain why the class rather than this one: the difference of their logits"
CHECK = "remove the cells that the map says raise the output most, and random ones, and tell both"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fullgrad explain``."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("images", nargs="*", type=Path, metavar="IMAGE", help="image file, or folder of them")
    text = "output folder, made if need be (default: %(default)s)"
    add("--out", type=Path, default=Path("fullgrad-output"), metavar="DIR", help=text)
    text = "class to explain: index or name (default: the predicted one)"
    add("--target", metavar="CLASS", help=text)
    add("--rather-than", metavar="CLASS", help=RATHER_THAN)
    add_model_arguments(parser)
    text = "class names, one a line, or 'imagenet' for those of ImageNet-1k"
    add("--labels", metavar="FILE", help=text)
    text = "photographs at a time; more is faster on a GPU (default: %(default)s)"
    add("--batch-size", type=_positive, default=1, metavar="N", help=text)
    add_method_arguments(parser)
    text = "also keep the map of each stage (NAME.layers.npz), which 'fullgrad report' draws"
    add("--layers", action="store_true", help=text)
    add("--check", action="store_true", help=CHECK)
    text = "pixels along a cell's side, in which complete maps are drawn (default: %(default)s)"
    add("--cell", type=_positive, default=CELL, metavar="PIXELS", help=text)


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


def explain_files(args: argparse.Namespace) -> tuple[Iterator[ImageResult], Callable[[], int]]:
    """Check everything, then explain photograph after photograph.

    Args:
        args: of ``fullgrad explain``.

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
    paths = find_images(args.images)
    check_folder(args.out)
    model = load_model(args.model, args.weights, args.device)
    note_random_weights(model)
    names, target, other = classes_of(args, model)
    method, options = chosen_method(args)
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
    found = provenance(model, args.command_line, options_of(args))
    check = partial(_checked, model, args.cell) if args.check else None
    command = _Run(args, explain, found, paths, check)
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


class _Run:
    """The photographs of one command, in batches; a photograph that fails stops no other."""

    def __init__(
        self,
        args: argparse.Namespace,
        explain: Callable[[Sequence[Photograph]], list[ImageResult]],
        found: Provenance,
        paths: Sequence[Path],
        check: Callable[[ImageResult], str] | None,
    ) -> None:
        self._args, self._explainer, self._provenance, self._paths = args, explain, found, paths
        self._check = check
        self._stems = dict(zip(paths, unique_stems(paths), strict=True))
        self._noted: set[str] = set()
        self._done = 0
        self.failed: list[Path] = []

    def results(self) -> Iterator[ImageResult]:
        size = self._args.batch_size
        for start in range(0, len(self._paths), size):
            self._progress(start)
            photographs = self._read(self._paths[start : start + size])
            for result in self._explain(photographs) if photographs else []:
                path = result.photograph.path
                try:
                    stem = self._stems[path]
                    files = write_files(result, self._args.out, stem, self._provenance)
                except OSError as error:
                    text = f"the results of {printable(path)} cannot be written: {error.strerror}"
                    self._fail(path, text)
                    continue
                self._done += 1
                self._clear()
                print(report(result, files), flush=True)
                if self._check is not None:
                    print(f"  {self._check(result)}", flush=True)
                yield result
        self._clear()

    def _read(self, paths: Sequence[Path]) -> list[Photograph]:
        photographs = []
        for path in paths:
            try:
                photographs.append(read_photograph(path))
            except ImageError as error:
                self._fail(path, str(error))
        return photographs

    def _explain(self, photographs: list[Photograph]) -> list[ImageResult]:
        try:
            results = self._explainer(photographs)
            self._check_parts(results[0])
        except (FullGradError, RuntimeError, MemoryError, ValueError) as error:
            if len(photographs) > 1:  # find out which of them it is
                return [r for p in photographs for r in self._explain([p])]
            if not self._done:  # the model's fault, so every photograph would fail alike
                if isinstance(error, LayoutError):
                    raise UsageError(f"{error} On the command line: --terms input") from error
                if isinstance(error, (ModelError, MethodError, UsageError)):
                    raise
                if isinstance(error, ValueError) and not isinstance(error, FullGradError):
                    raise UsageError(str(error)) from error
            path = photographs[0].path
            self._fail(path, f"{printable(path)} cannot be explained: {one_line(error)}")
            return []
        return results

    def _check_parts(self, result: ImageResult) -> None:
        """Layers were asked for, so their lack is an error; that of the split is reported once."""
        lacking = list(result.notes.values())
        if self._args.layers and lacking and result.layers is None:
            raise UsageError(f"--layers: {lacking[0]}")
        for text in lacking:
            if text not in self._noted:
                self._noted.add(text)
                note(" ".join(text.split()))

    def _fail(self, path: Path, message: str) -> None:
        self.failed.append(path)
        self._clear()
        print(f"fullgrad: error: {' '.join(message.split())}", file=sys.stderr, flush=True)

    def _progress(self, start: int) -> None:
        if len(self._paths) > 1 and sys.stderr.isatty():
            name = printable(self._paths[start].name)[:50]
            sys.stderr.write(f"\r\x1b[K[{start + 1}/{len(self._paths)}] {name}")
            sys.stderr.flush()

    def _clear(self) -> None:
        if len(self._paths) > 1 and sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def note(message: str) -> None:
    """Say something that is not an error."""
    print(f"fullgrad: note: {message}", file=sys.stderr)


def report(result: ImageResult, files: Sequence[Path]) -> str:
    """One result, for people.

    Args:
        result: what came out.
        files: where it was written.

    Returns:
        A few lines.
    """
    labels = [score.name or f"class {score.index}" for score in result.top]
    width = max(map(len, labels))
    lines = [printable(result.photograph.path)]
    if result.photograph.frames > 1:
        lines[0] += f"  (first of {result.photograph.frames} frames)"
    lines += [
        f"  {place}. {label:<{width}}  {score.probability:7.2%}   [{score.index}]"
        for place, (label, score) in enumerate(zip(labels, result.top, strict=True), 1)
    ]
    logit = f"  explained: {result.subject_indices}, {result.numbers}"
    if (split := result.split) is None:
        lines.append(logit)
    else:
        parts = " + ".join(f"{name} {value:.3g}" for name, value in split.shares)
        lines += [
            f"{logit} = {parts.replace('+ -', '- ')}",
            f"  residual {split.residual:.1e} (relative {split.relative_residual:.1e}, "
            f"tolerance {split.tolerance:.0e})",
        ]
    if result.areas_text:
        lines.append(f"  {result.areas_text}")
    return "\n".join([*lines, *(f"  -> {printable(file)}" for file in files)])

"""``fullgrad explain``: heat maps and records of photographs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fullgrad._files import check_folder, make_folder, printable, unique_names
from fullgrad._optional import require
from fullgrad.cli import UsageError
from fullgrad.cli._contents import contents_of
from fullgrad.cli._earlier import FOLDER, Earlier, earlier, folder_digest
from fullgrad.cli.arguments import (
    LABELS,
    RATHER_THAN,
    TARGET,
    Asked,
    add_method_arguments,
    add_model_arguments,
    asked_of,
    check_words,
    chosen_method,
    images_of,
    model_of,
    options_of,
    path_of,
    positive,
    target_forms,
)
from fullgrad.cli.explaining import Explaining
from fullgrad.cli.main import DONE, SOME_FAILED
from fullgrad.engine.targets import Described
from fullgrad.evaluation.perturbation import area_effect
from fullgrad.targets import AgainstRest, LogProbability, Margin, Regression, SeveralClasses
from fullgrad.vision.areas import CELL
from fullgrad.vision.image_result import ImageResult, explain_images
from fullgrad.vision.images import OVERLAY_SUFFIX, FoundImage, input_of
from fullgrad.vision.models import LoadedModel
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
_CHECK = "remove the cells that the map says raise the output most, and random ones, and tell both"
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
  fullgrad explain data/ --model torchvision:resnet18 --num-classes 3 --checkpoint mine.ckpt
  fullgrad explain street.png --model segmenter.py:net --target region:road

%(forms)s

exit code: 0 all done; 1 some images failed; 2 mistake in the arguments, or results with other
settings are in the output folder, nothing done.
"""

BATCH = 8  # photographs at a time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fullgrad explain``."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG.replace("%(forms)s", target_forms())
    add = parser.add_argument
    text = "image file, or folder of them with its subfolders"
    add("images", nargs="*", type=path_of, metavar="IMAGE", help=text)
    text = "output folder, made if need be (default: %(default)s)"
    add("--out", type=path_of, default=Path("fullgrad-output"), metavar="DIR", help=text)
    add("--target", metavar="TARGET", help=TARGET)
    add("--rather-than", metavar="CLASS", help=RATHER_THAN)
    add_model_arguments(parser)
    add("--labels", metavar="FILE", help=LABELS)
    text = "photographs at a time; fewer need less memory (default: %(default)s)"
    add("--batch-size", type=positive, default=BATCH, metavar="N", help=text)
    add_method_arguments(parser)
    text = "also keep the map of each stage (NAME.layers.npz), which 'fullgrad report' draws"
    add("--layers", action="store_true", help=text)
    text = "components of a module path that make a stage (default: as many as give a few stages)"
    add("--depth", type=positive, metavar="N", help=text)
    add("--check", action="store_true", help=_CHECK)
    text = "pixels along a cell's side, in which complete maps are drawn (default: %(default)s)"
    add("--cell", type=positive, default=CELL, metavar="PIXELS", help=text)
    text = "draw no NAME.overlay.png, which takes about as long as a small model's map"
    add("--no-overlay", dest="overlay", action="store_false", help=text)
    text = (
        "replace results of other settings or other photographs, and other files with the names of "
        "records (default: refuse to begin)"
    )
    add("--replace", action="store_true", help=text)
    add("--quiet", action="store_true", help="print progress, errors and the last line only")
    text = "print records instead, one JSON object a line; all else goes to standard error"
    add("--json", action="store_true", help=text)


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
    args: argparse.Namespace, afresh: Sequence[FoundImage] | None = None
) -> tuple[Iterator[ImageResult], Callable[[], int]]:
    """Check everything, then explain photograph after photograph.

    Args:
        args: of ``fullgrad explain``.
        afresh: photographs that will be there when they are explained, and are explained again
            where they were before; None for those that the arguments name.

    Returns:
        The results as they come (each is written and printed), and what gives the exit code once
        they have come.

    Raises:
        FullGradError: a mistake in the arguments, model, target or output folder.
    """
    require("matplotlib", "cli")
    if args.check and args.quiet:
        raise UsageError("--check only prints, which --quiet forbids: leave one of them out")
    found = images_of(args, "explain") if afresh is None else list(afresh)
    images = dict(zip(unique_names([image.name for image in found]), found, strict=True))
    check_folder(args.out)
    method, options = chosen_method(args)
    check_words(args)
    model = model_of(args)
    asked = asked_of(args, model)
    if args.check and isinstance(asked.target, Described):
        if not isinstance(asked.target, _CHECKED):
            raise UsageError(
                f"--check needs classes' outputs, but {asked.target} is explained: leave it out"
            )
    kept = options_of(args) | contents_of(args, model, asked, options)
    if not all(image.path.is_absolute() for image in found):
        kept[FOLDER] = folder_digest(Path.cwd())
    made = provenance(model, args.command_line, kept)
    suffixes = [MAP_SUFFIX, *[OVERLAY_SUFFIX] * args.overlay, *[LAYERS_SUFFIX] * args.layers]
    there = Earlier({}, (), "")
    if afresh is None:
        there = earlier(images, args.out, suffixes, made)
    if there.changed and not args.replace:
        raise UsageError(
            f"{printable(args.out)} holds results of {len(there.changed)} of these photographs "
            f"with other settings ({there.difference}): add --replace to replace them, or name "
            "another folder with --out"
        )
    if there.others and not args.replace:
        raise UsageError(
            f"{printable(there.others[0])} is no result of fullgrad, but has the name of one: add "
            "--replace to replace such files, or name another folder with --out"
        )
    if there.taken and not args.replace:
        name, other = next(iter(there.taken.items()))
        raise UsageError(
            f"{printable(args.out / name)} is the result of another photograph, "
            f"{printable(other)}: add --replace to replace it, or name another folder with --out"
        )
    make_folder(args.out)
    explain = partial(
        explain_images,
        model,
        names=asked.names,
        target=asked.target,
        rather_than=asked.rather_than,
        method=method,
        options=options,
        parts=("map", "split", "layers") if args.layers else ("map", "split"),
        depth=args.depth,
        cell=args.cell,
    )
    check = partial(_checked, model, asked, args.cell) if args.check else None
    complete = {} if args.check else there.complete  # a check is not stored
    command = Explaining(args, explain, made, images, complete, check)
    return command.results(), lambda: SOME_FAILED if command.failed else DONE


_CHECKED = (Margin, LogProbability, AgainstRest, SeveralClasses, Regression)


def _checked(model: LoadedModel, asked: Asked, cell: int, result: ImageResult) -> str:
    """What removing areas of an image does, in a sentence."""
    other, target = result.rather_than, asked.target

    def explained(logits: Tensor) -> Tensor:
        if isinstance(target, Described):
            return target(logits)
        own = logits[:, result.target]
        return own if other is None else own - logits[:, other.index]

    x = input_of(result.photograph, model.preprocessing)[None].to(model.device)
    values = torch.from_numpy(result.saliency).to(model.device)
    found = area_effect(model.module, x, values, explained, cell=cell)
    return found.text(result.quantity)

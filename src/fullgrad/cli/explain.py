"""``fullgrad explain``: heat maps and records of photographs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fullgrad._files import check_folder, make_folder, printable, unique_stems
from fullgrad._optional import require
from fullgrad.cli import UsageError
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
    closing,
    found_images,
    model_of,
    note,
    options_of,
    positive,
    target_forms,
)
from fullgrad.cli.main import DONE, SOME_FAILED
from fullgrad.engine.targets import Described
from fullgrad.errors import (
    FullGradError,
    ImageError,
    LayoutError,
    MethodError,
    ModelError,
    ModelLoadError,
)
from fullgrad.evaluation.perturbation import area_effect
from fullgrad.targets import AgainstRest, LogProbability, Margin, Regression, SeveralClasses
from fullgrad.vision.areas import CELL
from fullgrad.vision.classification import one_line
from fullgrad.vision.image_result import ImageResult, explain_images
from fullgrad.vision.images import Photograph, input_of, read_photograph
from fullgrad.vision.models import LoadedModel
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
_CHECK = "remove the cells that the map says raise the output most, and random ones, and tell both"
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
  fullgrad explain data/ --model torchvision:resnet18 --num-classes 3 --checkpoint mine.ckpt
  fullgrad explain street.png --model segmenter.py:net --target region:road

%(forms)s

exit code: 0 all done; 1 some images failed; 2 mistake in the arguments, nothing done.
Results of an earlier run with the same names are replaced.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fullgrad explain``."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG.replace("%(forms)s", target_forms())
    add = parser.add_argument
    add("images", nargs="*", type=Path, metavar="IMAGE", help="image file, or folder of them")
    text = "output folder, made if need be (default: %(default)s)"
    add("--out", type=Path, default=Path("fullgrad-output"), metavar="DIR", help=text)
    add("--target", metavar="TARGET", help=TARGET)
    add("--rather-than", metavar="CLASS", help=RATHER_THAN)
    add_model_arguments(parser)
    add("--labels", metavar="FILE", help=LABELS)
    text = "photographs at a time; more is faster on a GPU (default: %(default)s)"
    add("--batch-size", type=positive, default=1, metavar="N", help=text)
    add_method_arguments(parser)
    text = "also keep the map of each stage (NAME.layers.npz), which 'fullgrad report' draws"
    add("--layers", action="store_true", help=text)
    add("--check", action="store_true", help=_CHECK)
    text = "pixels along a cell's side, in which complete maps are drawn (default: %(default)s)"
    add("--cell", type=positive, default=CELL, metavar="PIXELS", help=text)


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
    args: argparse.Namespace, paths: Sequence[Path] | None = None
) -> tuple[Iterator[ImageResult], Callable[[], int]]:
    """Check everything, then explain photograph after photograph.

    Args:
        args: of ``fullgrad explain``.
        paths: photographs that will be there when they are explained; None for those that the
            arguments name.

    Returns:
        The results as they come (each is written and printed), and what gives the exit code once
        they have come.

    Raises:
        FullGradError: a mistake in the arguments, model, target or output folder.
    """
    require("matplotlib", "cli")
    paths = found_images(args, "explain") if paths is None else list(paths)
    check_folder(args.out)
    method, options = chosen_method(args)
    check_words(args)
    model = model_of(args)
    asked = asked_of(args, model)
    if args.check and isinstance(asked.target, Described):
        if not isinstance(asked.target, _CHECKED):
            raise UsageError(f"--check asks for classes' outputs, and explained is {asked.target}")
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
        cell=args.cell,
    )
    found = provenance(model, args.command_line, options_of(args))
    check = partial(_checked, model, asked, args.cell) if args.check else None
    command = _Run(args, explain, found, paths, check)
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
        print(closing(self._done, len(self.failed), self._args.out), flush=True)

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
                if isinstance(error, (ModelError, ModelLoadError, MethodError, UsageError)):
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


def report(result: ImageResult, files: Sequence[Path]) -> str:
    """One result, for people.

    Args:
        result: what came out.
        files: where it was written.

    Returns:
        A few lines.
    """
    labels = [score.name or f"class {score.index}" for score in result.top]
    width = max(map(len, labels), default=0)
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

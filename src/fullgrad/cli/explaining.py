"""The photographs of ``fullgrad explain``, one minibatch after the other."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from fullgrad._files import printable
from fullgrad.cli import UsageError
from fullgrad.cli.progress import Progress
from fullgrad.errors import (
    FullGradError,
    ImageError,
    LayoutError,
    MethodError,
    ModelError,
    ModelLoadError,
)
from fullgrad.vision.classification import one_line
from fullgrad.vision.image_result import ImageResult
from fullgrad.vision.images import FoundImage, Photograph, read_photograph
from fullgrad.viz.images import write_files

if TYPE_CHECKING:
    from fullgrad.vision.schema import ImageRecord, Provenance


class Explaining:
    """What one command explains; a photograph that fails stops no other.

    Args:
        args: of ``fullgrad explain``.
        explain: from photographs to results, all at once.
        provenance: of the results.
        images: by output name.
        complete: the records of those that are done already, by output name.
        check: a sentence about a result, if one is wanted.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        explain: Callable[[Sequence[Photograph]], list[ImageResult]],
        provenance: Provenance,
        images: Mapping[str, FoundImage],
        complete: Mapping[str, ImageRecord],
        check: Callable[[ImageResult], str] | None,
    ) -> None:
        self._args, self._explainer, self._provenance = args, explain, provenance
        self._images, self._complete, self._check = images, complete, check
        self._names = {image.path: name for name, image in images.items()}
        self._noted: set[str] = set()
        self._done = 0
        self.failed: list[Path] = []
        self._progress = Progress("photographs") if len(images) > 1 else None

    def results(self) -> Iterator[ImageResult]:
        """Explain, write and print what is not complete."""
        if self._args.json:
            for record in self._complete.values():
                print(record.text(indent=None), end="")
        paths = [i.path for name, i in self._images.items() if name not in self._complete]
        size = self._args.batch_size
        batches = [paths[start : start + size] for start in range(0, len(paths), size)]
        with ThreadPoolExecutor(1) as ahead:  # reads while the model computes
            reading = [ahead.submit(_read, batch) for batch in batches[:1]]
            for place in range(len(batches)):
                photographs, errors = reading.pop().result()
                reading += [ahead.submit(_read, b) for b in batches[place + 1 : place + 2]]
                self._tell_progress()
                for path, text in errors:
                    self._fail(path, text)
                for result in self._explain(photographs) if photographs else []:
                    if self._write(result):
                        yield result
        self._clear()
        self._sum_up()

    def _write(self, result: ImageResult) -> bool:
        path, out = result.photograph.path, self._args.out
        place = out / self._names[path]
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            files = write_files(
                result, place.parent, place.name, self._provenance, self._args.overlay
            )
        except OSError as error:
            text = f"the results of {printable(path)} cannot be written: {error.strerror}"
            self._fail(path, text)
            return False
        self._done += 1
        checked = self._check(result) if self._check is not None else ""
        if self._args.json:
            record = result.record(self._provenance)
            self._say(record.text(indent=None).rstrip("\n"))
        if not self._args.quiet:
            one = len(self._images) == 1
            text = report(result, files, checked) if one else line(result, checked)
            self._say(text, sys.stderr if self._args.json else sys.stdout)
        return True

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
                self._say(f"fullgrad: note: {' '.join(text.split())}", sys.stderr)

    def _fail(self, path: Path, message: str) -> None:
        self.failed.append(path)
        self._say(f"fullgrad: error: {' '.join(message.split())}", sys.stderr)

    def _say(self, text: str, where: object = None) -> None:
        self._clear()
        print(text, file=where or sys.stdout, flush=True)  # type: ignore[arg-type]

    def _tell_progress(self) -> None:
        if self._progress is not None and (sys.stderr.isatty() or self._args.quiet):
            self._progress(self._done + len(self._complete) + len(self.failed), len(self._images))

    def _clear(self) -> None:
        if self._progress is not None:
            self._progress.end()

    def _sum_up(self) -> None:
        before, failed = len(self._complete), len(self.failed)
        text = f"{self._done + before} of {len(self._images)} done"
        text += f", {before} of them before, with the same settings" if before else ""
        text += f", {failed} failed" if failed else ""
        where = sys.stderr if self._args.json else sys.stdout
        self._say(f"{text} -> {printable(self._args.out)}", where)


def _read(paths: Sequence[Path]) -> tuple[list[Photograph], list[tuple[Path, str]]]:
    """The photographs that can be read, and what is wrong with the others."""
    photographs, errors = [], []
    for path in paths:
        try:
            photographs.append(read_photograph(path))
        except ImageError as error:
            errors.append((path, str(error)))
    return photographs, errors


def _name(result: ImageResult) -> str:
    frames = result.photograph.frames
    more = f"  (first of {frames} frames)" if frames > 1 else ""
    return printable(result.photograph.path) + more


def line(result: ImageResult, checked: str = "") -> str:
    """One result of many, for people.

    Args:
        result: what came out.
        checked: a sentence about it.
    """
    parts = [f"{_name(result)}: {result.subject_indices}"]
    if result.probability is not None:
        parts.append(f"probability {result.probability:.1%}")
    parts.append(result.numbers)
    if result.split is not None:
        parts.append(f"residual {result.split.residual:.1e}")
    return ", ".join(parts) + f"; {checked}" * bool(checked)


def report(result: ImageResult, files: Sequence[Path], checked: str = "") -> str:
    """One result, for people.

    Args:
        result: what came out.
        files: where it was written.
        checked: a sentence about it.

    Returns:
        A few lines.
    """
    labels = [score.name or f"class {score.index}" for score in result.top]
    width = max(map(len, labels), default=0)
    lines = [_name(result)]
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
    lines += [f"  {text}" for text in (result.areas_text, checked) if text]
    return "\n".join([*lines, *(f"  -> {printable(file)}" for file in files)])

"""Several methods on several images: a comparison with its sheet, its reasons and its record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from fullgrad import methods
from fullgrad._files import AnyPath, printable
from fullgrad._optional import require
from fullgrad.engine.targets import Target
from fullgrad.errors import FullGradError, ImageError
from fullgrad.methods.attribution import EXTRA
from fullgrad.methods.choice import MethodChoice
from fullgrad.vision.classification import one_line
from fullgrad.vision.image_result import ImageResult, MethodMap, Part, Stage, explain_images
from fullgrad.vision.images import Photograph, read_photograph
from fullgrad.vision.models import LoadedModel
from fullgrad.viz.compare import NOT_APPLICABLE, RULES, Compared, Scale, comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fullgrad.vision.schema import CellInfo, ComparisonRecord, MethodInfo, Provenance

FAILED = "failed"
_MAPS: tuple[Part, ...] = ("map",)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several methods on several images.

    Args:
        model: what the model was asked for as.
        rows: the images, each with a cell for each method.
        choices: the methods with their options.
        failed: files that have no row, and why.
        scale: what the colors of two maps have in common; see
            :func:`fullgrad.viz.compare.comparison`.
    """

    model: str
    rows: tuple[ImageResult, ...]
    choices: tuple[MethodChoice, ...]
    failed: tuple[tuple[Path, str], ...] = ()
    scale: Scale = "map"

    @property
    def complete(self) -> bool:
        """Whether no image and no method failed; a method that does not apply is no failure."""
        return not self.failed and not any(
            c.values is None and c.applies for row in self.rows for c in row.maps
        )

    @property
    def rule(self) -> str:
        """What every map explains."""
        given = any(row.chosen == "given" for row in self.rows)
        which = "which was asked for" if given else "which the model predicts"
        if any(row.target is None for row in self.rows):
            return "Every map explains the number at its left, which was asked for."
        if not any(row.rather_than for row in self.rows):
            return f"Every map explains the class at its left, {which}; probability is its softmax."
        return (
            f"Every map explains the margin at its left: the logit of the first class, {which}, "
            "less that of the class after 'rather than'; probability is the first one's softmax."
        )

    def reasons(self) -> list[str]:
        """Return why methods have no map: a line for each reason, with its images."""
        found: dict[str, dict[str, list[str]]] = {}
        for row in self.rows:
            for cell in row.maps:
                if cell.values is None:
                    said_of = found.setdefault(f"{cell.label} {word(cell)}", {})
                    name = printable(row.photograph.path.name)
                    said_of.setdefault(cell.reason, []).append(name)
        lines = []
        for what, said_of in found.items():
            reason, names = next(iter(said_of.items()))
            others = sum(map(len, said_of.values())) - len(names)
            where = f" ({', '.join(names)}" if len(names) < len(self.rows) else ""
            more = f"; {others} more in other words or numbers, which the record has"
            lines.append(f"{what}: {reason}{where}{more * bool(others)}{')' if where else ''}")
        return lines

    def figure(self, title: str | None = None) -> Figure:
        """Draw the sheet: a row for each image, a column for each method.

        Args:
            title: on top; None for the model.

        Raises:
            InputError: no rows, or more than a sheet has room for.
            MissingDependencyError: matplotlib is not installed.
        """
        shown = [
            Compared(
                row.view,
                row.subject,
                tuple(word(c) if c.values is None else c.shown for c in row.maps),
                _detail(row),
            )
            for row in self.rows
        ]
        return comparison(
            shown,
            [c.label for c in self.choices],
            scale=self.scale,
            rule=self.rule,
            signed=[self._signed(i) for i in range(len(self.choices))],
            notes=self.reasons(),
            title=self.model if title is None else title,
        )

    def _signed(self, column: int) -> bool:
        return any(row.maps[column].signed for row in self.rows)

    def record(
        self, provenance: Provenance, name: str, sheet: bytes, *, by_default: bool = False
    ) -> ComparisonRecord:
        """Return all that is needed to trust and to repeat the sheet.

        Args:
            provenance: of :func:`fullgrad.vision.provenance.provenance`.
            name: of the sheet's file.
            sheet: content of that file.
            by_default: whether the methods were not asked for.
        """
        from fullgrad.vision import schema

        return schema.ComparisonRecord(
            rows=tuple(
                schema.RowInfo(
                    image=row.image_info(),
                    target=row.target_info(row.label),
                    maps=tuple(map(_cell, row.maps)),
                )
                for row in self.rows
            ),
            failed=tuple(
                schema.FailureInfo(image=printable(path), reason=text) for path, text in self.failed
            ),
            methods=tuple(_method(choice, by_default) for choice in self.choices),
            scale=self.scale,
            rule=f"{RULES[self.scale]} {self.rule}",
            sheet=schema.SheetInfo(file=printable(name), sha256=hashlib.sha256(sheet).hexdigest()),
            chosen="default" if by_default else "given",
            **dict(provenance),
        )


def _detail(row: ImageResult) -> str:
    other = row.rather_than
    margin = "" if other is None else f"\nmargin {other.margin:.3g}"
    if row.probability is None:
        return f"{row.numbers}\n{row.photograph.path.name}"
    return f"probability {row.probability:.1%}{margin}\n{row.photograph.path.name}"


def _cell(cell: MethodMap) -> CellInfo:
    from fullgrad.vision.schema import CellInfo

    if cell.values is None:
        return CellInfo(method=cell.label, applies=cell.applies, reason=cell.reason)
    return CellInfo(
        method=cell.label,
        applies=True,
        least=float(cell.values.min()),
        most=float(cell.values.max()),
        seconds=round(cell.seconds, 4),
    )


def _method(choice: MethodChoice, by_default: bool) -> MethodInfo:
    from fullgrad.vision.schema import MethodInfo

    method = methods.get(choice.name)
    return MethodInfo(
        label=choice.label,
        name=choice.name,
        options={k: str(v) for k, v in choice.options.items()},
        about=method.about,
        reference=method.reference,
        reason=methods.REASON if by_default and choice.label == methods.RECOMMENDED else None,
    )


def word(cell: MethodMap) -> str:
    """Return what is said where there is no map."""
    return FAILED if cell.applies else NOT_APPLICABLE


def compare(
    model: LoadedModel,
    images: Sequence[Photograph | AnyPath],
    choices: Sequence[str | MethodChoice],
    *,
    names: Sequence[str] | None = None,
    target: Target = None,
    rather_than: int | None = None,
    scale: Scale = "map",
    on_map: Callable[[int, int], None] = lambda done, total: None,
    on_row: Callable[[ImageResult], None] = lambda row: None,
    on_failure: Callable[[Path, str], None] = lambda path, reason: None,
) -> Comparison:
    """Compare the maps of several methods on several images.

    Args:
        model: the classifier.
        images: files, or images that were read already. One that fails stops no other.
        choices: methods as ``NAME`` or ``NAME:OPTION=VALUE,...``.
        names: of the model's classes; None for those that the model brings.
        target: class to explain in every image, or any other target (:mod:`fullgrad.targets`);
            None for the predicted class.
        rather_than: a class to compare it with: the difference of their outputs is explained.
        scale: see :func:`fullgrad.viz.compare.comparison`.
        on_map: called with the number of maps that are done, and of all.
        on_row: called with each image that is done.
        on_failure: called with each image that fails, and why.

    Returns:
        The comparison; what goes wrong with one method is in its cell.

    Raises:
        ValueError: a method that is unknown or asked for twice, or an unknown scale.
        MissingDependencyError: a method needs a package that is not installed.
    """
    if scale not in RULES:
        raise ValueError(f"scale must be one of {', '.join(get_args(Scale))}, not {scale!r}")
    chosen = parse_choices(choices)
    rows: list[ImageResult] = []
    failed: list[tuple[Path, str]] = []
    done, total = 0, len(images) * len(chosen)

    def on_stage(stage: Stage, text: str) -> None:
        nonlocal done
        if stage == "map":
            on_map(done, total)
            done += 1

    def fail(path: Path, reason: str) -> None:
        failed.append((path, reason))
        on_failure(path, reason)

    for place, image in enumerate(images):
        path = image.path if isinstance(image, Photograph) else Path(image)
        done = place * len(chosen)
        try:
            photograph = image if isinstance(image, Photograph) else read_photograph(image)
            (row,) = explain_images(
                model,
                [photograph],
                names=names,
                target=target,
                rather_than=rather_than,
                method=chosen,
                parts=_MAPS,
                on_stage=on_stage,
            )
        except ImageError as error:
            fail(path, str(error))
        except (FullGradError, RuntimeError, MemoryError, ValueError) as error:
            fail(path, f"{printable(path)} cannot be explained: {one_line(error)}")
        else:
            rows.append(row)
            on_row(row)
    return Comparison(model.spec, tuple(rows), chosen, tuple(failed), scale)


def parse_choices(texts: Sequence[str | MethodChoice]) -> tuple[MethodChoice, ...]:
    """Return methods with their options, each once, whose packages are installed.

    Raises:
        ValueError: a method that is unknown or asked for twice, or no method.
        MissingDependencyError: a method needs a package that is not installed.
    """
    choices = tuple(t if isinstance(t, MethodChoice) else MethodChoice.parse(t) for t in texts)
    labels = [c.label for c in choices]
    if not labels:
        raise ValueError("at least one method is needed")
    if twice := sorted({x for x in labels if labels.count(x) > 1}):
        raise ValueError(f"asked for twice: {', '.join(twice)}")
    for choice in choices:
        if package := methods.get(choice.name).package:
            require(package, EXTRA)
    return choices

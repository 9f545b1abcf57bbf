"""A model's decomposition in numbers: ``check``, the library's side of ``fullgrad check``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from fullgrad._files import AnyPath, printable
from fullgrad.axes.coordinates import NOWHERE
from fullgrad.decomposition import Decomposition, decompose
from fullgrad.engine.targets import Described, Target
from fullgrad.errors import FullGradError, InputError, LayoutError, UsageError
from fullgrad.maps.aggregation import placements_for
from fullgrad.maps.saliency import saliency_from_decomposition
from fullgrad.operations.linearization import Linearization, Named
from fullgrad.vision.check_schema import (
    CheckRecord,
    ExplainedInfo,
    FallbackInfo,
    MapInfo,
    PhotographInput,
    RandomInput,
    SampleInfo,
    StageInfo,
    TermsInfo,
)
from fullgrad.vision.classification import channels_hint, target_of
from fullgrad.vision.images import input_of, read_photograph
from fullgrad.vision.models import LoadedModel
from fullgrad.vision.schema import Provenance

_Precision: TypeAlias = Literal["float32", "float64"]

ROWS = 30  # stages in the text, unless all are asked for
_HEAD = "where f comes from"
_LONGEST = 48  # characters of a name in the table
_FAILURES = (RuntimeError, IndexError)  # of PyTorch, where a model cannot run on its input
_OPERATIONS = 8  # kinds of operations named in the text; the record has all of them


@dataclass(frozen=True, slots=True)
class Statistics:
    """The numbers of a decomposition.

    Args:
        source: which part of the model's output is explained.
        linearization: which linear maps stood for the operations.
        depth: components of the module path that make a stage.
        tolerance: for the relative residuals.
        samples: one for each of the batch.
        terms: how many bias terms of each kind and operation.
        general_path: operations whose bias comes from the forward-mode fallback.
        saliency: what a map is made of, or why there is none.
    """

    source: str
    linearization: str
    depth: int
    tolerance: float
    samples: tuple[SampleInfo, ...]
    terms: TermsInfo
    general_path: tuple[FallbackInfo, ...]
    saliency: MapInfo

    def text(self, limit: int | None = ROWS) -> str:
        """Return a table for people: the first sample, and the largest residual of all.

        Args:
            limit: stages to show, those that contribute most; None for all.
        """
        first = self.samples[0]
        stages = [(s.module or "(model)", s.sum) for s in first.stages]
        by_size = sorted(range(len(stages)), key=lambda i: -abs(stages[i][1]))
        shown = sorted(by_size[:limit])
        rows = [("input term", first.input), *(stages[i] for i in shown)]
        if len(shown) < len(stages):
            rest = sum(stages[i][1] for i in by_size[len(shown) :])
            rows.append((f"{len(stages) - len(shown)} other stages (--all shows them)", rest))
        ends = [("sum", first.sum), ("output f", first.output), ("residual", first.residual)]
        width = max(len(_HEAD), *(len(_short(name)) for name, _ in rows + ends))
        lines = [
            f"{_short(name):<{width}}  {value:>12.6g}  {_percent(_share(value, first.output)):>9}"
            for name, value in rows + ends
        ]
        rule = "-" * max(map(len, lines))
        lines.insert(len(rows), rule)
        worst = max(s.relative_residual for s in self.samples)
        of = f" (largest of {len(self.samples)} samples)" * (len(self.samples) > 1)
        return "\n".join(
            [
                f"{_HEAD:<{width}}  {'value':>12}  {'share':>9}",
                rule,
                *lines,
                f"relative residual {worst:.1e}{of}, tolerance {self.tolerance:.0e}",
                "",
                *_counts(self),
            ]
        )


@dataclass(frozen=True, slots=True)
class CheckSummary:
    """What a check of a model found.

    Args:
        model: the model.
        input: what it was checked on.
        explained: the explained scalar of the first sample.
        statistics: the numbers.
    """

    model: LoadedModel
    input: PhotographInput | RandomInput
    explained: ExplainedInfo
    statistics: Statistics

    def text(self, limit: int | None = ROWS) -> str:
        """Return the summary for people; see :meth:`Statistics.text`."""
        about, explained = self.input, self.explained
        what = f"random, seed {about.seed}" if isinstance(about, RandomInput) else about.path
        shape = "x".join(map(str, about.shape))
        target = "" if explained.target == "" else f"[{explained.target}]"
        name = f" {printable(explained.name)}" if explained.name else ""
        chosen = ", the predicted class" * (explained.chosen == "predicted")
        samples = ", of the first sample" * (about.shape[0] > 1)
        return "\n".join(
            [
                f"model      {printable(self.model.spec)} ({self.model.weights})",
                f"input      {what}: {shape}, {about.dtype}, {self.model.device}",
                f"explained  f = {explained.source}{target}{name}{chosen}{samples}",
                "",
                self.statistics.text(limit),
            ]
        )

    def record(self, provenance: Provenance) -> CheckRecord:
        """Return every stage of every sample, and how the numbers were made.

        Args:
            provenance: see :func:`fullgrad.vision.provenance.provenance`.
        """
        found = self.statistics
        return CheckRecord(
            input=self.input,
            explained=self.explained,
            linearization=found.linearization,
            depth=found.depth,
            tolerance=found.tolerance,
            samples=found.samples,
            bias_terms=found.terms,
            general_path=found.general_path,
            saliency=found.saliency,
            **dict(provenance),
        )


def check(
    model: LoadedModel,
    image: AnyPath | None = None,
    *,
    size: Sequence[int] | None = None,
    batch: int = 1,
    seed: int = 0,
    dtype: _Precision | None = None,
    target: Target | str = None,
    depth: int = 1,
    linearization: Named | Linearization = "jacobian",
) -> CheckSummary:
    """Split a model's output into its terms, and summarize them.

    Args:
        model: any model; ``dtype`` converts it in place.
        image: a file, prepared as the model wants it; None for random numbers.
        size: shape of one random sample; None for the model's input size.
        batch: number of random samples.
        seed: of the random numbers.
        dtype: precision of model and input; None for the model's own.
        target: see :func:`fullgrad.decompose`; also a class's name, or indices as text
            (``"1,2,3"``).
        depth: components of the module path that make a stage.
        linearization: see :func:`fullgrad.decompose`.

    Raises:
        UsageError: the model fails on the input, cannot be brought to the precision, memory is
            short, or size, batch or seed is given with an image.
        FullGradError: see :func:`fullgrad.decompose`.

    Example:
        >>> from fullgrad.vision.models import load_model
        >>> model = load_model("torchvision:squeezenet1_1", weights="none")
        >>> summary = check(model, size=(3, 64, 64), target=1)
        >>> print(summary.text().splitlines()[2])
        explained  f = output[1]
    """
    if image is not None and (size is not None or (batch, seed) != (1, 0)):
        raise UsageError("size, batch and seed belong to random inputs: leave them out, or image")
    precision = _in_precision(model, dtype)
    name = str(precision).removeprefix("torch.")
    about: PhotographInput | RandomInput
    if image is not None:
        photograph = read_photograph(image)
        x = input_of(photograph, model.preprocessing)[None]
        about = PhotographInput(
            path=printable(image), sha256=photograph.sha256, shape=tuple(x.shape), dtype=name
        )
    else:
        shape = (batch, *(size or (model.preprocessing.channels, *model.preprocessing.crop)))
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        about = RandomInput(seed=seed, shape=shape, dtype=name)
    x = x.to(model.device, precision)
    read = _target(target, model)
    d = _decomposed(model, x, read, linearization, is_random=image is None)
    found = statistics(d, depth)
    return CheckSummary(model, about, _explained(found, model, read), found)


def statistics(decomposition: Decomposition, depth: int = 1) -> Statistics:
    """Return the numbers of a decomposition.

    Args:
        decomposition: with sums for each sample.
        depth: components of the module path that make a stage.

    Raises:
        ValueError: depth is below 1.
    """
    d = decomposition
    stages = {printable(name): sums.tolist() for name, sums in d.by_module(depth).items()}
    columns = (d.output, d.input_sums, d.input_sums + d.bias_sums, d.residual, d.relative_residual)
    rows = zip(*(column.double().tolist() for column in columns), strict=True)
    targets = [None] * len(d.output) if d.target is None else d.target.tolist()
    samples = tuple(
        SampleInfo(
            target=targets[i],
            output=output,
            input=of_input,
            sum=total,
            residual=residual,
            relative_residual=relative,
            input_share=_share(of_input, output),
            stages=tuple(
                StageInfo(module=name, sum=s[i], share=_share(s[i], output))
                for name, s in stages.items()
            ),
        )
        for i, (output, of_input, total, residual, relative) in enumerate(rows)
    )
    kinds = Counter(t.kind for t in d.bias_terms)
    return Statistics(
        source=d.output_source,
        linearization=d.linearization,
        depth=depth,
        tolerance=d.tolerance,
        samples=samples,
        terms=TermsInfo(
            kinds={kind: kinds[kind] for kind in ("explicit", "implicit", "both")},
            operations=dict(Counter(t.op for t in d.bias_terms).most_common()),
            implicit_shares=d.implicit_shares(),
        ),
        general_path=tuple(
            FallbackInfo(module=printable(module), operation=op, times=count)
            for (module, op), count in Counter(d.general_path).items()
        ),
        saliency=_drawn(d),
    )


def _share(value: float, whole: float) -> float | None:
    return value / whole if whole else None


def _drawn(d: Decomposition) -> MapInfo:
    """What a map of the decomposition is made of, or why there is none."""
    try:
        saliency_from_decomposition(d)
        batch, grids = len(d.output), d.layouts.grids
        found = [
            [
                p
                for p in placements_for(t.axes, t.module, t.op, t.shape, batch, grids)
                if p is not None
            ]
            for t in d.bias_terms
        ]
    except (LayoutError, InputError) as error:
        return MapInfo(error=str(error))
    nowhere = [t for t, places in zip(d.bias_terms, found, strict=True) if not places]
    part = sum(
        any(p.places is not None and bool((p.places == NOWHERE).any()) for p in places)
        for places in found
    )
    sizes = sum(float(t.sums.abs().sum()) for t in d.bias_terms) + float(d.input_sums.abs().sum())
    lost = sum(float(t.sums.abs().sum()) for t in nowhere)
    return MapInfo(
        terms=len(found) - len(nowhere),
        in_part=part,
        nowhere=len(nowhere),
        nowhere_share=lost / sizes if sizes else 0.0,
    )


def _counts(report: Statistics) -> list[str]:
    total = sum(report.terms.kinds.values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.terms.kinds.items())
    named = [f"{op} {count}" for op, count in report.terms.operations.items()]
    more = [f"{len(named) - _OPERATIONS} more"] * (len(named) > _OPERATIONS)
    general = [
        f"{f.operation} in {_short(f.module or '(model)')}" + f" x{f.times}" * (f.times > 1)
        for f in report.general_path
    ]
    others = [f"{len(general) - _OPERATIONS} more"] * (len(general) > _OPERATIONS)
    shares = report.terms.implicit_shares or {}
    left = [f"{op} {share:.1%}" for op, share in shares.items()][:_OPERATIONS]
    return [
        f"bias terms      {total}: {kinds}",
        f"by operation    {', '.join(named[:_OPERATIONS] + more) or 'none'}",
        f"implicit share  {sum(shares.values()):.1%} of the terms' sizes ({report.linearization}"
        f" linearization){': ' * bool(left)}{', '.join(left)}",
        f"forward mode    {', '.join(general[:_OPERATIONS] + others) or 'none'}",
        f"saliency map    {_map_text(report.saliency)}",
    ]


def _map_text(drawn: MapInfo) -> str:
    if drawn.error is not None:
        return f"none: {' '.join(drawn.error.split())}"
    part = f" ({drawn.in_part} in part)" if drawn.in_part else ""
    return (
        f"{drawn.terms} bias terms are drawn on the input's grid{part}, {drawn.nowhere} have no "
        f"position (share of the sum of all terms' |sums|: {drawn.nowhere_share:.1%})"
    )


def _short(name: str) -> str:
    """A name in one line that fits the table: the middle of a long one is left out."""
    name = printable(name)
    half = (_LONGEST - 3) // 2
    return name if len(name) <= _LONGEST else f"{name[:half]}...{name[-half:]}"


def _percent(share: float | None) -> str:
    if share is None:
        return "-"
    return f"{share:.1%}" if abs(share) < 100 else f"{share * 100:.1e}%"


def _in_precision(model: LoadedModel, dtype: str | None) -> torch.dtype:
    """Bring the model to a precision; the one it has by default."""
    if dtype is None:
        own = (p.dtype for p in model.module.parameters() if p.is_floating_point())
        return next(own, torch.get_default_dtype())
    if dtype not in get_args(_Precision):
        raise UsageError(f"dtype must be 'float32' or 'float64', not {dtype!r}")
    wanted: torch.dtype = getattr(torch, dtype)
    try:
        model.module.to(wanted)
    except (RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"{model.spec} cannot be brought to {dtype}: {reason}") from error
    return wanted


def _target(text: Target | str, model: LoadedModel) -> Target:
    if not isinstance(text, str):
        return text
    names = model.class_names
    return target_of(text, model, names, len(names) if names else None, "give an index")


def _decomposed(
    model: LoadedModel, x: Tensor, target: Target, maps: Named | Linearization, *, is_random: bool
) -> Decomposition:
    try:
        return decompose(model.module, x, target, linearization=maps)
    except (torch.OutOfMemoryError, MemoryError) as error:
        way_out = "choose" if is_random else "leave --input out, and choose"
        raise UsageError(f"out of memory: {way_out} a smaller --size or --batch") from error
    except Exception as error:
        if isinstance(error, FullGradError) and type(error.__cause__) not in _FAILURES:
            raise
        try:
            with torch.no_grad():
                model.module(x)
        except Exception as its_own:
            size = "x".join(map(str, x.shape))
            way_out = " (--size gives the shape of one sample)" if is_random else ""
            raise UsageError(
                f"{model.spec} fails on an input of shape {size}: {type(its_own).__name__}: "
                f"{its_own}{channels_hint(model, x)}{way_out}"
            ) from error
        raise


def _explained(found: Statistics, model: LoadedModel, target: Target) -> ExplainedInfo:
    """What f is, for the first sample."""
    index, names = found.samples[0].target, model.class_names
    if isinstance(target, Described):
        said = target.describe(names)
        return ExplainedInfo(source=said, target="", name=None, chosen="given")
    given = "" if target is None or index is not None else _written(target)
    return ExplainedInfo(
        source=found.source,
        target=given if index is None else index,
        name=names[index] if names and index is not None and index < len(names) else None,
        chosen="predicted" if target is None and index is not None else "given",
    )


def _written(target: Target) -> str:
    text = ",".join(map(str, target)) if isinstance(target, tuple) else str(target)
    return text.replace(" ", "")

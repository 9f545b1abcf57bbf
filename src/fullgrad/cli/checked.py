"""What ``fullgrad check`` finds, as numbers, as text and as JSON-ready values."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fullgrad._files import printable
from fullgrad.axes.coordinates import NOWHERE
from fullgrad.decomposition.result import Decomposition
from fullgrad.errors import InputError, LayoutError
from fullgrad.maps.aggregation import placements_for
from fullgrad.maps.saliency import saliency_from_decomposition
from fullgrad.vision.image_result import versions
from fullgrad.vision.models import LoadedModel

_HEAD = "where f comes from"


ROWS = 30  # stages shown without --all


_LONGEST = 48  # characters of a name in the table


_OPERATIONS = 8  # kinds of operations named in the text; the JSON file has all of them


@dataclass(frozen=True, slots=True)
class Sample:
    """Where one sample's output comes from.

    Args:
        target: class index, if the target is one.
        output: the explained number, f.
        input: sum of the input term.
        stages: (module path, sum of its bias terms), in order of execution.
        sum: of all terms.
        residual: f minus the sum; relative to what :attr:`Decomposition.scale` says.
        relative_residual: the same, compared with the tolerance.
    """

    target: int | None
    output: float
    input: float
    stages: tuple[tuple[str, float], ...]
    sum: float
    residual: float
    relative_residual: float

    def share(self, value: float) -> float | None:
        """A value's share of f, None where f is zero."""
        return value / self.output if self.output else None


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a saliency map is made of.

    Args:
        terms: how many bias terms have positions on the input's grid.
        in_part: how many of them have numbers that lie nowhere too (class tokens).
        nowhere: how many bias terms lie nowhere (dense layers).
        nowhere_share: of the sum of |sums| of all terms, the input's among them.
    """

    terms: int
    in_part: int
    nowhere: int
    nowhere_share: float


@dataclass(frozen=True, slots=True)
class Report:
    """All that ``fullgrad check`` says.

    Args:
        samples: one for each of the batch.
        source: which part of the model's output is explained.
        depth: components of the module path that make a stage.
        tolerance: for the relative residual.
        kinds: how many bias terms of each kind.
        operations: how many bias terms of each operation.
        general_path: (module, operation, how often) on the general path.
        drawn: what a map is made of, or why there is none.
    """

    samples: tuple[Sample, ...]
    source: str
    depth: int
    tolerance: float
    kinds: dict[str, int]
    operations: dict[str, int]
    general_path: tuple[tuple[str, str, int], ...]
    drawn: Drawn | str


def report_of(d: Decomposition, depth: int = 1) -> Report:
    """The numbers of a decomposition.

    Args:
        d: with sums for each sample.
        depth: components of the module path that make a stage.

    Raises:
        ValueError: depth is below 1.
    """
    stages = {name: sums.tolist() for name, sums in d.by_module(depth).items()}
    columns = (d.output, d.input_sums, d.input_sums + d.bias_sums, d.residual, d.relative_residual)
    rows = zip(*(column.double().tolist() for column in columns), strict=True)
    targets = [None] * len(d.output) if d.target is None else d.target.tolist()
    samples = tuple(
        Sample(
            targets[i],
            output,
            of_input,
            tuple((name, s[i]) for name, s in stages.items()),
            total,
            residual,
            relative,
        )
        for i, (output, of_input, total, residual, relative) in enumerate(rows)
    )
    kinds = Counter(t.kind for t in d.bias_terms)
    general = Counter(d.general_path)
    return Report(
        samples=samples,
        source=d.output_source,
        depth=depth,
        tolerance=d.tolerance,
        kinds={kind: kinds[kind] for kind in ("explicit", "implicit", "both")},
        operations=dict(Counter(t.op for t in d.bias_terms).most_common()),
        general_path=tuple((module, op, count) for (module, op), count in general.items()),
        drawn=_drawn(d),
    )


def _drawn(d: Decomposition) -> Drawn | str:
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
        return str(error)
    nowhere = [t for t, places in zip(d.bias_terms, found, strict=True) if not places]
    part = sum(
        any(p.places is not None and bool((p.places == NOWHERE).any()) for p in places)
        for places in found
    )
    sizes = sum(float(t.sums.abs().sum()) for t in d.bias_terms) + float(d.input_sums.abs().sum())
    lost = sum(float(t.sums.abs().sum()) for t in nowhere)
    return Drawn(len(found) - len(nowhere), part, len(nowhere), lost / sizes if sizes else 0.0)


def as_text(report: Report, heading: Sequence[str], limit: int | None = ROWS) -> str:
    """A report for people; of a batch it shows the first sample, and the largest residual of all.

    Args:
        report: the numbers.
        heading: lines that come first.
        limit: stages to show; those that contribute most. None for all.
    """
    first = report.samples[0]
    stages = [(name or "(model)", value) for name, value in first.stages]
    by_size = sorted(range(len(stages)), key=lambda i: -abs(stages[i][1]))
    shown = sorted(by_size[:limit])
    rows = [("input term", first.input), *(stages[i] for i in shown)]
    if len(shown) < len(stages):
        rest = sum(stages[i][1] for i in by_size[len(shown) :])
        rows.append((f"{len(stages) - len(shown)} other stages (--all shows them)", rest))
    ends = [("sum", first.sum), ("output f", first.output), ("residual", first.residual)]
    width = max(len(_HEAD), *(len(_short(name)) for name, _ in rows + ends))
    lines = [
        f"{_short(name):<{width}}  {value:>12.6g}  {_percent(first.share(value)):>9}"
        for name, value in rows + ends
    ]
    rule = "-" * max(map(len, lines))
    lines.insert(len(rows), rule)
    worst = max(s.relative_residual for s in report.samples)
    of = f" (largest of {len(report.samples)} samples)" * (len(report.samples) > 1)
    return "\n".join(
        [
            *heading,
            "",
            f"{_HEAD:<{width}}  {'value':>12}  {'share':>9}",
            rule,
            *lines,
            f"relative residual {worst:.1e}{of}, tolerance {report.tolerance:.0e}",
            "",
            *_counts(report),
        ]
    )


def _counts(report: Report) -> list[str]:
    total = sum(report.kinds.values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.kinds.items())
    named = [f"{op} {count}" for op, count in report.operations.items()]
    more = [f"{len(named) - _OPERATIONS} more"] * (len(named) > _OPERATIONS)
    general = [
        f"{op} in {_short(module or '(model)')}" + f" x{count}" * (count > 1)
        for module, op, count in report.general_path
    ]
    others = [f"{len(general) - _OPERATIONS} more"] * (len(general) > _OPERATIONS)
    return [
        f"bias terms      {total}: {kinds}",
        f"by operation    {', '.join(named[:_OPERATIONS] + more) or 'none'}",
        f"general path    {', '.join(general[:_OPERATIONS] + others) or 'none'}",
        f"saliency map    {_map_text(report.drawn)}",
    ]


def _map_text(drawn: Drawn | str) -> str:
    if isinstance(drawn, str):
        return f"none: {' '.join(drawn.split())}"
    part = f" ({drawn.in_part} in part)" if drawn.in_part else ""
    return (
        f"{drawn.terms} bias terms are drawn on the input's grid{part}, {drawn.nowhere} lie "
        f"nowhere (share of the sum of all terms' |sums|: {drawn.nowhere_share:.1%})"
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


def as_json(
    report: Report,
    model: LoadedModel,
    about: dict[str, Any],
    explained: dict[str, Any],
    command: Sequence[str],
) -> dict[str, Any]:
    """A report as JSON-ready values, every stage and every sample in it."""
    return {
        "model": {
            "spec": printable(model.spec),
            "weights": model.weights,
            "trained": model.trained,
            "sha256": model.sha256,
            "device": str(model.device),
        },
        "input": about,
        "explained": explained,
        "depth": report.depth,
        "tolerance": report.tolerance,
        "samples": [
            {
                **{k: v for k, v in asdict(s).items() if k != "stages"},
                "input_share": s.share(s.input),
                "stages": [
                    {"module": printable(name), "sum": value, "share": s.share(value)}
                    for name, value in s.stages
                ],
            }
            for s in report.samples
        ],
        "bias_terms": {"kinds": report.kinds, "operations": report.operations},
        "general_path": [
            {"module": printable(module), "operation": op, "times": count}
            for module, op, count in report.general_path
        ],
        "saliency": {"error": report.drawn}
        if isinstance(report.drawn, str)
        else {"error": None, **asdict(report.drawn)},
        "versions": versions(),
        "command": shlex.join(map(printable, command)),
    }

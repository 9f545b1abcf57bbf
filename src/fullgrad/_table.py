"""Tables of results as HTML for Jupyter, which ``_repr_html_`` of a result returns.

Plain HTML with inline styles: no script, no picture, no matplotlib, no identifiers that a second
output could repeat. Colors and rules are of middle brightness, to be read on light and on dark
pages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fullgrad._html import Html, joined, tag

SAMPLES = 3  # of a batch that are shown
ROWS = 20  # stages or tokens; of more, small neighbors are put together
_RAISES, _LOWERS, _TRACK = "#d6604d", "#4393c3", "rgba(128,128,128,0.18)"
_RULE = "1px solid rgba(128,128,128,0.55)"
CELL = "padding:0.1em 0.6em;text-align:{};vertical-align:middle;white-space:nowrap;"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table: a name, a remark, and a number for each shown sample."""

    name: str
    remark: str
    values: tuple[float, ...]


def never_raising(make: Callable[[Any], Html], result: Any) -> str:
    """A display that fails must not take the result away from the one who computed it."""
    try:
        return str(make(result))
    except Exception as error:
        text = f"{type(result).__name__} (no table: {type(error).__name__}: {error})"
        return str(tag("pre", text))


TABLE = "border-collapse:collapse;margin:0.3em 0;table-layout:auto;border:none;font-size:inherit;"


def first(values: Tensor) -> tuple[float, ...]:
    """The numbers of the samples that are shown."""
    return tuple(values[:SAMPLES].detach().cpu().double().tolist())


def gathered(rows: Sequence[Row], what: str) -> list[Row]:
    """At most ``ROWS`` rows: the largest stay, runs of the others become one row each."""
    if len(rows) <= ROWS:
        return list(rows)
    scales = [_scale(v) for v in zip(*(r.values for r in rows), strict=True)]

    def size(row: Row) -> float:
        return max((abs(v) / s for v, s in zip(row.values, scales, strict=True)), default=0.0)

    order = sorted(range(len(rows)), key=lambda i: -size(rows[i]))
    for kept in range(ROWS - 1, 0, -1):
        chosen, found, run = set(order[:kept]), list[Row](), list[Row]()
        for i, row in enumerate(rows):
            if i not in chosen:
                run.append(row)
                continue
            found += [*_one(run, what), row]
            run = []
        found += _one(run, what)
        if len(found) <= ROWS:
            return found
    raise AssertionError("one row and a run on either side are three")


def _one(run: Sequence[Row], what: str) -> list[Row]:
    """Neighbors as one row."""
    if len(run) < 2:
        return list(run)
    counts = [int(r.remark) for r in run if r.remark]
    values = tuple(math.fsum(v) for v in zip(*(r.values for r in run), strict=True))
    return [Row(f"{len(run)} {what}", str(sum(counts)) if counts else "", values)]


def _scale(values: Sequence[float]) -> float:
    return max((abs(v) for v in values if math.isfinite(v)), default=0.0) or 1.0


def heads_of(alone: str, count: int, target: Tensor | None) -> list[Html]:
    """A head for each shown sample: its number, and its class if there is one."""
    shown = min(SAMPLES, count)
    classes: list[Any] = [None] * shown
    if target is not None and len(target) == count:
        classes = target[:shown].detach().cpu().tolist()
    heads = []
    for place, index in enumerate(classes):
        name = alone or ("sum" if count == 1 else f"sample {place}")
        heads.append(joined([name] if index is None else [name, tag("br"), f"target {index}"]))
    return heads


def table_of(heads: Sequence[Any], parts: Sequence[Row], last: Sequence[Row]) -> Html:
    """Rows with bars, and rows with numbers alone below a rule."""
    scales = [_scale(v) for v in zip(*(r.values for r in parts), strict=True)]
    top = [
        tag(
            "th",
            head,
            scope="col",
            colspan=2 if i > 1 else None,
            style=CELL.format("left" if i == 0 else "center" if i > 1 else "right"),
        )
        for i, head in enumerate(heads)
    ]
    rows = [_line(r, r.values, scales) for r in parts]
    rows += [_line(r, r.values, None, first=i == 0) for i, r in enumerate(last)]
    return tag("table", tag("thead", tag("tr", *top)), tag("tbody", *rows), style=TABLE)


def _line(
    row: Row, values: Sequence[float], scales: Sequence[float] | None, first: bool = False
) -> Html:
    rule = f"border-top:{_RULE};" if first else ""
    weight = f"font-weight:{'bold' if row.name.startswith('=') else 'normal'};"
    name = f"{CELL.format('left')}white-space:normal;overflow-wrap:anywhere;max-width:18em;"
    cells = [
        tag("th", row.name, scope="row", style=name + weight + rule),
        tag("td", row.remark, style=CELL.format("right") + rule),
    ]
    for place, value in enumerate(values):
        text = _small(value) if row.name == "residual" else signed(value)
        bar = "" if scales is None else _bar(value, scales[place])
        cells.append(tag("td", text, style=CELL.format("right") + weight + rule))
        cells.append(tag("td", bar, style=CELL.format("left") + rule))
    return tag("tr", *cells)


def _bar(value: float, scale: float) -> Html:
    """From the middle to the right where the output is raised, to the left where it is lowered."""
    share = min(abs(value) / scale, 1.0) * 50 if math.isfinite(value) else 0.0
    left, color = (50.0, _RAISES) if value > 0 else (50 - share, _LOWERS)
    style = f"margin-left:{left:.1f}%;width:{share:.1f}%;height:0.7em;background-color:{color};"
    track = f"width:7em;background-color:{_TRACK};"
    return tag("div", tag("div", style=style), style=track, aria_hidden="true")


def residual_note(relative: Tensor, tolerance: float) -> tuple[str, str]:
    worst = float(relative.max()) if relative.numel() else 0.0
    return (
        "residual",
        f"the output minus all of its parts: rounding. Relative to |output| plus the sizes of all "
        f"terms' sums it is {worst:.1e} at most; above the tolerance, {tolerance:.0e}, it would "
        "have been an error.",
    )


def more_samples(count: int, how: str) -> tuple[str, str] | None:
    if count <= SAMPLES:
        return None
    return ("samples", f"{SAMPLES} of {count} are shown; {how} has any of them.")


def samples_text(count: int) -> str:
    return "1 sample" if count == 1 else f"{count} samples"


def _small(value: float) -> str:
    return "0" if value == 0 else f"{value:+.1e}".replace("-", "−")


def page(title: str, what: str, table: Html, notes: Sequence[tuple[str, str]]) -> Html:
    lines = [tag("div", tag("b", name), ": ", text) for name, text in notes]
    return tag(
        "div",
        tag("div", tag("b", title), f", {what}"),
        tag("div", table, style="overflow-x:auto;"),
        tag("div", *lines, style="font-size:0.9em;opacity:0.8;max-width:60em;"),
        style="color:inherit;",
    )


def number(value: float) -> str:
    """A number of a map or a logit, to three or four digits."""
    return "0" if value == 0 else f"{value:.4g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.2e}"


def signed(value: float) -> str:
    """The same with its sign, and real minuses."""
    return ("+" if value > 0 else "") + number(value).replace("-", "−")

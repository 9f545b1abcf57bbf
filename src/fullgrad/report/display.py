"""Results as HTML for Jupyter: what their ``_repr_html_`` returns.

Plain HTML with inline styles: no script, no picture, no matplotlib, no identifiers that a second
output could repeat. Colours and rules are of middle brightness, to be read on light and on dark
pages. Only sums are read, a few numbers for each sample; no term is computed or copied.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fullgrad.report.markup import Html, joined, tag
from fullgrad.viz.style import signed

if TYPE_CHECKING:
    from fullgrad.decomposition.result import BiasTerm, Decomposition
    from fullgrad.tokens.attribution import TokenScores

SAMPLES = 3  # of a batch that are shown
ROWS = 20  # stages or tokens; of more, small neighbours are put together
_DEEPEST = 4  # components of a module path that make a stage, where fewer tell too little
_RAISES, _LOWERS, _TRACK = "#d6604d", "#4393c3", "rgba(128,128,128,0.18)"
_RULE = "1px solid rgba(128,128,128,0.55)"
_CELL = "padding:0.1em 0.6em;text-align:{};vertical-align:middle;white-space:nowrap;"


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of a table: a name, a remark, and a number for each shown sample."""

    name: str
    remark: str
    values: tuple[float, ...]


def decomposition_html(decomposition: Decomposition) -> str:
    """A table of a decomposition: output, target, input term, stages as bars, residual.

    Args:
        decomposition: from :func:`fullgrad.decompose`, on any device.

    Returns:
        HTML. A result that cannot be shown says so instead; nothing is raised.
    """
    return _never_raising(_decomposition, decomposition)


def term_html(term: BiasTerm) -> str:
    """A table of one bias term: where it comes from, its shape, its sums.

    Args:
        term: of a decomposition.

    Returns:
        HTML; see :func:`decomposition_html`.
    """
    return _never_raising(_term, term)


def token_scores_html(scores: TokenScores) -> str:
    """A table of token scores: each token's part as a bar, the sums, the residual.

    Args:
        scores: from :func:`fullgrad.tokens.attribution.attribute_tokens`.

    Returns:
        HTML; see :func:`decomposition_html`.
    """
    return _never_raising(_token_scores, scores)


def _never_raising(make: Callable[[Any], Html], result: Any) -> str:
    """A display that fails must not take the result away from the one who computed it."""
    try:
        return str(make(result))
    except Exception as error:
        text = f"{type(result).__name__} (no table: {type(error).__name__}: {error})"
        return str(tag("pre", text))


def _decomposition(d: Decomposition) -> Html:
    whole = len(d.residual) != len(d.output)
    outputs = d.output.double().sum().view(1) if whole else d.output
    depth = _depth(d)
    counts = Counter(_stage(t.module, depth) for t in d.bias_terms)
    stages = [
        _Row(name or "(model)", str(counts[name]), _first(sums))
        for name, sums in d.by_module(depth).items()
    ]
    title = "input" if len(d.input_names) == 1 else f"{len(d.input_names)} inputs"
    parts = [_Row(title, "", _first(d.input_sums)), *_gathered(stages, "stages")]
    last = [
        _Row("residual", "", _first(d.residual)),
        _Row(f"= {d.output_source}", "", _first(outputs)),
    ]
    notes = [
        ("output", f"the number that is explained, {d.output_source} of {_targets(d, whole)}."),
        (title, "gradient × input, summed."),
        (
            "stages",
            f"gradient × bias, summed over the operations with a bias in each module (so many as "
            f"the second column says; {len(d)} in all). Red raises the output, blue lowers it; "
            "bars of one column share a scale.",
        ),
        _residual_note(d.relative_residual, d.tolerance),
    ]
    if d.general_path:
        notes.append(
            (
                "general path",
                f"{len(d.general_path)} calls of operations without a rule of their own, "
                "differentiated in forward mode.",
            )
        )
    if more := _more(len(d.residual), f".summary(depth={depth}, sample=i)"):
        notes.append(more)
    heads = _heads("whole batch" if whole else "", len(d.residual), d.target)
    table = _table(["", "operations", *heads], parts, last)
    return _page(f"Decomposition of {d.output_source}", _batch(len(d.output)), table, notes)


def _term(term: BiasTerm) -> Html:
    sums = _first(term.sums)
    rows = [
        ("module", term.module or "(model)", "that ran the operation"),
        ("operation", term.op, "as PyTorch's dispatcher names it"),
        ("kind", term.kind, _KINDS.get(term.kind, "")),
        ("shape", " × ".join(map(str, term.shape)) or "one number", "of the operation's output"),
        (
            "bias",
            " × ".join(map(str, term.bias.shape)) or "one number",
            f"shape of b = y − Σ J u; {str(term.bias.dtype).removeprefix('torch.')} on "
            f"{term.bias.device}",
        ),
        (
            "sum",
            ", ".join(map(signed, sums)) + (", …" if len(term.sums) > len(sums) else ""),
            "of gradient × bias, for each sample: this term's share of the output",
        ),
    ]
    body = [
        tag(
            "tr",
            tag("th", name, scope="row", style=_CELL.format("left")),
            tag("td", value, style=_CELL.format("left") + "white-space:normal;"),
            tag("td", what, style=_CELL.format("left") + "white-space:normal;opacity:0.75;"),
        )
        for name, value, what in rows
    ]
    table = tag("table", tag("tbody", *body), style=_TABLE)
    return _page("Bias term", _batch(len(term.sums)), table, [])


def _token_scores(s: TokenScores) -> Html:
    shown = min(SAMPLES, len(s.output))
    totals = s.total[:shown].detach().cpu().tolist()
    tokens = [
        _Row(f"token {t}", "", tuple(row[t] for row in totals)) for t in range(s.scores.shape[1])
    ]
    last = [
        _Row("elsewhere", "", _first(s.elsewhere)),
        _Row("residual", "", _first(s.residual)),
        _Row("= output", "", _first(s.output)),
        _Row("of which input", "", _first(s.scores[:shown].sum(1))),
        _Row("of which bias at tokens", "", _first(s.bias_scores[:shown].sum(1))),
    ]
    notes = [
        (
            "token",
            "the token's part of the output, by position: gradient × embedding and the bias terms "
            "that lie at it. Red raises the output, blue lowers it; bars of one column share a "
            "scale.",
        ),
        ("elsewhere", "bias terms that lie at no token (pooled, or one token that was picked)."),
        _residual_note(s.relative_residual, s.tolerance),
        ("words", "fullgrad.viz.tokens.token_strip(words, scores.total[i]) draws them."),
    ]
    if more := _more(len(s.output), ".total[i]"):
        notes.append(more)
    table = _table(
        ["", "", *_heads("", len(s.output), s.target)], _gathered(tokens, "tokens"), last
    )
    return _page("Token scores", _batch(len(s.output)), table, notes)


_KINDS = {
    "explicit": "constants that the model adds",
    "implicit": "left over by a non-linearity: g(u) − g′(u) u",
    "both": "constants that the model adds, and what a non-linearity leaves over",
}
_TABLE = "border-collapse:collapse;margin:0.3em 0;table-layout:auto;border:none;font-size:inherit;"


def _stage(module: str, depth: int) -> str:
    return ".".join(module.split(".")[:depth])


def _depth(d: Decomposition) -> int:
    """Components of the path that make a stage: more where one would hold most operations."""
    for depth in range(1, _DEEPEST):
        counts = Counter(_stage(t.module, depth) for t in d.bias_terms)
        if max(counts.values(), default=0) <= len(d) / 2:
            return depth
    return _DEEPEST


def _first(values: Tensor) -> tuple[float, ...]:
    """The numbers of the samples that are shown."""
    return tuple(values[:SAMPLES].detach().cpu().double().tolist())


def _gathered(rows: Sequence[_Row], what: str) -> list[_Row]:
    """At most ``ROWS`` rows: the largest stay, runs of the others become one row each."""
    if len(rows) <= ROWS:
        return list(rows)
    scales = [_scale(v) for v in zip(*(r.values for r in rows), strict=True)]

    def size(row: _Row) -> float:
        return max((abs(v) / s for v, s in zip(row.values, scales, strict=True)), default=0.0)

    order = sorted(range(len(rows)), key=lambda i: -size(rows[i]))
    for kept in range(ROWS - 1, 0, -1):
        chosen, found, run = set(order[:kept]), list[_Row](), list[_Row]()
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


def _one(run: Sequence[_Row], what: str) -> list[_Row]:
    """Neighbours as one row."""
    if len(run) < 2:
        return list(run)
    counts = [int(r.remark) for r in run if r.remark]
    values = tuple(math.fsum(v) for v in zip(*(r.values for r in run), strict=True))
    return [_Row(f"{len(run)} {what}", str(sum(counts)) if counts else "", values)]


def _scale(values: Sequence[float]) -> float:
    return max((abs(v) for v in values if math.isfinite(v)), default=0.0) or 1.0


def _heads(alone: str, count: int, target: Tensor | None) -> list[Html]:
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


def _table(heads: Sequence[Any], parts: Sequence[_Row], last: Sequence[_Row]) -> Html:
    """Rows with bars, and rows with numbers alone below a rule."""
    scales = [_scale(v) for v in zip(*(r.values for r in parts), strict=True)]
    top = [
        tag(
            "th",
            head,
            scope="col",
            colspan=2 if i > 1 else None,
            style=_CELL.format("left" if i == 0 else "center" if i > 1 else "right"),
        )
        for i, head in enumerate(heads)
    ]
    rows = [_line(r, r.values, scales) for r in parts]
    rows += [_line(r, r.values, None, first=i == 0) for i, r in enumerate(last)]
    return tag("table", tag("thead", tag("tr", *top)), tag("tbody", *rows), style=_TABLE)


def _line(
    row: _Row, values: Sequence[float], scales: Sequence[float] | None, first: bool = False
) -> Html:
    rule = f"border-top:{_RULE};" if first else ""
    weight = f"font-weight:{'bold' if row.name.startswith('=') else 'normal'};"
    name = f"{_CELL.format('left')}white-space:normal;overflow-wrap:anywhere;max-width:18em;"
    cells = [
        tag("th", row.name, scope="row", style=name + weight + rule),
        tag("td", row.remark, style=_CELL.format("right") + rule),
    ]
    for place, value in enumerate(values):
        text = _small(value) if row.name == "residual" else signed(value)
        bar = "" if scales is None else _bar(value, scales[place])
        cells.append(tag("td", text, style=_CELL.format("right") + weight + rule))
        cells.append(tag("td", bar, style=_CELL.format("left") + rule))
    return tag("tr", *cells)


def _bar(value: float, scale: float) -> Html:
    """From the middle to the right where the output is raised, to the left where it is lowered."""
    share = min(abs(value) / scale, 1.0) * 50 if math.isfinite(value) else 0.0
    left, colour = (50.0, _RAISES) if value > 0 else (50 - share, _LOWERS)
    style = f"margin-left:{left:.1f}%;width:{share:.1f}%;height:0.7em;background-color:{colour};"
    track = f"width:7em;background-color:{_TRACK};"
    return tag("div", tag("div", style=style), style=track, aria_hidden="true")


def _targets(d: Decomposition, whole: bool) -> str:
    what = "the target class" if d.target is not None else "the model's output"
    return f"{what}, summed over the batch" if whole else what


def _residual_note(relative: Tensor, tolerance: float) -> tuple[str, str]:
    worst = float(relative.max()) if relative.numel() else 0.0
    return (
        "residual",
        f"the output minus all of its parts: rounding. Relative to |output| plus the sizes of all "
        f"terms' sums it is {worst:.1e} at most; above the tolerance, {tolerance:.0e}, it would "
        "have been an error.",
    )


def _more(count: int, how: str) -> tuple[str, str] | None:
    if count <= SAMPLES:
        return None
    return ("samples", f"{SAMPLES} of {count} are shown; {how} has any of them.")


def _batch(count: int) -> str:
    return "1 sample" if count == 1 else f"{count} samples"


def _small(value: float) -> str:
    return "0" if value == 0 else f"{value:+.1e}".replace("-", "−")


def _page(title: str, what: str, table: Html, notes: Sequence[tuple[str, str]]) -> Html:
    lines = [tag("div", tag("b", name), ": ", text) for name, text in notes]
    return tag(
        "div",
        tag("div", tag("b", title), f", {what}"),
        tag("div", table, style="overflow-x:auto;"),
        tag("div", *lines, style="font-size:0.9em;opacity:0.8;max-width:60em;"),
        style="color:inherit;",
    )

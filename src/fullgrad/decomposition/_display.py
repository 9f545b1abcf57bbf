"""A decomposition and its terms as HTML for Jupyter.

Only sums are read, a few numbers for each sample; no term is computed or copied.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from fullgrad._html import Html, tag
from fullgrad._table import (
    CELL,
    TABLE,
    Row,
    first,
    gathered,
    heads_of,
    more_samples,
    never_raising,
    page,
    residual_note,
    samples_text,
    signed,
    table_of,
)

_KINDS = {
    "explicit": "constants that the model adds",
    "implicit": "left over by a non-linearity: g(u) − g′(u) u",
    "both": "constants that the model adds, and what a non-linearity leaves over",
}
_DEEPEST = 4  # components of a module path that make a stage, where fewer tell too little


def decomposition_html(decomposition: Any) -> str:
    """A table of a decomposition: output, target, input term, stages as bars, residual.

    Args:
        decomposition: a :class:`~fullgrad.Decomposition`, on any device. Its class is not imported
            here, as it calls this function.

    Returns:
        HTML. A result that cannot be shown says so instead; nothing is raised.
    """
    return never_raising(_decomposition, decomposition)


def term_html(term: Any) -> str:
    """A table of one bias term: where it comes from, its shape, its sums.

    Args:
        term: a :class:`~fullgrad.BiasTerm`.

    Returns:
        HTML; see :func:`decomposition_html`.
    """
    return never_raising(_term, term)


def _decomposition(d: Any) -> Html:
    whole = len(d.residual) != len(d.output)
    outputs = d.output.double().sum().view(1) if whole else d.output
    depth = _depth(d)
    counts = Counter(_stage(t.module, depth) for t in d.bias_terms)
    stages = [
        Row(name or "(model)", str(counts[name]), first(sums))
        for name, sums in d.by_module(depth).items()
    ]
    title = "input" if len(d.input_names) == 1 else f"{len(d.input_names)} inputs"
    parts = [Row(title, "", first(d.input_sums)), *gathered(stages, "stages")]
    last = [Row("residual", "", first(d.residual)), Row(f"= {d.output_source}", "", first(outputs))]
    notes = [
        ("output", f"the number that is explained, {d.output_source} of {_targets(d, whole)}."),
        (title, "gradient × input, summed."),
        (
            "stages",
            f"gradient × bias, summed over the operations with a bias in each module (the "
            f"second column counts them; {len(d)} in all). Red raises the output, blue lowers it; "
            "bars of one column share a scale.",
        ),
        residual_note(d.relative_residual, d.tolerance),
    ]
    if d.general_path:
        notes.append(
            (
                "forward mode",
                f"{len(d.general_path)} calls of operations without a rule of their own, "
                "differentiated in forward mode.",
            )
        )
    if more := more_samples(len(d.residual), f".summary(depth={depth}, sample=i)"):
        notes.append(more)
    heads = heads_of("whole batch" if whole else "", len(d.residual), d.target)
    table = table_of(["", "operations", *heads], parts, last)
    return page(f"Decomposition of {d.output_source}", samples_text(len(d.output)), table, notes)


def _term(term: Any) -> Html:
    sums = first(term.sums)
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
            tag("th", name, scope="row", style=CELL.format("left")),
            tag("td", value, style=CELL.format("left") + "white-space:normal;"),
            tag("td", what, style=CELL.format("left") + "white-space:normal;opacity:0.75;"),
        )
        for name, value, what in rows
    ]
    table = tag("table", tag("tbody", *body), style=TABLE)
    return page("Bias term", samples_text(len(term.sums)), table, [])


def _stage(module: str, depth: int) -> str:
    return ".".join(module.split(".")[:depth])


def _depth(d: Any) -> int:
    """Components of the path that make a stage: more where one would hold most operations."""
    for depth in range(1, _DEEPEST):
        counts = Counter(_stage(t.module, depth) for t in d.bias_terms)
        if max(counts.values(), default=0) <= len(d) / 2:
            return depth
    return _DEEPEST


def _targets(d: Any, whole: bool) -> str:
    what = "the target class" if d.target is not None else "the model's output"
    return f"{what}, summed over the batch" if whole else what

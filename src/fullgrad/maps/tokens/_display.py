"""Token scores as HTML for Jupyter."""

from __future__ import annotations

from typing import Any

import numpy as np

from fullgrad._html import Html
from fullgrad._table import (
    SAMPLES,
    Row,
    first,
    gathered,
    heads_of,
    more_samples,
    never_raising,
    page,
    residual_note,
    samples_text,
    table_of,
)


def token_scores_html(scores: Any) -> str:
    """A table of token scores: each token's part as a bar, the sums, the residual.

    Args:
        scores: a :class:`~fullgrad.maps.tokens.TokenScores`.

    Returns:
        HTML; see :func:`decomposition_html`.
    """
    return never_raising(_token_scores, scores)


def _token_scores(s: Any) -> Html:
    shown = min(SAMPLES, len(s.output))
    totals = s.total[:shown].flatten(1).detach().cpu().tolist()
    numbers = [".".join(map(str, place)) for place in np.ndindex(*s.scores.shape[1:])]
    tokens = [Row(f"token {n}", "", tuple(row[i] for row in totals)) for i, n in enumerate(numbers)]
    last = [
        Row("elsewhere", "", first(s.elsewhere)),
        Row("residual", "", first(s.residual)),
        Row("= output", "", first(s.output)),
        Row("of which input", "", first(s.scores[:shown].flatten(1).sum(1))),
        Row("of which bias at tokens", "", first(s.bias_scores[:shown].flatten(1).sum(1))),
    ]
    notes = [
        (
            "token",
            "the token's part of the output, by position: gradient × embedding and the bias terms "
            "that lie at it. Red raises the output, blue lowers it; bars of one column share a "
            "scale.",
        ),
        ("elsewhere", "bias terms that lie at no token (pooled, or one token that was picked)."),
        residual_note(s.relative_residual, s.tolerance),
        ("words", "fullgrad.viz.tokens.token_strip(words, scores.total[i]) draws them."),
    ]
    if more := more_samples(len(s.output), ".total[i]"):
        notes.append(more)
    table = table_of(
        ["", "", *heads_of("", len(s.output), s.target)], gathered(tokens, "tokens"), last
    )
    return page("Token scores", samples_text(len(s.output)), table, notes)

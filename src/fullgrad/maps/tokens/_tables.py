"""Token scores as a table of pandas, or a data set of xarray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fullgrad._optional import require
from fullgrad._results import as_numpy
from fullgrad.errors import InputError


def to_pandas(s: Any, tokens: Sequence[Sequence[str]] | None) -> Any:
    """See :meth:`fullgrad.maps.tokens.TokenScores.to_pandas`."""
    pandas = require("pandas", "results")
    shape = s.scores.shape
    if tokens is not None and len(shape) != 2:
        raise InputError("tokens= is for ids of shape (batch, tokens): leave it out")
    if tokens is not None and [len(t) for t in tokens] != [shape[1]] * shape[0]:
        raise InputError(f"tokens must be {shape[0]} lists of {shape[1]} words")
    axes = _axes(s)
    rows = []
    for sample in range(shape[0]):
        for part, values in (("input", s.scores), ("bias", s.bias_scores)):
            own = as_numpy(values[sample])
            for place in np.ndindex(*own.shape):
                word = [tokens[sample][place[0]]] if tokens is not None else []
                rows.append((sample, part, *place, *word, float(own[place])))
        nowhere = [None] * (len(axes) - 1 + (tokens is not None))
        rows.append((sample, "elsewhere", *nowhere, float(s.elsewhere[sample])))
        rows.append((sample, "residual", *nowhere, float(s.residual[sample])))
    names = ["sample", "part", *axes[1:], *(["token"] if tokens is not None else []), "value"]
    table = pandas.DataFrame(rows, columns=names)
    return table.astype(dict.fromkeys(axes[1:], "Int64"))


def to_xarray(s: Any) -> Any:
    """See :meth:`fullgrad.maps.tokens.TokenScores.to_xarray`."""
    xarray = require("xarray", "results")
    axes = _axes(s)
    wide = {name: (axes, as_numpy(getattr(s, name))) for name in ("scores", "bias_scores")}
    sums = {n: ("sample", as_numpy(getattr(s, n))) for n in ("elsewhere", "output", "residual")}
    return xarray.Dataset({**wide, **sums})


def _axes(s: Any) -> tuple[str, ...]:
    return ("sample", "sentence", "position") if s.scores.dim() == 3 else ("sample", "position")

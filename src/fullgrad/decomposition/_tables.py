"""A decomposition as a table of pandas, or a data set of xarray. Only sums are read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fullgrad._optional import require
from fullgrad._results import as_numpy
from fullgrad.engine.backward import product, widen


def to_pandas(d: Any) -> Any:
    """See :meth:`fullgrad.Decomposition.to_pandas`."""
    pandas = require("pandas", "results")
    rows = [
        *(("input", name, "", "", x.shape, s) for name, x, s in _inputs(d)),
        *(("bias", t.module, t.op, t.kind, t.shape, t.sums) for t in d.bias_terms),
        ("residual", "", "", "", (), d.residual),
    ]
    return pandas.DataFrame(
        [
            (sample, *names, "x".join(map(str, shape)), float(sums[sample]))
            for sample in range(len(d.residual))
            for *names, shape, sums in rows
        ],
        columns=["sample", "part", "module", "op", "kind", "shape", "value"],
    )


def to_xarray(d: Any) -> Any:
    """See :meth:`fullgrad.Decomposition.to_xarray`."""
    xarray = require("xarray", "results")
    terms = d.bias_terms
    sums = torch.stack([d.residual.new_zeros(d.residual.shape), *(t.sums for t in terms)])[1:]
    own = torch.stack([s for _, _, s in _inputs(d)])
    outputs = d.output.sum()[None] if len(d.residual) != len(d.output) else d.output
    return xarray.Dataset(
        {
            "input_sums": (("input", "sample"), as_numpy(own)),
            "bias_sums": (("term", "sample"), as_numpy(sums)),
            "output": ("sample", as_numpy(outputs)),
            "residual": ("sample", as_numpy(d.residual)),
        },
        coords={
            "input": list(d.input_names),
            "module": ("term", [t.module for t in terms]),
            "op": ("term", [t.op for t in terms]),
            "kind": ("term", [t.kind for t in terms]),
        },
        attrs={
            "output_source": d.output_source,
            "linearization": d.linearization,
            "tolerance": d.tolerance,
        },
    )


def _inputs(d: Any) -> list[tuple[str, Tensor, Tensor]]:
    """Name, values and sums of each explained input."""
    if len(d.inputs) == 1:
        return [(d.input_names[0], d.inputs[0], d.input_sums)]
    found = []
    for i, (name, x, gradient) in enumerate(
        zip(d.input_names, d.inputs, d.input_gradients, strict=True)
    ):
        value = product(widen(gradient), widen(x), False).movedim(d.layouts.batch_axis(i), 0)
        sums = value.flatten(1).sum(1) if len(d.residual) == len(value) else value.sum()[None]
        found.append((name, x, sums.double()))
    return found

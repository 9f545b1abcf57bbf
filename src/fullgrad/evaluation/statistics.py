"""Means with bootstrap intervals, and paired differences between methods, over images."""

from __future__ import annotations

from itertools import combinations
from typing import Any, TypeAlias

import numpy as np

from fullgrad._optional import require

Array: TypeAlias = np.ndarray[Any, Any]
Table: TypeAlias = Any  # a pandas.DataFrame

RESAMPLES = 2000
LEVEL = 0.95
_GROUP = ["method", "order", "fill", "fraction"]


def interval(values: Array, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over images, at :data:`LEVEL`.

    Args:
        values: one number for each image, shape (N,).
        seed: of the resampling.

    Returns:
        Lower and upper end; both the value itself for one image.
    """
    generator = np.random.default_rng(seed)
    picks = generator.integers(0, len(values), (RESAMPLES, len(values)))
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(values[picks].mean(1), (tail, 100 - tail))
    return float(low), float(high)


def per_image(rows: Table, value: str) -> Table:
    """One number for each image, method, order, fill and fraction: the mean over runs."""
    keys = ["image", *_GROUP]
    return rows.groupby(keys, sort=False, observed=True)[value].mean().reset_index()


def summary(rows: Table) -> Table:
    """For each method, order, fill and fraction: means over the images with intervals.

    Args:
        rows: of :mod:`fullgrad.evaluation.pixel_perturbation`.
    """
    pandas: Any = require("pandas", "bench")
    names = ("relative_change", "probability_change", "kept")
    tables = {name: per_image(rows, name) for name in names}
    found = []
    for key, group in tables["relative_change"].groupby(_GROUP, sort=False, observed=True):
        values = group["relative_change"].to_numpy()
        low, high = interval(values)
        row = dict(zip(_GROUP, key, strict=True))
        row |= {
            "images": len(values),
            "relative_change": float(values.mean()),
            "low": low,
            "high": high,
            "median": float(np.median(values)),
        }
        for name in names[1:]:
            t = tables[name]
            same = (t[_GROUP] == list(key)).all(axis=1)
            row[name] = float(t.loc[same, name].mean())
        found.append(row)
    return pandas.DataFrame(found)


def areas(rows: Table) -> Table:
    """For each image, method, order and fill: the mean change along the logarithmic axis.

    The area under the curve over the logarithm of the fraction, divided by the axis' length; the
    change itself where there is one fraction.
    """
    table = per_image(rows, "relative_change")
    keys = ["image", "method", "order", "fill"]

    def area(group: Table) -> float:
        ordered = group.sort_values("fraction")
        x = np.log(ordered["fraction"].to_numpy())
        y = ordered["relative_change"].to_numpy()
        if len(x) == 1:
            return float(y[0])
        return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))

    grouped = table.groupby(keys, sort=False, observed=True)[["fraction", "relative_change"]]
    return grouped.apply(area).rename("area").reset_index()


def ranking(rows: Table) -> Table:
    """Methods by their mean area, for each order and fill; the best first.

    Least salient first: the smallest is best; most salient first: the largest.
    """
    pandas: Any = require("pandas", "bench")
    found = []
    for (order, fill), group in areas(rows).groupby(["order", "fill"], sort=False, observed=True):
        lines = []
        for method, own in group.groupby("method", sort=False, observed=True):
            values = own["area"].to_numpy()
            low, high = interval(values)
            lines.append(
                {
                    "order": order,
                    "fill": fill,
                    "method": method,
                    "images": len(values),
                    "area": float(values.mean()),
                    "low": low,
                    "high": high,
                }
            )
        lines.sort(key=lambda r: r["area"], reverse=order == "most")
        found += [{**line, "rank": i} for i, line in enumerate(lines, 1)]
    return pandas.DataFrame(found)


def differences(rows: Table) -> Table:
    """Paired differences of the areas of every two methods over the same images.

    ``differ`` is True where the interval of the mean difference (first minus second) leaves out
    zero.
    """
    pandas: Any = require("pandas", "bench")
    found = []
    for (order, fill), group in areas(rows).groupby(["order", "fill"], sort=False, observed=True):
        wide = group.pivot_table(index="image", columns="method", values="area", sort=False)
        for a, b in combinations(list(wide.columns), 2):
            values = (wide[a] - wide[b]).to_numpy()
            low, high = interval(values)
            found.append(
                {
                    "order": order,
                    "fill": fill,
                    "first": a,
                    "second": b,
                    "difference": float(values.mean()),
                    "low": low,
                    "high": high,
                    "differ": not low <= 0 <= high,
                }
            )
    columns = ["order", "fill", "first", "second", "difference", "low", "high", "differ"]
    return pandas.DataFrame(found, columns=columns)

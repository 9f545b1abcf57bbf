"""From the scores of single maps to means, intervals, and which methods are first or tied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fullgrad._optional import require
from fullgrad.evaluation import statistics
from fullgrad.evaluation.statistics import Table
from fullgrad.evaluation.tests.evaluate.measures import measures
from fullgrad.evaluation.tests.evaluate.words import TIED

_GROUP = ["model", "test", "setting"]
MEANINGS = {
    "model": "whose maps are tested",
    "test": "what is done with the maps",
    "setting": "how",
    "case": "the image or text",
    "images": "how many images or texts the mean is over",
    "mean": "over them; of relevance gain divided by the mean change when all is removed",
    "error": "standard error of the mean",
    "behind": "paired difference to the first method, below zero where this one is worse",
    "behind_low": "lower end of its interval, at 95 % for all methods of a test together",
    "behind_high": "upper end",
    "verdict": f"first; tied: the lower end lies above -{TIED}; behind: the upper end lies below "
    "0; not shown: neither",
    "area": "of ground truth: the mask's share of the image, which a flat map gets as mass",
    "methods": "in common to both tests",
    "correlation": "Spearman's, of the methods' means",
}


def sign_of(test: str) -> int:
    """Return 1 where higher is better, else -1; 1 for a test that is not known here."""
    kind = measures().get(test)
    return -1 if kind is not None and kind.better == "lower" else 1


def scaled(rows: Table) -> Table:
    """Return one number for each model, test, setting, method and image, divided by the scale.

    Several runs of a method are averaged first.
    """
    keys = [*_GROUP, "method", "case"]
    each = rows.groupby(keys, sort=False, observed=True)[["value", "scale"]].mean().reset_index()
    means = each.groupby([*_GROUP, "method"], sort=False)["scale"].transform("mean")
    each["value"] = each["value"] / means.where(means > 0, np.nan)
    return each


def _wide(rows: Table) -> Iterator[tuple[dict[str, str], Table]]:
    """Yield each test of each model as a table of images by methods."""
    for key, group in scaled(rows).groupby(_GROUP, sort=False):
        wide = group.pivot_table(index="case", columns="method", values="value", sort=False)
        yield dict(zip(_GROUP, key, strict=True)), wide.dropna()


def ranking(rows: Table) -> Table:
    """Return means with intervals and verdicts, the best first in each test of each model.

    Args:
        rows: one for each model, test, setting, image, method and run.
    """
    pandas: Any = require("pandas", "bench")
    lines = [line for key, wide in _wide(rows) for line in _ranked(key, wide)]
    return pandas.DataFrame(lines)


def _ranked(key: Mapping[str, str], wide: Table) -> Iterator[dict[str, Any]]:
    sign = sign_of(key["test"])
    values = wide.to_numpy()
    count = len(values)
    means = values.mean(0)
    order = np.argsort(-sign * means, kind="stable")
    gaps = sign * (values - values[:, order[:1]])
    behind = gaps.mean(0)
    several = count > 1
    unknown = np.full_like(behind, np.nan)
    low, high = statistics.simultaneous(gaps) if several else (unknown, unknown)
    for rank, i in enumerate(order, 1):
        ends = statistics.interval(values[:, i])
        error = float(values[:, i].std(ddof=1) / count**0.5) if several else float("nan")
        yield {
            **key,
            "rank": rank,
            "method": wide.columns[i],
            "images": count,
            "mean": float(means[i]),
            "error": error,
            "low": ends[0],
            "high": ends[1],
            "behind": float(behind[i]),
            "behind_low": float(low[i]),
            "behind_high": float(high[i]),
            "verdict": _verdict(rank, float(low[i]), float(high[i])),
        }


def _verdict(rank: int, low: float, high: float) -> str:
    if rank == 1:
        return "first"
    if high < 0 and low <= -TIED:
        return "behind"
    return "tied" if low > -TIED else "not shown"


def scores(rows: Table) -> dict[str, Any]:
    """Return the methods' means under each test of each model, the higher the better."""
    found = {}
    for key, wide in _wide(rows):
        name = ", ".join(part for part in key.values() if part)
        found[name] = sign_of(key["test"]) * wide.mean()
    return found


def agreement(rows: Table) -> Table:
    """Return Spearman's correlation of every two tests of each model."""
    pandas: Any = require("pandas", "bench")
    lines = []
    of: dict[str, list[tuple[str, Any]]] = {}
    for key, wide in _wide(rows):
        name = f"{key['test']} ({key['setting']})" if key["setting"] else key["test"]
        of.setdefault(key["model"], []).append((name, sign_of(key["test"]) * wide.mean()))
    for model, tests in of.items():
        for i, (first, a) in enumerate(tests):
            for second, b in tests[i + 1 :]:
                both = pandas.concat([a, b], axis=1).dropna().to_numpy()
                found = None
                if len(both) > 2:
                    found = statistics.correlation(both[:, 0], both[:, 1])
                lines.append(
                    {
                        "model": model,
                        "first": first,
                        "second": second,
                        "methods": len(both),
                        "correlation": found,
                    }
                )
    columns = ["model", "first", "second", "methods", "correlation"]
    return pandas.DataFrame(lines, columns=columns)

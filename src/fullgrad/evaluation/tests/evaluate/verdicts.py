"""From the scores of single maps to means, intervals, and which methods are first or tied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fullgrad._optional import require
from fullgrad.evaluation import statistics
from fullgrad.evaluation.statistics import Table
from fullgrad.evaluation.tests.evaluate.measures import measures

TIED = 0.03  # as far behind the best a method may be at the lower bound, to count as tied with it
FEW = 30  # images below which a verdict means little
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
    low, high = statistics.simultaneous(gaps) if several else (behind, behind)
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


def text(table: Table) -> list[str]:
    """Return the verdicts in paragraphs, for people.

    Args:
        table: of :func:`ranking`.
    """
    known = measures()
    parts = []
    for (model, test, setting), group in table.groupby(_GROUP, sort=False):
        kind = known.get(test)
        better = kind.better if kind else "higher"
        title = kind.title if kind else test
        where = f" ({setting})" if setting else ""
        count = int(group["images"].iloc[0])
        what = kind.explains if kind else "images"
        head = f"{model}, {title}{where}, {count} {what}, {better} is better"
        if kind is not None and kind.chance is not None:
            head += f", chance {kind.chance:g}"
        width = max(6, *(len(m) for m in group["method"]))
        lines = [
            f"  {r['rank']:>2}. {r['method']:<{width}}  {r['mean']:+.3f} "
            f"[{r['low']:+.3f}, {r['high']:+.3f}]  {_behind(r)}"
            for _, r in group.iterrows()
        ]
        parts.append("\n".join([head, *lines]))
    return parts


def _behind(row: Any) -> str:
    if row["verdict"] == "first":
        return "first"
    ends = f"[{row['behind_low']:+.3f}, {row['behind_high']:+.3f}]"
    return f"{row['verdict']}: {row['behind']:+.3f} {ends} to the first"


def cautions(table: Table, base: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return why a result cannot mean much, in sentences.

    Args:
        table: of :func:`ranking`.
        base: what is known of each model: ``classes``, ``probability``, perhaps ``accuracy``.
    """
    said = []
    for model, known in base.items():
        chance = 1 / known["classes"]
        near = min(2 * chance, (1 + chance) / 2)  # of two classes, twice the chance is certainty
        if known.get("accuracy", 1.0) < near:
            said.append(
                f"{model} is right on {known['accuracy']:.1%} of the images, and guessing on "
                f"{chance:.1%}: a map of such a model explains noise."
            )
        if known["probability"] < near:
            said.append(
                f"{model} gives its predicted class a probability of {known['probability']:.1%} on "
                f"average, and guessing gives {chance:.1%}: it is hardly sure of anything."
            )
    few = table[table["images"] < FEW]
    for (test, setting), group in few.groupby(["test", "setting"], sort=False):
        where = f" ({setting})" if setting else ""
        kind = measures().get(test)
        what = kind.explains if kind else "images"
        said.append(
            f"{test}{where} is measured on {int(group['images'].min())} {what} only; its intervals "
            "say little below about 30."
        )
    for (model, test, setting), group in table.groupby(_GROUP, sort=False):
        undecided = group[group["verdict"] == "not shown"]["method"].tolist()
        if undecided:
            where = f" ({setting})" if setting else ""
            said.append(
                f"{model}, {test}{where}: too few cases to tell {', '.join(undecided)} from the "
                "first."
            )
        if len(group) > 1 and group["mean"].nunique() == 1:
            said.append(f"{model}, {test}: all methods have the same mean, so it decides nothing.")
    return said

"""Do tests agree on which method is best? Ranks under each test, and their correlation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from fullgrad._files import printable
from fullgrad._optional import require
from fullgrad.evaluation import statistics
from fullgrad.evaluation.store import PLAN, TABLE, StoreError

RANDOM = "random"
LOW, HIGH = 0.3, 0.7  # rank correlations below and above which tests disagree and agree
_FEWEST = 3  # methods in common, for a correlation to mean anything


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """How methods rank under each test.

    Args:
        ranks: a row for each method, a column for each test; 1 is best, empty where a test has
            not tried the method.
        correlations: one row for each two tests: first, second, methods in common, Spearman's rank
            correlation (empty for fewer than three methods).
        cautions: what a reader should know, in sentences.
    """

    ranks: Any
    correlations: Any
    cautions: tuple[str, ...]


def scores_of(folder: Path) -> dict[str, Any]:
    """The methods' scores under each test of a run; the higher, the better.

    Args:
        folder: results of ``fullgrad bench pixel-perturbation`` or ``digit-flipping``.

    Raises:
        StoreError: no finished run lies there.
    """
    pandas: Any = require("pandas", "bench")
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        rows = pandas.read_csv(folder / f"{TABLE}.csv")
    except (OSError, ValueError) as error:
        raise StoreError(f"{printable(folder)} holds no finished run: {error}") from error
    name = folder.resolve().name
    columns = set(rows.columns)
    if {"order", "fill", "relative_change"} <= columns:
        found = {}
        for (order, fill), group in statistics.areas(rows).groupby(["order", "fill"], sort=False):
            scores = group.groupby("method", sort=False)["area"].mean()
            found[f"{name}: {order} first, {fill}"] = -scores if order == "least" else scores
        return found
    if {"pair", "pixels", "change"} <= columns:
        most = rows[rows["pixels"] == max(plan["pixels"])]
        by_pair = most.groupby(["method", "pair"], sort=False)["change"].mean()
        return {f"{name}: digits flipped": by_pair.groupby("method", sort=False).mean()}
    raise StoreError(f"{printable(folder)} holds results of an unknown kind")


def agreement(folders: Sequence[Path]) -> Agreement:
    """Compare the tests of several runs.

    Args:
        folders: of finished runs; names of tests begin with the folder's.

    Raises:
        StoreError: a folder without a finished run, two of the same name, or one test alone.
    """
    pandas: Any = require("pandas", "bench")
    tests: dict[str, Any] = {}
    for folder in folders:
        for name, scores in scores_of(folder).items():
            if name in tests:
                raise StoreError(f"two runs are named {folder.resolve().name!r}; rename one folder")
            tests[name] = scores
    if len(tests) < 2:
        raise StoreError("one test alone cannot agree or disagree; give more runs, or both orders")
    scores = pandas.DataFrame(tests)
    ranks = scores.rank(ascending=False, method="min").astype("Int64")
    found = []
    for first, second in combinations(tests, 2):
        both = scores[[first, second]].dropna()
        value = None
        if len(both) >= _FEWEST:
            a, b = both[first].rank(), both[second].rank()
            value = float(a.corr(b)) if a.nunique() > 1 and b.nunique() > 1 else None
        found.append({"first": first, "second": second, "methods": len(both), "correlation": value})
    correlations = pandas.DataFrame(found)
    return Agreement(ranks, correlations, tuple(_cautions(scores, ranks, correlations)))


def _cautions(scores: Any, ranks: Any, correlations: Any) -> list[str]:
    known = correlations.dropna(subset=["correlation"])
    said = []
    against = known[known["correlation"] < LOW]
    if len(against):
        said.append(
            f"{len(against)} of {len(known)} pairs of tests disagree (rank correlation below "
            f"{LOW}): a method that wins one may lose another. Say which test a claim rests on."
        )
        for _, row in against.sort_values("correlation").head(5).iterrows():
            said.append(
                f"“{row['first']}” and “{row['second']}”: correlation {row['correlation']:+.2f} "
                f"over {row['methods']} methods."
            )
    elif len(known):
        least = known["correlation"].min()
        strongly = "strongly " if least > HIGH else ""
        said.append(f"All tests agree {strongly}(lowest rank correlation {least:+.2f}).")
    else:
        said.append("No two tests have three methods in common, so nothing can be said.")
    spread = (ranks.max(axis=1) - ranks.min(axis=1)).dropna()
    if len(spread) and len(ranks.columns) > 1:
        most = spread.astype(int).idxmax()
        own = ranks.loc[most].dropna().astype(int)
        if own.max() > own.min():
            said.append(
                f"{most} moves most: rank {own.min()} under “{own.idxmin()}”, {own.max()} under "
                f"“{own.idxmax()}”."
            )
    if RANDOM in scores.index:
        beaten = {
            test: [m for m in scores.index if scores.loc[m, test] < scores.loc[RANDOM, test]]
            for test in scores.columns
        }
        for test, methods in beaten.items():
            if methods:
                said.append(
                    f"Under “{test}” random order is better than {', '.join(methods)}: the test "
                    "rewards scattered pixels, or these maps fail it."
                )
    return said

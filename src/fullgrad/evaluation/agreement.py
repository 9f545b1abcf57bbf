"""Do tests agree on which method is best? Ranks under each test, and their correlation."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from fullgrad._files import printable, write_together
from fullgrad._optional import require
from fullgrad.evaluation import statistics
from fullgrad.evaluation.bench import kinds
from fullgrad.evaluation.store import OLD_PLAN, RECORD, TABLE, StoreError, make_folder, unwritable

RANDOM = "random"
LOW, HIGH = 0.3, 0.7  # rank correlations below and above which tests disagree and agree
_FEWEST = 3  # methods in common, for a correlation to mean anything


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """Says how methods rank under each test.

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

    def as_markdown(self) -> str:
        """Return ranks, correlations and cautions as a page."""
        tests = list(self.ranks.columns)
        short = {test: chr(ord("A") + i) if i < 26 else f"T{i}" for i, test in enumerate(tests)}
        head, rule = " | ".join(short.values()), "|---|" + "---:|" * len(tests)
        lines = ["# Do the tests agree?", ""]
        lines += [f"- **{short[test]}**: {test}" for test in tests]
        lines += ["", "Ranks (1 is best):", "", f"| method | {head} |", rule]
        means = self.ranks.astype("Float64").mean(axis=1)
        for method in means.sort_values(kind="stable").index:
            cells = ["–" if math.isnan(rank) else str(int(rank)) for rank in self._row(method)]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        lines += ["", "Spearman's rank correlation of the tests:", "", f"| | {head} |", rule]
        known = {
            frozenset((r["first"], r["second"])): r["correlation"]
            for _, r in self.correlations.iterrows()
        }
        for a in tests:
            values = [1.0 if a == b else known[frozenset((a, b))] for b in tests]
            cells = ["–" if v is None or math.isnan(v) else f"{v:+.2f}" for v in values]
            lines.append(f"| **{short[a]}** | " + " | ".join(cells) + " |")
        return "\n".join([*lines, "", *(f"- {caution}" for caution in self.cautions)]) + "\n"

    def _row(self, method: str) -> list[float]:
        """Return a method's ranks, NaN where a test has not tried it."""
        return [float(r) for r in self.ranks.loc[method].astype("Float64").fillna(float("nan"))]

    def write(self, folder: Path) -> None:
        """Write ``agreement.md``, ``ranks.csv`` and ``correlations.csv``.

        Raises:
            StoreError: they cannot be written.
        """
        make_folder(folder)
        files = {
            "agreement.md": self.as_markdown().encode(),
            "ranks.csv": self.ranks.to_csv().encode(),
            "correlations.csv": self.correlations.to_csv(index=False).encode(),
        }
        try:
            write_together(folder, files)
        except OSError as error:
            raise unwritable(folder, error) from error


def scores_of(folder: Path) -> dict[str, Any]:
    """Return the methods' scores under each test of a run; the higher, the better.

    Args:
        folder: results of ``fullgrad bench``, also of an older version.

    Raises:
        StoreError: no finished run lies there.
    """
    pandas: Any = require("pandas", "bench")
    try:
        rows = pandas.read_csv(folder / f"{TABLE}.csv")
        found = {}
        for name in (OLD_PLAN, RECORD):
            if (folder / name).is_file():
                found = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{printable(folder)} holds no finished run: {error}") from error
    for kind in kinds().values():
        if kind.columns <= set(rows.columns):
            scores = kind.scores(rows, found.get("plan", found))
            return {f"{folder.resolve().name}: {test}": own for test, own in scores.items()}
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
            value = statistics.correlation(both[first], both[second])
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

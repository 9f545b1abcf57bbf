"""Means with intervals, and methods ranked and compared in pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np

from fullgrad._optional import require

Array: TypeAlias = np.ndarray[Any, Any]
Table: TypeAlias = Any  # a pandas.DataFrame
Interval: TypeAlias = Callable[[Array], tuple[float, float]]

RESAMPLES = 2000
LEVEL = 0.95
_FEW = 4  # cases that hold a column's spread
_EXACT = 2**12  # sign flips that are all tried; of more, so many at random


def interval(values: Array, seed: int = 0) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean, at :data:`LEVEL`.

    Args:
        values: one number for each case (image), shape (N,).
        seed: of the resampling.

    Returns:
        Lower and upper end; both the value itself for one case.

    Example:
        >>> low, high = interval(np.array([1.0, 2.0, 3.0, 4.0]))
        >>> low < 2.5 < high
        True
    """
    if len(values) < 2:
        return float(values.mean()), float(values.mean())
    stats: Any = require("scipy.stats", "bench")
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def student(values: Array) -> tuple[float, float]:
    """Return Student's interval of a mean, at :data:`LEVEL`; NaN for a single number.

    Args:
        values: one number for each run, shape (N,).
    """
    if len(values) < 2:
        return float("nan"), float("nan")
    stats: Any = require("scipy.stats", "bench")
    reach = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * stats.sem(values)
    return float(values.mean() - reach), float(values.mean() + reach)


def sign_flips(values: Array) -> float:
    """Return the two-sided p-value that paired differences have mean zero, by flipping signs.

    Args:
        values: one difference for each run; the least possible answer is 2 to the 1 - runs.
    """
    if len(values) < 2:
        return 1.0
    stats: Any = require("scipy.stats", "bench")
    found = stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        n_resamples=_EXACT,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def correlation(first: Array, second: Array) -> float | None:
    """Return Spearman's rank correlation; None where one side has no order."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    stats: Any = require("scipy.stats", "bench")
    return float(stats.spearmanr(first, second).statistic)


def area(x: Array, y: Array) -> float:
    """Return the mean height of a curve: the area below it by its length, by trapezoids."""
    if len(x) == 1:
        return float(y[0])
    integrate: Any = require("scipy.integrate", "bench")
    return float(integrate.trapezoid(y, x) / (x[-1] - x[0]))


def _groups(table: Table, by: Sequence[str]) -> Iterator[tuple[dict[str, Any], Table]]:
    if not by:
        yield {}, table
        return
    for key, group in table.groupby(list(by), sort=False, observed=True):
        yield dict(zip(by, key, strict=True)), group


def _mean(values: Array, name: str, cases: str, between: Interval) -> dict[str, Any]:
    low, high = between(values)
    return {cases: len(values), name: float(values.mean()), "low": low, "high": high}


def summary(
    table: Table,
    by: Sequence[str],
    value: str,
    cases: str = "cases",
    between: Interval = interval,
    means: Sequence[str] = (),
) -> Table:
    """Return means with intervals, and medians, one row for each group.

    Args:
        table: one row for each case and group.
        by: columns that make a group.
        value: the column that is averaged.
        cases: name of the column that counts them.
        between: from the values to the interval of their mean.
        means: further columns that are averaged.
    """
    pandas: Any = require("pandas", "bench")
    found = [
        key
        | _mean(group[value].to_numpy(), value, cases, between)
        | {"median": float(group[value].median())}
        | {name: float(group[name].mean()) for name in means}
        for key, group in _groups(table, by)
    ]
    return pandas.DataFrame(found)


def ranking(
    table: Table,
    by: Sequence[str],
    highest: Callable[[dict[str, Any]], bool],
    value: str = "area",
    cases: str = "cases",
    between: Interval = interval,
) -> Table:
    """Return the methods in the order of their means, the best first.

    Args:
        table: one row for each group, method and case.
        by: columns that make a group, in which methods are ranked.
        highest: whether the largest is best in a group.
        value: the column of the scores.
        cases: name of the column that counts them.
        between: from the values to the interval of their mean.
    """
    pandas: Any = require("pandas", "bench")
    found = []
    for key, group in _groups(table, by):
        lines = [
            key | own | _mean(part[value].to_numpy(), value, cases, between)
            for own, part in _groups(group, ["method"])
        ]
        lines.sort(key=lambda line: line[value], reverse=highest(key))
        found += [line | {"rank": i} for i, line in enumerate(lines, 1)]
    return pandas.DataFrame(found)


def differences(
    table: Table,
    by: Sequence[str],
    case: str,
    value: str = "area",
    between: Interval = interval,
    flips: bool = False,
) -> Table:
    """Return paired differences of every two methods over the same cases.

    ``differ`` is True where the interval of the mean difference (first minus second) leaves out
    zero. Nothing is corrected for the number of pairs.

    Args:
        table: one row for each group, method and case.
        by: columns that make a group, in which methods are compared.
        case: the column by which values are paired.
        value: the column of the scores.
        between: from the differences to the interval of their mean.
        flips: add the p-value ``p`` of :func:`sign_flips`, and ``p_least``, the least that it can
            be: with three cases 0.25.
    """
    pandas: Any = require("pandas", "bench")
    found = []
    for key, group in _groups(table, by):
        wide = group.pivot_table(index=case, columns="method", values=value, sort=False)
        for a, b in combinations(list(wide.columns), 2):
            gaps = (wide[a] - wide[b]).dropna().to_numpy()
            low, high = between(gaps)
            line = key | {"first": a, "second": b, "difference": float(gaps.mean())}
            line |= {"low": low, "high": high, "differ": low > 0 or high < 0}
            if flips:
                line |= {"p": sign_flips(gaps), "p_least": 2.0 ** (1 - len(gaps))}
            found.append(line)
    columns = [*by, "first", "second", "difference", "low", "high", "differ"]
    return pandas.DataFrame(found, columns=columns + ["p", "p_least"] * flips)


def ranking_text(table: Table, value: str = "area", cases: str = "cases") -> list[str]:
    """Return a ranking in lines, for people; intervals where there are several cases."""
    width = max(6, *(len(method) for method in table["method"]))
    return [
        f"  {r['rank']:>2}. {r['method']:<{width}}  {r[value]:.4f}"
        + (f"  [{r['low']:.4f}, {r['high']:.4f}]" if r[cases] > 1 else "")
        for _, r in table.iterrows()
    ]


def simultaneous(values: Array, seed: int = 0) -> tuple[Array, Array]:
    """Return intervals of several means that hold together, at :data:`LEVEL`.

    By the bootstrap of the largest studentized deviation: cases are drawn again, all columns of a
    case together, so that the columns' correlation counts. A column whose spread lies in a few of
    many cases (two methods that differ in one image) has no studentized deviation: where these
    are not drawn it is divided by nothing. Such a column gets the width of the others.

    Args:
        values: one row for each case, one column for each mean, shape (N, K), N of 2 or more.
        seed: of the resampling.

    Returns:
        Lower and upper ends, shape (K,) each. A column without spread has its mean twice.

    Example:
        >>> low, high = simultaneous(np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0]]))
        >>> bool(low[0] < 1 < high[0]), float(low[1]), float(high[1])
        (True, 5.0, 5.0)
    """
    count = len(values)
    mean = values.mean(0)
    error = values.std(0, ddof=1) / np.sqrt(count)
    spread = error > 0
    if not spread.any():
        return mean, mean
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count
    spread[spread] = _holders(values[:, spread] - mean[spread]) >= min(_FEW, count / 20)
    if not spread.any():
        stats: Any = require("scipy.stats", "bench")
        reach = float(stats.t.ppf(1 - (1 - LEVEL) / 2 / len(mean), count - 1))
        return mean - reach * error, mean + reach * error
    own, centered = error[spread], values[:, spread] - mean[spread]
    means = weights @ centered
    errors = np.sqrt(np.clip(weights @ centered**2 - means**2, 0, None) / (count - 1))
    sized = np.abs(means) / np.maximum(errors, 1e-9 * own)
    reach = float(np.quantile(sized.max(1), LEVEL))
    return mean - reach * error, mean + reach * error


def _holders(centered: Array) -> Array:
    """Return how many cases hold each column's variance: N / 3 of normal numbers, 1 of one case."""
    squares = centered**2
    found: Array = squares.sum(0) ** 2 / (squares**2).sum(0)
    return found

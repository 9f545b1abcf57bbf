"""From finished networks to tables: each run, means with intervals, areas, differences."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any, TypeAlias

import numpy as np

from fullgrad._optional import require
from fullgrad.evaluation.retraining.plan import IMAGES, NONE, RoarPlan
from fullgrad.evaluation.retraining.store import StageStore

Table: TypeAlias = Any  # a pandas.DataFrame
Array: TypeAlias = np.ndarray[Any, Any]

LEVEL = 0.95
_GROUP = ["input", "method", "fraction"]


def rows(plan: RoarPlan, store: StageStore) -> Table:
    """One row for each network of the plan, in its order; all of them must be done."""
    pandas: Any = require("pandas", "bench")
    found = []
    for stage in plan.networks():
        content = store.get(stage.digest)
        assert content is not None
        found.append(
            {
                "method": stage.label,
                "fraction": stage.fraction,
                "run": stage.run,
                "input": stage.content,
                "order": plan.order,
                "fill": plan.fill,
                "accuracy": content.values["accuracy"],
                "loss": content.values["loss"],
                "seed": plan.run_seed(stage.run),
                "stage": stage.digest,
            }
        )
    return pandas.DataFrame(found)


def interval(values: Array) -> tuple[float, float]:
    """Student's interval of a mean over runs, at :data:`LEVEL`; NaN for a single run.

    Args:
        values: one number for each run.
    """
    count = len(values)
    if count < 2:
        return float("nan"), float("nan")
    stats: Any = require("scipy.stats", "bench")
    reach = stats.t.ppf((1 + LEVEL) / 2, count - 1) * values.std(ddof=1) / np.sqrt(count)
    return float(values.mean() - reach), float(values.mean() + reach)


def summary(table: Table) -> Table:
    """For each input, method and fraction: the mean accuracy over runs with its interval."""
    pandas: Any = require("pandas", "bench")
    found = []
    for key, group in table.groupby(_GROUP, sort=False, observed=True):
        values = group["accuracy"].to_numpy()
        low, high = interval(values)
        found.append(
            dict(zip(_GROUP, key, strict=True))
            | {"runs": len(values), "accuracy": float(values.mean()), "low": low, "high": high}
        )
    return pandas.DataFrame(found)


def areas(table: Table) -> Table:
    """For each method and run: the mean accuracy over the axis of fractions.

    The area under the curve from no removal (the same run's) to the largest fraction, by
    trapezoids, divided by that fraction.
    """
    pandas: Any = require("pandas", "bench")
    images = table[table["input"] == IMAGES]
    whole = images[images["method"] == NONE].set_index("run")["accuracy"]
    found = []
    for (method, run), group in images[images["method"] != NONE].groupby(
        ["method", "run"], sort=False, observed=True
    ):
        ordered = group.sort_values("fraction")
        x = np.concatenate([[0.0], ordered["fraction"].to_numpy()])
        y = np.concatenate([[whole[run]], ordered["accuracy"].to_numpy()])
        area = float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / x[-1])
        found.append({"method": method, "run": run, "area": area})
    return pandas.DataFrame(found)


def ranking(table: Table, order: str) -> Table:
    """Methods by their mean area, the best first.

    Most salient first: the smallest area is best, the information was there; least salient
    first: the largest.
    """
    pandas: Any = require("pandas", "bench")
    found = []
    for method, group in areas(table).groupby("method", sort=False, observed=True):
        values = group["area"].to_numpy()
        low, high = interval(values)
        found.append(
            {
                "method": method,
                "runs": len(values),
                "area": float(values.mean()),
                "low": low,
                "high": high,
            }
        )
    found.sort(key=lambda r: r["area"], reverse=order == "least")
    return pandas.DataFrame([{"rank": i, **line} for i, line in enumerate(found, 1)])


def permutation(values: Array) -> float:
    """Exact two-sided p-value that paired differences have mean zero, by flipping their signs.

    Args:
        values: one difference for each run; the least possible answer is 2 to the 1 - runs.
    """
    if len(values) > 12:
        picks = np.random.default_rng(0).choice((-1.0, 1.0), (4096, len(values)))
        signs = np.concatenate([np.ones((1, len(values))), picks])
    else:
        signs = np.array(list(product((1.0, -1.0), repeat=len(values))))
    means = np.abs((signs * values).mean(1))
    return float((means >= abs(values.mean()) - 1e-12).mean())


def differences(table: Table) -> Table:
    """Areas of every two methods compared, paired by run (equal seeds).

    ``differ`` is True where Student's interval of the mean difference (first minus second)
    leaves out zero; ``p`` is the sign-flip permutation's, which with three runs cannot be below
    ``p_least`` = 0.25. With one run neither can tell anything. Not corrected for the number of
    pairs.
    """
    pandas: Any = require("pandas", "bench")
    wide = areas(table).pivot_table(index="run", columns="method", values="area", sort=False)
    found = []
    for a, b in combinations(list(wide.columns), 2):
        values = (wide[a] - wide[b]).to_numpy()
        low, high = interval(values)
        found.append(
            {
                "first": a,
                "second": b,
                "difference": float(values.mean()),
                "low": low,
                "high": high,
                "differ": low > 0 or high < 0,
                "p": permutation(values),
                "p_least": 2.0 ** (1 - len(values)),
            }
        )
    columns = ["first", "second", "difference", "low", "high", "differ", "p", "p_least"]
    return pandas.DataFrame(found, columns=columns)

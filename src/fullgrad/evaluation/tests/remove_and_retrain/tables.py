"""From finished networks to tables: each run, means with intervals, areas, differences."""

from __future__ import annotations

from typing import Any

import numpy as np

from fullgrad._optional import require
from fullgrad.evaluation import statistics
from fullgrad.evaluation.statistics import Table, student
from fullgrad.evaluation.store import Store
from fullgrad.evaluation.tests.remove_and_retrain.plan import IMAGES, NONE, RetrainPlan

_GROUP = ["input", "method", "fraction"]


def rows(plan: RetrainPlan, store: Store) -> Table:
    """Return one row for each network of the plan, in its order; all of them must be done."""
    pandas: Any = require("pandas", "bench")
    found = []
    for stage in plan.networks():
        values = store.done(stage.digest).values
        found.append(
            {
                "method": stage.label,
                "fraction": stage.fraction,
                "run": stage.run,
                "input": stage.content,
                "order": plan.order,
                "fill": plan.fill,
                "accuracy": values["accuracy"],
                "loss": values["loss"],
                "seed": plan.run_seed(stage.run),
                "stage": stage.digest,
            }
        )
    return pandas.DataFrame(found)


def summary(table: Table) -> Table:
    """Return the mean accuracy over runs with its interval, by input, method and fraction."""
    found = statistics.summary(table, _GROUP, "accuracy", "runs", student)
    return found.drop(columns="median")


def areas(table: Table) -> Table:
    """Return the mean accuracy over the axis of fractions, for each method and run.

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
        found.append({"method": method, "run": run, "area": statistics.area(x, y)})
    return pandas.DataFrame(found)


def ranking(table: Table, order: str) -> Table:
    """Return the methods by their mean area, the best first.

    Most salient first: the smallest area is best, the information was there; least salient
    first: the largest.
    """
    return statistics.ranking(
        areas(table), [], lambda key: order == "least", "area", "runs", student
    )


def differences(table: Table) -> Table:
    """Return the areas of every two methods compared, paired by run (equal seeds)."""
    return statistics.differences(areas(table), [], "run", "area", student, flips=True)

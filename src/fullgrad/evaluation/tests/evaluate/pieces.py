"""A piece of work: one method's maps of some images or texts, in all tests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from fullgrad.errors import CompletenessError, LayoutError, MethodError, ModelError
from fullgrad.evaluation.statistics import Table
from fullgrad.evaluation.tests.evaluate.measure import Measure

REFUSED = "refused"  # why a method does not apply in a test: a column of pieces, not of results
_OF_METHODS = (MethodError, ModelError, LayoutError, CompletenessError)
_PLACE = ["model", "test", "method"]


def scored(
    explained: Sequence[Any], tests: Sequence[Measure], subject: Any, label: str, numbers: Any
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return the rows of one method's maps, and the seconds of each test.

    A test in which the method does not apply gives one row that says why.

    Args:
        explained: the maps; of noise several draws.
        tests: of them.
        subject: the model with its images or texts.
        label: of the method.
        numbers: of the images or texts.
    """
    names = {n: i.name for n, i in zip(numbers, subject.items(numbers), strict=True)}
    rows: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}

    def count(name: str, began: float) -> None:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began

    for run, maps in enumerate(explained):
        began = time.perf_counter()
        _ = maps.maps
        count(f"maps {label}", began)
        for test in tests:
            if run and not test.random_runs:
                continue
            began = time.perf_counter()
            row = {
                "model": subject.name,
                "test": test.name,
                "setting": "",
                "case": "",
                "method": label,
                "run": run,
                **dict.fromkeys(("value", "scale", "least", "most"), float("nan")),
            }
            try:
                for score in list(test.scores(maps)):
                    own = {"setting": score.setting, "case": names[score.number]}
                    own |= {"value": score.value, "scale": score.scale, **(score.more or {})}
                    rows.append(row | own)
            except _OF_METHODS as error:
                rows.append({**row, REFUSED: " ".join(str(error).split())})
            count(test.name, began)
    return rows, seconds


def refusals(rows: Table) -> list[dict[str, str]]:
    """Return which method does not apply to which model in which test, and its first reason.

    Args:
        rows: of all pieces.
    """
    if REFUSED not in rows:
        return []
    first = rows[rows[REFUSED].notna()].drop_duplicates(_PLACE)
    found: list[dict[str, str]] = (
        first[[*_PLACE, REFUSED]].rename(columns={REFUSED: "why"}).to_dict("records")
    )
    return found


def applied(rows: Table) -> Table:
    """Return the scores, without a method's in a test in which it does not apply to the model.

    Were those of other images kept, the methods beside it would be compared on these alone.

    Args:
        rows: of all pieces.
    """
    if REFUSED not in rows:
        return rows
    refused = rows[REFUSED].notna().groupby([rows[c] for c in _PLACE]).transform("any")
    return rows[~refused].drop(columns=REFUSED).reset_index(drop=True)

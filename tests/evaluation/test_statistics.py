"""Means, intervals and differences, against formulas written out."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas
import pandas as pd
import pytest

from fullgrad.evaluation import statistics
from fullgrad.evaluation.tests import pixel_perturbation
from fullgrad.evaluation.tests.remove_and_retrain import tables as results


def table_of(areas: dict[str, list[list[float]]]) -> Any:
    """Accuracies by method, run and fraction (0.2, 0.6), beside 1.0 without removal."""
    lines = []
    for run in range(len(next(iter(areas.values())))):
        lines.append(
            {"method": "none", "fraction": 0.0, "run": run, "input": "images", "accuracy": 1.0}
        )
    for method, runs in areas.items():
        for run, values in enumerate(runs):
            for fraction, value in zip((0.2, 0.6), values, strict=True):
                lines.append(
                    {
                        "method": method,
                        "fraction": fraction,
                        "run": run,
                        "input": "images",
                        "accuracy": value,
                    }
                )
    return pandas.DataFrame(lines)


def test_areas_intervals_and_differences_by_hand() -> None:
    table = table_of(
        {"a": [[0.5, 0.3], [0.6, 0.2], [0.4, 0.4]], "b": [[0.9, 0.8], [0.8, 0.8], [0.9, 0.9]]}
    )
    areas = results.areas(table).set_index(["method", "run"])["area"]
    assert areas["a", 0] == pytest.approx((0.2 * 0.75 + 0.4 * 0.4) / 0.6)
    ranking = results.ranking(table, "most")
    assert list(ranking["method"]) == ["a", "b"]
    assert list(results.ranking(table, "least")["method"]) == ["b", "a"]
    values = areas["a"].to_numpy()
    reach = 4.302652729911275 * values.std(ddof=1) / 3**0.5  # Student's t, 2 degrees of freedom
    assert statistics.student(values) == pytest.approx(
        (values.mean() - reach, values.mean() + reach)
    )
    assert all(np.isnan(statistics.student(values[:1])))
    (line,) = results.differences(table).to_dict("records")
    gaps = (areas["a"] - areas["b"]).to_numpy()
    assert line["difference"] == pytest.approx(gaps.mean())
    assert line["differ"]
    assert line["p"] == line["p_least"] == 0.25  # all eight flips tried, two as far out
    naive = [abs(np.mean(np.array(s) * [0.1, -0.3, 0.5, 0.2])) for s in product((1, -1), repeat=4)]
    expected = np.mean([m >= abs(np.mean([0.1, -0.3, 0.5, 0.2])) - 1e-12 for m in naive])
    assert statistics.sign_flips(np.array([0.1, -0.3, 0.5, 0.2])) == pytest.approx(expected)
    assert statistics.sign_flips(np.ones(14)) < 0.01
    single = table_of({"a": [[0.5, 0.3]], "b": [[0.9, 0.8]]})
    (line,) = results.differences(single).to_dict("records")
    assert not line["differ"]
    assert line["p"] == line["p_least"] == 1.0


def test_statistics_in_closed_form() -> None:
    rows = pd.DataFrame(
        [
            {
                "image": i,
                "method": m,
                "run": r,
                "order": "least",
                "fill": "black",
                "fraction": f,
                "relative_change": v + i + r,
                "probability_change": 0.0,
                "class_unchanged": True,
            }
            for i in range(3)
            for m, v in (("a", 0.0), ("b", 2.0))
            for r in range(2)
            for f in (0.01, 0.1)
        ]
    )
    found = pixel_perturbation.summary(rows)
    assert found["relative_change"].tolist() == [1.5, 1.5, 3.5, 3.5]
    assert (found["low"] <= found["relative_change"]).all()
    assert (found["high"] >= found["relative_change"]).all()
    tables = pixel_perturbation.PixelPerturbation.tables(None, rows)  # type: ignore[arg-type]
    ranking = tables["ranking"]
    assert ranking["method"].tolist() == ["a", "b"]
    assert ranking["area"].tolist() == [1.5, 3.5]
    (difference,) = tables["differences"].to_dict("records")
    assert difference["difference"] == -2.0  # paired: the images' own level cancels
    assert difference["low"] == pytest.approx(-2)
    assert difference["high"] == pytest.approx(-2)
    assert difference["differ"]
    # A line over the logarithm: the area is its middle.
    curve = pd.DataFrame(
        {
            "image": 0,
            "method": "a",
            "order": "least",
            "fill": "black",
            "fraction": [0.001, 0.01, 0.1],
            "relative_change": [1.0, 2.0, 3.0],
        }
    )
    assert pixel_perturbation.areas(curve)["area"].tolist() == pytest.approx([2.0])
    low, high = statistics.interval(np.arange(1000.0))
    assert abs((high - low) / (2 * 1.96 * np.arange(1000.0).std() / 1000**0.5) - 1) < 0.1

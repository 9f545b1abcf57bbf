"""Simultaneous intervals and verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from fullgrad.evaluation import statistics
from fullgrad.evaluation.tests.evaluate import verdicts


def drawn(random: Any, count: int, columns: int) -> Any:
    """Correlated, skewed numbers whose means are 0 to columns - 1."""
    common = random.exponential(size=(count, 1)) - 1
    own = random.exponential(size=(count, columns)) - 1
    return common + own * (1 + np.arange(columns)) + np.arange(columns)


@pytest.mark.parametrize(("count", "columns"), [(40, 5), (80, 12)])
def test_simultaneous_intervals_cover_all_means_together(count: int, columns: int) -> None:
    truth = np.arange(columns)
    all_of_them = one_of_them = 0
    for repetition in range(300):
        values = drawn(np.random.default_rng(repetition), count, columns)
        low, high = statistics.simultaneous(values, seed=repetition)
        inside = (low <= truth) & (truth <= high)
        all_of_them += inside.all()
        one_of_them += inside[0]
    assert 0.90 <= all_of_them / 300 <= 0.99
    assert one_of_them > all_of_them


def test_columns_that_are_equal_have_the_interval_of_one() -> None:
    random = np.random.default_rng(0)
    values = random.normal(3, 2, size=(60, 1))
    low, high = statistics.simultaneous(values)
    lows, highs = statistics.simultaneous(np.repeat(values, 7, axis=1))
    np.testing.assert_allclose(lows, low[0])
    np.testing.assert_allclose(highs, high[0])
    reach = scipy.stats.t.ppf(0.975, 59) * scipy.stats.sem(values[:, 0])
    np.testing.assert_allclose(high[0] - values.mean(), reach, rtol=0.1)
    np.testing.assert_allclose(values.mean() - low[0], reach, rtol=0.1)
    several = random.normal(3, 2, size=(60, 7))
    low, high = statistics.simultaneous(several)
    errors = scipy.stats.sem(several)
    np.testing.assert_allclose((high - low) / errors, (high - low)[0] / errors[0])
    sidak = scipy.stats.t.ppf(1 - (1 - 0.95 ** (1 / 7)) / 2, 59)  # of columns without correlation
    np.testing.assert_allclose((high - low)[0] / errors[0] / 2, sidak, rtol=0.1)


def test_columns_without_spread_and_their_scale() -> None:
    values = np.random.default_rng(1).normal(size=(20, 3))
    values[:, 1] = 5
    low, high = statistics.simultaneous(values)
    assert low[1] == high[1] == 5
    scaled = statistics.simultaneous(values * [1, 1, 1000])
    np.testing.assert_allclose(scaled[0], low * [1, 1, 1000])
    low, high = statistics.simultaneous(np.full((4, 2), 3.0))
    assert low.tolist() == high.tolist() == [3, 3]


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_a_column_that_differs_in_one_case_does_not_widen_the_others(noise: float) -> None:
    """Two methods with the same maps, but for one image whose cells are ordered otherwise."""
    random = np.random.default_rng(2)
    values = random.normal(size=(300, 3))
    low, high = statistics.simultaneous(values)
    odd = noise * random.normal(size=(300, 1))
    odd[7] += 0.5
    lows, highs = statistics.simultaneous(np.hstack([values, odd]))
    np.testing.assert_allclose(lows[:3], low)
    np.testing.assert_allclose(highs[:3], high)
    width = (highs - lows)[3]
    assert width / scipy.stats.sem(odd[:, 0]) == pytest.approx((high - low)[0] / 0.058, rel=0.1)
    alone = statistics.simultaneous(odd)
    assert alone[1][0] - alone[0][0] == pytest.approx(2 * 1.968 * 0.5 / 300, rel=0.01)
    rows = table({"a": values[:, 0], "b": values[:, 0] + odd[:, 0], "c": values[:, 0] - 1})
    found = verdicts.ranking(rows).set_index("method")["verdict"].to_dict()
    assert found == {"b": "first", "a": "tied", "c": "behind"}


def table(values: dict[str, Any], test: str = "relevance-gain", scale: float = 1.0) -> Any:
    """Rows of one test: a number for each image and method."""
    return pd.DataFrame(
        [
            {
                "model": "m",
                "test": test,
                "setting": "s",
                "case": f"{i:03d}",
                "method": method,
                "run": 0,
                "value": float(v) * scale,
                "scale": scale,
            }
            for method, column in values.items()
            for i, v in enumerate(column)
        ]
    )


def made(count: int = 100) -> dict[str, Any]:
    """A best method, one as good, one that is behind, and one that differs too much to tell."""
    random = np.random.default_rng(2)
    best = random.normal(0.5, 0.2, count)
    centered = random.normal(0, 1, count)
    centered -= centered.mean()
    return {
        "behind": best - 0.2 + 0.1 * centered,
        "best": best,
        "tied": best - 0.005 + 0.02 * centered,
        "unclear": best - 0.02 + 0.8 * centered,
    }


def test_verdicts_of_a_made_table() -> None:
    for scale in (1.0, 8.0):
        found = verdicts.ranking(table(made(), scale=scale)).set_index("method")
        assert found.index.tolist() == ["best", "tied", "unclear", "behind"]
        assert found["rank"].tolist() == [1, 2, 3, 4]
        expected = {"best": "first", "tied": "tied", "unclear": "not shown", "behind": "behind"}
        assert found["verdict"].to_dict() == expected
        np.testing.assert_allclose(found["mean"]["best"], made()["best"].mean())
        np.testing.assert_allclose(found["behind"]["behind"], -0.2)
        np.testing.assert_allclose(found["error"]["best"], scipy.stats.sem(made()["best"]))
        assert found["behind_low"]["tied"] > -verdicts.TIED
        assert found["behind_high"]["behind"] < 0
        low, high = (found[f"behind_{end}"]["unclear"] for end in ("low", "high"))
        assert low < -verdicts.TIED
        assert high > 0


def test_lower_is_better_where_a_test_says_so() -> None:
    turned = {k: -v for k, v in made().items()}
    high = verdicts.ranking(table(made())).set_index("method")
    low = verdicts.ranking(table(turned, test="class-sensitivity")).set_index("method")
    for column in ("rank", "behind", "behind_low", "behind_high", "verdict"):
        assert low[column].equals(high[column])
    assert low["mean"].equals(-high["mean"])
    (scores,) = verdicts.scores(table(turned, test="class-sensitivity")).values()
    assert scores.idxmax() == "best"


def test_an_equal_method_is_tied_and_a_single_image_shows_nothing() -> None:
    best = made()["best"]
    found = verdicts.ranking(table({"a": best, "b": best, "c": best - 0.5}))
    assert found["verdict"].tolist() == ["first", "tied", "behind"]
    one = verdicts.ranking(table({"a": [0.5], "b": [0.4]}))
    assert one["images"].tolist() == [1, 1]
    assert one["verdict"].tolist() == ["first", "not shown"]
    assert one[["error", "behind_low", "behind_high"]].isna().all(axis=None)


def test_scales_runs_and_images_that_are_missing() -> None:
    rows = table({"a": [1.0, 3.0], "b": [2.0, 2.0]})
    rows["scale"] = rows["case"].map({"000": 2.0, "001": 6.0})
    found = verdicts.ranking(rows).set_index("method")["mean"]
    assert found.to_dict() == {"a": 0.5, "b": 0.5}  # divided by the mean of the scales, 4
    runs = pd.concat([table({"a": [1.0, 3.0]}), table({"a": [3.0, 5.0]}), table({"b": [0.0, 0.0]})])
    assert verdicts.ranking(runs).set_index("method")["mean"].to_dict() == {"a": 3.0, "b": 0.0}
    partial = verdicts.ranking(table({"a": [1.0, 3.0, 8.0], "b": [2.0, 0.0]}))
    assert partial["images"].tolist() == [2, 2]  # what both have
    assert partial.set_index("method")["mean"]["a"] == 2.0


def test_the_agreement_of_tests() -> None:
    values = {name: [rank, rank] for rank, name in enumerate("abcd")}
    both = pd.concat([table(values), table(values, test="class-sensitivity")])
    (line,) = verdicts.agreement(both).to_dict("records")
    assert line["methods"] == 4
    assert line["correlation"] == pytest.approx(-1)  # lower is better in the second
    few = {k: values[k] for k in "ab"}
    both = pd.concat([table(few), table(few, test="stability")])
    assert verdicts.agreement(both)["correlation"].isna().all()

"""The page of the recommendation holds the numbers that are stored beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

pd = pytest.importorskip("pandas")
table = pytest.importorskip("table")

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "docs" / "data" / "evidence"
SHORT = (
    (
        "integrated_gradients:baseline=mean,n_steps=10,signed=True",
        "integrated_gradients:baseline=mean",
    ),
    ("efficientnet_lite", "Lite"),
)


@pytest.mark.parametrize("setting", ["mean", "blur"])
@pytest.mark.parametrize("runs", [("tuning-small", "tuning-lite0"), ("small", "lite0", "lite2")])
def test_tables_are_those_of_the_stored_rankings(runs: tuple[str, ...], setting: str) -> None:
    page = (ROOT / "docs" / "recommendation.md").read_text(encoding="utf-8")
    found = table.rankings([DATA / f"{run}-ranking.csv" for run in runs])
    text = "\n".join(table.lines(found, setting))
    for long, short in SHORT:
        text = text.replace(long, short)
    assert text in page


def test_noise_has_no_gain_on_any_network() -> None:
    found = table.rankings([DATA / f"{run}-ranking.csv" for run in ("small", "lite0")])
    noise = found[found["method"].isin(["random", "random_phase"])]
    assert len(noise) > 20
    # 95 % intervals, each on its own: a few of many lie beside 0, none far from it.
    beside = (noise["low"] > 0) | (noise["high"] < 0)
    assert beside.mean() <= 0.1
    assert float(noise["mean"].abs().max()) < 0.04


def test_the_recommended_map_is_above_every_control_and_the_usual_methods() -> None:
    found = table.rankings([DATA / f"{run}-ranking.csv" for run in ("small", "lite0", "lite2")])
    others = ["center", "contrast", "random", "random_phase", "grad_cam", "fullgrad", "smoothgrad"]
    for _, group in found.groupby(["model", "setting"]):
        means = group.set_index("method")
        own = means.loc["difference_fullgrad"]
        for other in set(others) & set(means.index):
            assert float(own["low"]) > float(means.loc[other, "high"]), (own["model"], other)


def test_the_other_tests_are_those_of_the_stored_ranking() -> None:
    page = (ROOT / "docs" / "recommendation.md").read_text(encoding="utf-8")
    found = pd.read_csv(DATA / "sanity-lite0-ranking.csv")
    settings = ("2 x 2", "unlikely class", "second class", "eMPRT", "minus correlation")
    for method, group in found.groupby("method"):
        means = group.set_index("setting")["mean"]
        cells = [f"{means[s]:.2f}" for s in settings]
        (line,) = (row for row in page.splitlines() if f"| `{method}` |" in row and row[0] == " ")
        assert [c.strip(" *<=?") for c in line.split("|")[2:-1]] == cells

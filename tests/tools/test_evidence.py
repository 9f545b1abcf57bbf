"""The page of the recommendation holds the numbers that are stored beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fullgrad import methods

pd = pytest.importorskip("pandas")
table = pytest.importorskip("table")

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "docs" / "data" / "evidence"
SECOND = ("small-second", "lite0-both", "lite1", "lite2-both")
TUNED = ("tuning-third-small", "tuning-third-lite")
HELD = ("small-third", "lite0-third-all", "lite1-third-all", "lite2-third-all", "ocr-third-all")
SHORT = (
    (
        "integrated_gradients:baseline=mean,n_steps=10,signed=True",
        "integrated_gradients:baseline=mean",
    ),
    ("efficientnet_lite", "Lite"),
)


@pytest.mark.parametrize("setting", ["mean", "blur"])
@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("recommendation-first-round", ("tuning-small", "tuning-lite0")),
        ("recommendation-first-round", ("small", "lite0", "lite2")),
        ("recommendation-second-round", ("tuning-second",)),
        ("recommendation-second-round", SECOND),
        ("recommendation", TUNED),
        ("recommendation", HELD),
    ],
)
def test_tables_are_those_of_the_stored_rankings(
    name: str, runs: tuple[str, ...], setting: str
) -> None:
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    found = table.rankings([DATA / f"{run}-ranking.csv" for run in runs])
    text = "\n".join(table.lines(found, setting))
    for long, short in SHORT:
        text = text.replace(long, short)
    assert text in page


@pytest.mark.parametrize(
    ("runs", "most"),
    [(("small", "lite0", "small-second"), 0.04), (("small-third", "ocr-third-all"), 0.05)],
)
def test_noise_has_no_gain_on_any_network(runs: tuple[str, ...], most: float) -> None:
    found = table.rankings([DATA / f"{run}-ranking.csv" for run in runs])
    noise = found[found["method"].isin(["random", "random_phase"])]
    assert len(noise) > 20
    # 95 % intervals, each on its own: a few of many lie beside 0, none far from it.
    beside = (noise["low"] > 0) | (noise["high"] < 0)
    assert beside.mean() <= 0.1
    rest = noise[(noise["model"] != "convnext") | ~noise["setting"].str.startswith("blur")]
    assert float(rest["mean"].abs().max()) < most


@pytest.mark.parametrize(
    ("method", "runs"),
    [
        ("difference_fullgrad", ("small", "lite0", "lite2")),
        ("path_fullgrad", SECOND),
        ("combined_fullgrad", HELD),
    ],
)
def test_the_map_is_above_every_control_and_the_usual_methods(
    method: str, runs: tuple[str, ...]
) -> None:
    found = table.rankings([DATA / f"{run}-ranking.csv" for run in runs])
    others = ["center", "contrast", "random", "random_phase", "grad_cam", "fullgrad", "smoothgrad"]
    for _, group in found.groupby(["model", "setting"]):
        means = group.set_index("method")
        own = means.loc[method]
        for other in set(others) & set(means.index):
            assert float(own["low"]) > float(means.loc[other, "high"]), (own["model"], other)


def test_how_often_the_second_rounds_map_is_first_or_tied() -> None:
    found = table.rankings([DATA / f"{run}-ranking.csv" for run in SECOND])
    own = found[found["method"] == "path_fullgrad"]
    good = own["verdict"].isin(["first", "tied"])
    counts = good.groupby(own["setting"].str.partition(",")[0]).sum()
    assert counts.to_dict() == {"blur": 12, "mean": 10}
    page = (ROOT / "docs" / "recommendation-second-round.md").read_text(encoding="utf-8")
    assert (
        "| first or tied (goal: on 12) | on 12: **the goal is met** | on 10: **the goal is m"
        in page
    )
    lost = own.groupby([own["setting"].str.partition(",")[0], "verdict"]).size()
    assert lost["blur", "not shown"] == lost["mean", "not shown"] == 1
    assert "| shown to be behind | on no network | on 2, by 0.03 and 0.05" in page
    assert ("blur", "behind") not in lost
    assert lost["mean", "behind"] == 2
    assert own["model"].nunique() == 13
    behind = own[own["verdict"] == "behind"].merge(
        found[found["rank"] == 1], on=["model", "setting"], suffixes=("", "_first")
    )
    assert set(behind["method_first"]) == {"difference_fullgrad"}


def test_how_often_the_recommended_map_is_first_or_tied() -> None:
    page = " ".join((ROOT / "docs" / "recommendation.md").read_text(encoding="utf-8").split())
    found = table.rankings([DATA / f"{run}-ranking.csv" for run in HELD])
    found["fill"] = found["setting"].str.partition(",")[0]
    assert set(found["images"]) == {300}
    own = found[found["method"] == methods.RECOMMENDED]
    assert own["model"].nunique() == 14

    def good(method: str) -> dict[str, int]:
        rows = found[found["method"] == method]
        firsts = rows["verdict"].isin(["first", "tied"]).groupby(rows["fill"]).sum()
        return {str(k): int(v) for k, v in firsts.items()}

    assert good("combined_fullgrad") == {"blur": 10, "mean": 13}
    assert good("path_fullgrad") == {"blur": 4, "mean": 6}
    for said in (
        "| first or tied (goal: on 12) | on 13: **the goal is met** | on 10: **the goal is missed** |",
        "| first or tied: `path_fullgrad`, recommended before | on 6 | on 4 |",
        "on 1, the text classifier, by 0.35 | on 4, by 0.05, 0.08, 0.08 and, on the text classifier, 0.32",
    ):
        assert said in page
    assert (
        "13 of 14 networks where cells get the mean color, on 10 where they are blurred"
        in methods.REASON
    )
    behind = own[own["verdict"] == "behind"].sort_values("behind", ascending=False)
    lost = behind.groupby("fill")["behind"].apply(lambda v: [f"{-x:.2f}" for x in v]).to_dict()
    assert lost == {"blur": ["0.05", "0.08", "0.08", "0.32"], "mean": ["0.35"]}
    wide = found.pivot_table(index=["model", "fill"], columns="method", values="mean")
    gained = wide[methods.RECOMMENDED] - wide["path_fullgrad"]
    assert [int(n) for n in ((gained > 1e-3).sum(), (gained.abs() < 1e-3).sum())] == [21, 6]
    assert list(gained[gained < -1e-3].index) == [("swin", "blur")]
    other = wide["integrated_gradients:baseline=mean,n_steps=10,signed=True"]
    ahead = other > wide[methods.RECOMMENDED]
    assert set(ahead[ahead].index) == {
        ("classifier", "blur"),
        ("classifier", "mean"),
        ("swin", "blur"),
    }
    ends = found.pivot_table(index=["model", "fill"], columns="method", values=["low", "high"])
    apart = ends["low"][methods.RECOMMENDED] > ends["high"][other.name]
    assert (int(apart.sum()), int(other.notna().sum())) == (8, 26)


@pytest.mark.parametrize("name", ["resnet", "vgg"])
def test_what_was_changed_after_freezing_changed_no_verdict(name: str) -> None:
    runs = [DATA / f"{run}-ranking.csv" for run in (f"small-third-frozen-{name}", "small-third")]
    before, now = (table.rankings([run]) for run in runs)
    both = before.merge(now, on=["model", "setting", "method"], suffixes=("", "_now"))
    own = both[both["method"] == "combined_fullgrad"].set_index("setting")
    assert len(own) == 2
    assert own["verdict"].tolist() == own["verdict_now"].tolist()
    if name == "resnet":
        blurred = own.loc["blur, cells of 8", ["mean", "mean_now"]]
        assert [f"{v:.2f}" for v in blurred] == ["1.12", "1.10"]


def test_the_first_rounds_other_tests_are_those_of_the_stored_ranking() -> None:
    page = (ROOT / "docs" / "recommendation-first-round.md").read_text(encoding="utf-8")
    found = pd.read_csv(DATA / "sanity-lite0-ranking.csv")
    settings = ("2 x 2", "unlikely class", "second class", "eMPRT", "minus correlation")
    for method, group in found.groupby("method"):
        means = group.set_index("setting")["mean"]
        cells = [f"{means[s]:.2f}" for s in settings]
        begun = [
            row.strip() for row in page.splitlines() if row.strip().startswith(f"| `{method}` |")
        ]
        (line,) = (row for row in begun if row.count("|") == len(settings) + 2)
        assert [c.strip(" *<=?") for c in line.split("|")[2:-1]] == cells


OTHER = ("2 x 2", "unlikely class", "second class", "eMPRT", "minus correlation")


def test_the_other_tests_are_those_of_the_stored_rankings() -> None:
    names, settings = ("other-lite0", "other-lite1", "other-lite2"), (*OTHER, "noise 0.05")
    page = (ROOT / "docs" / "recommendation.md").read_text(encoding="utf-8")
    every = [pd.read_csv(DATA / f"{name}-ranking.csv") for name in names]
    runs = [own for run in every for _, own in run.groupby("model", sort=False)]
    marks = {"first": "*", "tied": "=", "behind": "<", "not shown": "?"}
    page = page.partition("## Other tests")[2].partition("\n## ")[0]
    lines = [line for line in page.splitlines() if line.count("|") == len(settings) + 2]
    assert len(lines) == 2 + runs[0]["method"].nunique()
    for line in lines[2:]:
        name, *cells = (cell.strip() for cell in line.split("|")[1:-1])
        for setting, cell in zip(settings, cells, strict=True):
            said = []
            for run in runs:
                of = run[run["method"].str.partition(":")[0] == name.strip("`")]
                if of.empty:
                    said.append("–")
                    continue
                own = of[of["setting"] == setting].iloc[0]
                said.append(
                    f"{own['mean'] + 0.0:.2f} {marks[own['verdict']]}".replace("-0.00", "0.00")
                )
            assert cell == ", ".join(said)


SMALL = [DATA / "other-small-all-ranking.csv"]


@pytest.mark.parametrize("setting", OTHER)
def test_the_small_networks_other_tests_are_those_of_the_stored_rankings(setting: str) -> None:
    page = (ROOT / "docs" / "recommendation.md").read_text(encoding="utf-8")
    assert "\n".join(table.lines(table.rankings(SMALL), setting)) in page


def test_where_the_recommended_map_stands_in_the_small_networks_other_tests() -> None:
    page = " ".join((ROOT / "docs" / "recommendation.md").read_text(encoding="utf-8").split())
    found = table.rankings(SMALL)
    assert found["model"].nunique() == 10
    assert set(found.loc[found["setting"] != "2 x 2", "images"]) == {300}
    count = found.groupby("method")["verdict"].value_counts().unstack(fill_value=0)
    good = count["first"] + count["tied"]
    own, other = count.loc[methods.RECOMMENDED], ("difference_fullgrad", "complete_fullgrad")
    assert (
        f"of these {own.sum()} comparisons `combined_fullgrad` is first or tied in "
        f"{good[methods.RECOMMENDED]}, behind in {own['behind']}, and in {own['not shown']} neither"
    ) in page
    assert (
        f"`{other[0]}` is first or tied in {good[other[0]]}, `{other[1]}` in {good[other[1]]}."
        in page
    )
    wide = found.pivot_table(index=["model", "setting"], columns="method", values="mean")
    mosaic = wide.xs("2 x 2", level="setting")
    known = mosaic[["fullgrad", "random"]].max(axis=1) + 0.04
    assert (mosaic[methods.RECOMMENDED] > known).all()
    assert (mosaic[methods.RECOMMENDED] > mosaic["path_fullgrad"]).all()
    classes = wide[wide.index.get_level_values("setting").str.endswith("class")]
    assert (classes[methods.RECOMMENDED] < classes[["fullgrad", "random"]].min(axis=1)).all()


def test_on_how_many_networks_grad_cam_is_ahead_in_mosaics() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    lite = [DATA / f"other-lite{n}-ranking.csv" for n in (0, 1, 2)]
    found = table.rankings([*SMALL, *lite])
    # On the EfficientNets one step adds up, and the recommended map is path_fullgrad.
    found = found[found["setting"] == "2 x 2"].pivot_table("mean", "model", "method")
    own = found[methods.RECOMMENDED].fillna(found["path_fullgrad"])
    ahead = (found["grad_cam"] > own).sum()
    said = f"Grad-CAM puts more of its map on the right one on {ahead} of {len(found)} networks"
    assert said in readme


def test_the_second_run_on_the_sentence_encoder_is_the_stored_one() -> None:
    page = (ROOT / "docs" / "text.md").read_text(encoding="utf-8")
    found = pd.read_csv(DATA / "minilm-third-ranking.csv")
    page = page.partition("were not in that run.")[2]

    def signed(value: float) -> str:
        return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")

    for method, rows in found.groupby("method"):
        cells = [f"`{method}`"]
        for setting in ("removed", "mask"):
            own = rows.set_index("setting").loc[setting]
            ends = [signed(own[k]) for k in ("low", "high", "behind_low", "behind_high")]
            cells.append(f"{signed(own['mean'])} [{ends[0]}, {ends[1]}]")
            behind = f"{own['verdict']}: {signed(own['behind'])} [{ends[2]}, {ends[3]}]"
            cells.append("first" if own["verdict"] == "first" else behind)
        assert f"| {' | '.join(cells)} |" in page
    means = found.pivot_table("mean", "method", "setting")
    other = ["grad_cam", "integrated_gradients:n_steps=20,signed=True", "fullgrad", "random"]
    other += ["token_overlap", "token_length", "token_rarity"]
    assert (means.loc[methods.RECOMMENDED] > means.loc[other].max()).all()


def test_with_trained_efficientnets_the_recommended_map_is_its_half_in_steps() -> None:
    page = " ".join((ROOT / "docs" / "recommendation.md").read_text(encoding="utf-8").split())
    found = pd.read_parquet(DATA / "other-lite-same.parquet")
    wide = found.pivot_table("value", ["model", "test", "setting", "case"], "method")
    apart = wide[methods.RECOMMENDED] - wide["path_fullgrad"]
    drawn = apart.index.get_level_values("test") == "randomization"
    assert found["case"].nunique() >= 40
    assert (apart[~drawn] == 0).all()
    more = apart[drawn].xs("eMPRT", level="setting").groupby("model").mean()
    assert f"{more.iloc[0]:.3f} and {more.iloc[1]:.3f} more eMPRT" in page


def test_the_small_networks_smprt_is_the_stored_one() -> None:
    page = (ROOT / "docs" / "recommendation.md").read_text(encoding="utf-8")
    found = table.rankings([DATA / "small-smprt-ranking.csv"])
    found = found[found["setting"].str.startswith("minus sMPRT")]
    assert "\n".join(table.lines(found, "minus sMPRT")) in page
    own = found.loc[found["method"] == methods.RECOMMENDED, "verdict"].value_counts().to_dict()
    assert own == {"behind": 6, "not shown": 4}
    assert "In sMPRT it is shown to be behind on six of ten networks" in page


def test_the_pitch_networks_table_is_the_stored_one() -> None:
    page = (ROOT / "docs" / "other-networks.md").read_text(encoding="utf-8")
    found = pd.read_csv(DATA / "crepe-all-ranking.csv")
    halves = [pd.read_csv(DATA / f"crepe-halves{part}.csv") for part in ("", "-third")]
    share = pd.concat(halves).set_index("method")
    assert len(share) == found["method"].nunique() == 14
    for method, rows in found.groupby("method"):
        cells = [f"`{method}`"]
        for setting in ("mean", "road"):
            (own,) = rows[rows["setting"].str.startswith(setting)].to_dict("records")
            ends = [f"{own[k]:+.2f}" for k in ("low", "high", "behind_low", "behind_high")]
            cells.append(f"{own['mean']:+.2f} [{ends[0]}, {ends[1]}]")
            behind = f"{own['verdict']} {own['behind']:+.2f} [{ends[2]}, {ends[3]}]"
            cells.append("first" if own["verdict"] == "first" else behind)
        of = share.loc[method]
        cells.append(f"{of['share']:.3f} [{of['low']:.3f}, {of['high']:.3f}]")
        assert f"| {' | '.join(cells)} |".replace("-0.", "\N{MINUS SIGN}0.") in page

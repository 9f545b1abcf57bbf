"""What is chosen from a store, its mean maps, and clusters of its maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import read_texts
import stored_maps
from fullgrad import datasets
from fullgrad.datasets.analysis.choice import Choice, Condition
from fullgrad.datasets.analysis.clusters import cluster_maps, spectrum
from fullgrad.datasets.analysis.means import mean_maps, outcomes, unit_sum
from fullgrad.datasets.analysis.pictures import Pictures, strongest
from fullgrad.datasets.analysis.texts import colored_text
from fullgrad.errors import InputError, UsageError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> datasets.Opened:
    folder = tmp_path_factory.mktemp("store")
    stored_maps.write(folder)
    return datasets.open(folder)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ([], list(range(25))),
        (["target = dog"], [n for n in range(25) if n != 3 and n % 3 % 2]),
        (["target=1", "label != DOG"], [4, 10, 16, 22]),
        (["prediction != label", "row < 8"], [4, 5]),
        (["label ==prediction", "row>=20"], [20, 24]),
        (["logit <= share.input"], []),
        (["id ~ 01", "row>10"], list(range(11, 20))),
        (["id = photos/007.png"], [7]),
        (["error="], [n for n in range(25) if n != 3]),
        (["error !="], [3]),
        (["error ~ EMPTY"], [3]),
        (["probability >= 0.5", "row <= 4"], [0, 1, 2, 4]),
    ],
    ids=lambda value: " ".join(map(str, value)) if value and isinstance(value[0], str) else None,
)
def test_conditions(store: datasets.Opened, where: list[str], expected: list[int]) -> None:
    found = Choice.parse(where).rows(store.index, store.plan.class_names)
    assert found.index.tolist() == expected


def test_rows_are_sorted_and_those_without_a_value_are_last(store: datasets.Opened) -> None:
    for sort, sign in (("logit", 1), ("-logit", -1)):
        found = Choice.parse(sort=sort).rows(store.index)
        assert found.index[-1] == 3
        assert (np.diff(found["logit"].dropna()) * sign >= 0).all()
    assert Choice.parse(["row<3"], "-row").rows(store.index).index.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("where", "sort", "message"),
    [
        (["probability"], "", "'probability' is not a condition: write COLUMN OPERATOR VALUE"),
        (["size > 3"], "", "there is no column 'size' to filter or sort by; there are row, id"),
        (["shape = 3"], "", "there is no column 'shape'"),
        ([], "-size", "there is no column 'size'"),
        (["target = bird"], "", "target = bird: no class has the name 'bird'"),
        (["logit > high"], "", "logit > high: 'high' is neither a number nor a column"),
        (["logit >"], "", "logit >: a value is missing"),
        (["logit = id"], "", "logit = id: one of the columns holds numbers, the other texts"),
        (["time > 2020"], "", "time > 2020: filter the column time with ~"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_conditions_that_cannot_be(
    store: datasets.Opened, where: list[str], sort: str, message: str
) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        Choice.parse(where, sort).rows(store.index, store.plan.class_names)


def test_means_are_of_each_class_and_outcome(store: datasets.Opened) -> None:
    found = {(m.name, m.outcome): m for m in mean_maps(store)}
    assert set(found) == {(c, o) for c in ("cat", "dog") for o in ("right", "wrong")}
    assert sum(m.count for m in found.values()) == 24
    own = [n for n in range(25) if n != 3 and n % 3 % 2 and n % 2]
    expected = unit_sum(np.stack([stored_maps.values(n, (6, 4)) for n in own])).mean(0)
    assert found["dog", "right"].count == len(own)
    np.testing.assert_allclose(found["dog", "right"].values, expected, atol=1e-4)
    few = mean_maps(store, store.index[:10], by="label", most_maps=2)
    assert {m.target for m in few} == {0, 1}
    assert max(m.count for m in few) == 2
    with pytest.raises(UsageError, match="by must be one of label, target, prediction, not 'id'"):
        mean_maps(store, by="id")  # type: ignore[arg-type]


def test_outcomes_without_labels(store: datasets.Opened) -> None:
    index = store.index[:2].assign(label=[None, 1])
    assert outcomes(index.astype({"label": "Int64"})).tolist() == ["not known", "right"]


def test_texts_have_no_mean(tmp_path: Path) -> None:
    stored_maps.write(tmp_path, stored_maps.plan(positions=(9,), dims=("token",)))
    store = datasets.open(tmp_path)
    with pytest.raises(InputError, match="maps of texts have no positions in common, so they"):
        mean_maps(store)
    assert colored_text(store, 3) is None
    found = colored_text(store, 4, most=3)
    assert found is not None
    own = stored_maps.values(4, (9,))
    start = int(np.clip(np.abs(own).argmax() - 1, 0, 6))
    assert (found.before, len(found.tokens), found.after) == (start, 3, 6 - start)
    strong = found.tokens[int(np.abs(own).argmax()) - start]
    assert (strong.color, strong.ink) == (
        "#67001f" if own.max() > -own.min() else "#053061",
        "#ffffff",
    )
    rows = Choice.parse(["tokens ~ W1", "row < 15"]).rows(store.index)
    assert rows.index.tolist() == [1, 10, 11, 12, 13, 14]
    with pytest.raises(UsageError, match="tokens = w1: texts are filtered by a token with ~"):
        Choice.parse(["tokens = w1"]).rows(store.index)
    empty = colored_text(store, 7)
    assert empty is not None and {t.score for t in empty.tokens} == {"0"}


@pytest.mark.parametrize("function", ["volumes", "sounds"])
def test_volumes_and_sounds_are_drawn(tmp_path: Path, function: str) -> None:
    model = getattr(read_texts, function[:-1] + "_model")()
    spec = f"{read_texts.__file__}:{function}"
    datasets.map(spec, model, tmp_path, method="complete_fullgrad", unit=3)
    found = Pictures.of(datasets.open(tmp_path))
    values = found.store.map(1)
    at = strongest(values)
    assert abs(values[at]) == np.abs(values).max()
    drawn = found.map(1)
    assert drawn is not None
    if function == "volumes":
        z, y, x = at
        assert drawn.shape == (5 + 4, 6 + 4)
        assert (drawn[:5, :6] == values[z]).all() and (drawn[:5, 6:] == values[:, :, x].T).all()
        assert (drawn[5:, :6] == values[:, y]).all() and not drawn[5:, 6:].any()
    else:
        assert (drawn.sum(0) != 0).sum() > 20
        bar = drawn[:, 3 * at[0]]  # each span is one number here, three pixels wide
        assert set(np.unique(bar)) == {0.0, values[at]}
        assert bool(bar[:27].any()) == (values[at] > 0) and bool(bar[28:].any()) == (values[at] < 0)
    under, over = found.small(1, "image"), found.small(1)
    assert under is not None and over is not None
    assert max(under.size) == max(over.size) == 112
    assert found.small(1, "map") is not None and under.tobytes() != over.tobytes()
    assert len(mean_maps(found.store)) > 0


def test_clusters_are_found_in_the_class_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def values(number: int, shape: tuple[int, ...]) -> Any:
        # Each map is noise and a spot, which every third map of a dog has at another corner.
        found = np.random.default_rng(number).normal(size=shape) * 0.1
        start = 9 if number % 9 == 1 else 2
        found[start : start + 4, start : start + 4] += 1
        return found

    monkeypatch.setattr(stored_maps, "values", values)
    own = stored_maps.plan(samples=360, unit=90, positions=(14, 14))
    stored_maps.write(tmp_path, own)
    store = datasets.open(tmp_path)
    first, second = cluster_maps(store)
    assert (first.name, second.name) == ("dog", "cat")
    assert first.gap > second.gap
    assert [set(c.rows) for c in first.clusters] == [
        {n for n in range(360) if n % 3 == 1 and n % 9 != 1},
        {n for n in range(360) if n % 9 == 1},
    ]
    middle = np.unravel_index(first.clusters[1].mean.argmax(), (14, 14))
    assert min(middle) >= 9
    assert first.clusters[0].right == pytest.approx(0.5, abs=0.01)
    assert first.points.shape == (120, 2)
    assert first.left_out == 0
    again, _ = cluster_maps(store, most_maps=60)
    assert again.left_out == 60
    assert sum(c.count for c in again.clusters) == 60


def test_points_without_clusters_are_one() -> None:
    values, vectors, labels = spectrum(np.random.default_rng(0).normal(size=(200, 2)), 10, 6, 0)
    assert values[0] == pytest.approx(0, abs=1e-9)
    assert len(values) == 7
    assert np.ptp(vectors[:, 0]) < 1e-8
    assert set(labels.tolist()) <= set(range(6))


def test_classes_with_few_maps_are_left_out(store: datasets.Opened) -> None:
    assert [c.name for c in cluster_maps(store, store.index[:20])] == ["cat"]


@pytest.mark.parametrize(
    "options", [{"grid": 1}, {"neighbors": 0}, {"most_clusters": 1}, {"most_maps": 5}], ids=str
)
def test_clusters_that_cannot_be(store: datasets.Opened, options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(options))} must be at least"):
        cluster_maps(store, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="by must be one of label, target, prediction, not 'row'"):
        cluster_maps(store, by="row")  # type: ignore[arg-type]


def test_a_condition_has_a_known_operator() -> None:
    assert Condition.parse("label==3") == Condition("label", "=", "3")
    with pytest.raises(
        UsageError, match="operator must be one of =, !=, <, <=, >, >=, ~, not '=='"
    ):
        Condition("label", "==", "3")

"""Remove-and-retrain's page: runs that are joined, runs that are refused, and the stored one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pd = pytest.importorskip("pandas")
roar_page = pytest.importorskip("roar_page")

ROOT = Path(__file__).resolve().parents[2]
STORED = ROOT / "docs" / "data" / "roar-cifar100"
PLAN: dict[str, Any] = {
    "counts": [10, 5],
    "network": {"classes": 3, "width": 4},
    "training": {"epochs": 2},
    "runs": 2,
    "order": "most",
    "fill": "mean",
}


def made(
    folder: Path,
    methods: dict[str, float],
    base: float = 0.7,
    whole: tuple[int, ...] = (0, 1),
    **plan: Any,
) -> Path:
    """A run in which a method's accuracy is the same whatever is removed, but for the run."""
    folder.mkdir()
    rows: list[tuple[Any, ...]] = [("none", 0.0, r, "images", base + r / 100) for r in whole]
    for name, value in methods.items():
        for fraction in (0.2, 0.6):
            rows += [(name, fraction, r, "images", value + r / 100) for r in (0, 1)]
            rows.append((name, fraction, 0, "masks", 0.4))
    found = pd.DataFrame(rows, columns=["method", "fraction", "run", "input", "accuracy"])
    found.assign(loss=1.5, seed=found["run"]).to_csv(folder / "results.csv", index=False)
    record = {
        "plan": {**PLAN, "choices": list(methods), **plan},
        "chance": 0.33,
        "caveats": ["small"],
        "seconds": {"networks": 1800.0, "maps": 60.0},
        "versions": {"torch": "2"},
        "command": f"fullgrad bench roar --methods {' '.join(methods)}",
        "files": {},
    }
    (folder / "record.json").write_text(json.dumps(record))
    Image.new("RGB", (8, 8), "red").save(folder / "examples.png")
    return folder


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return made(tmp_path / "first", {"fullgrad": 0.3, "random": 0.5})


def test_runs_are_joined_and_stored(first: Path, tmp_path: Path) -> None:
    newer = {"epochs": 2, "optimizer": "sgd", "clip": 0.0}  # the first run's record names neither
    more = made(tmp_path / "more", {"path_fullgrad": 0.2}, whole=(0,), training=newer)
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "roar.md").write_text(f"a\n{roar_page.START}\nold\n{roar_page.END}\nb\n")
    roar_page.write([first, more], docs)
    text = (docs / "roar.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [r.split()[1] for r in rows] == ["method", "path_fullgrad", "fullgrad", "random"]
    assert "▼" in rows[1]
    assert "▲" in rows[3]
    assert "21 networks took 1.00 hours of one core and the maps 2 minutes" in text
    assert text.count("    fullgrad bench roar") == 2
    assert "old" not in text
    kept = docs / "data" / "roar-cifar100"
    assert len(pd.read_csv(kept / "results.csv")) == 2 + 3 * 6
    assert len(pd.read_csv(kept / "differences.csv")) == 3
    assert {p.name for p in kept.glob("record*")} == {"record.json", "record-2.json"}
    pictures = {p.name for p in (docs / "images").iterdir()}
    assert pictures == {f"roar-cifar100-{n}.png" for n in ("curves", "examples", "examples-2")}
    third = made(tmp_path / "third", {"sobel": 0.6})
    roar_page.write([kept, third], docs)  # to what is stored
    again = (docs / "roar.md").read_text()
    assert again.count("    fullgrad bench roar") == 3
    assert "29 networks took 1.50 hours" in again
    assert again.index("--methods fullgrad random") < again.index("--methods path_fullgrad")
    assert "(images/roar-cifar100-examples-3.png)" in again
    assert (docs / "images" / "roar-cifar100-examples-3.png").exists()


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        ({"sobel": 0.4}, {"fill": "road"}, r"other settings .* \(fill: mean and road\)"),
        ({"sobel": 0.4}, {"base": 0.6}, "its networks without removal are not those of the first"),
        (
            {"sobel": 0.4},
            {"whole": (1,)},
            "its networks without removal are not those of the first",
        ),
        ({"random": 0.4}, {}, "another run has random already"),
    ],
    ids=["settings", "networks", "explained", "method"],
)
def test_runs_that_differ_are_refused(
    first: Path, tmp_path: Path, methods: dict[str, float], options: Any, message: str
) -> None:
    with pytest.raises(roar_page.RunsDifferError, match=message):
        roar_page.joined([first, made(tmp_path / "more", methods, **options)])


def test_a_page_without_marks_is_left_as_it_is(first: Path, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "roar.md").write_text("nothing")
    with pytest.raises(roar_page.RunsDifferError, match="has no marks for a table"):
        roar_page.write([first], docs)
    assert [p.name for p in docs.iterdir()] == ["roar.md"]


def test_the_page_holds_what_is_stored() -> None:
    text = (ROOT / "docs" / "roar.md").read_text(encoding="utf-8")
    between = text.partition(roar_page.START)[2].partition(roar_page.END)[0].strip()
    runs = roar_page.joined([STORED])
    assert between == roar_page.page(runs).strip()
    for name, table in runs.tables.items():
        pd.testing.assert_frame_equal(table, pd.read_csv(STORED / f"{name}.csv"), rtol=1e-9)


def test_the_reading_is_that_of_the_stored_numbers() -> None:
    text = " ".join((ROOT / "docs" / "roar.md").read_text(encoding="utf-8").split())
    found = roar_page.joined([STORED]).tables
    area = found["ranking"].set_index("method")["area"]
    blobs = area["random_blobs:grid=4"]
    assert f"({area['random'] - blobs:.3f} of {area['random'] - area['fullgrad']:.3f})" in text
    known = [f"{blobs - area[m]:.3f}" for m in ("fullgrad", "grad_cam")]
    assert f"the remaining {known[0]} and {known[1]}" in text
    pairs = found["differences"].set_index(["first", "second"])["differ"]
    assert not pairs["fullgrad", "grad_cam"]
    assert not pairs["fullgrad", "simple_fullgrad"]
    assert pairs["fullgrad", "random_blobs:grid=4"]
    named = ("fullgrad", "grad_cam", "random_blobs:grid=4", "integrated_gradients")
    for method, words in (
        ("combined_fullgrad", "loses all four, by"),
        ("path_fullgrad", "loses them by"),
    ):
        lost = [f"{area[method] - area[m]:.3f}" for m in named]
        assert f"`{method}` {words} {', '.join(lost[:3])} and {lost[3]}" in text
        assert all(pairs[m, method] for m in named)
        assert not pairs["sobel", method]
        assert pairs["random", method]
    places = found["ranking"].set_index("method")["rank"]
    assert [places[m] for m in ("combined_fullgrad", "path_fullgrad")] == [8, 9]
    assert len(places) == 11
    assert not pairs["path_fullgrad", "combined_fullgrad"]
    page = " ".join((ROOT / "docs" / "recommendation.md").read_text(encoding="utf-8").split())
    four = [
        f"{area[m]:.3f}"
        for m in ("combined_fullgrad", "fullgrad", "grad_cam", "integrated_gradients")
    ]
    assert f"an area of {four[0]}, against {', '.join(four[1:])} and {blobs:.3f}" in page

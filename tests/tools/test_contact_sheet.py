"""Contact sheets hold all their texts, also at the width of a phone, and their maps' exact colors."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from figures import outside
from fullgrad.viz import colors, png
from fullgrad.viz.style import DPI, limit_of, signed_colors
from sheets import contact_sheet
from sheets.contact_sheet import Line, grid, paletted, photo, small, squares
from sheets.explained import photograph


def random_map(seed: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).random((size, size)).astype(np.float32)


@pytest.mark.parametrize("beside", [False, True])
def test_a_grid_holds_its_cells_and_all_its_texts(beside: bool) -> None:
    long = "a very long name of a class that goes on " * 2
    lines = [
        Line("short", "detail\nmore", (colors(random_map(0)), "does not apply")),
        Line(
            long,
            f"wrong: {long}",
            (colors(random_map(1)), colors(random_map(2))),
            wrong=True,
            notes=("+12.6  −7.0\nelsewhere 0.0\noutlined +1.0", ""),
            outline=(0.25, 0.5, 0.75, 1.0),
        ),
    ]
    figure = grid(
        ("first_method", "a_method_with_a_long_name"),
        lines,
        "rule " * 60,
        title="Title",
        beside=beside,
        repeat=1,
    )
    assert outside(figure) == []
    assert len(figure.axes) == 6
    image = Image.open(io.BytesIO(png(figure)))
    assert image.size == tuple(round(float(v)) for v in figure.bbox.size)
    shown = [a for a in figure.axes if a.images]
    assert np.array_equal(np.asarray(shown[0].images[0].get_array()), colors(random_map(0)))
    assert [t.get_text() for t in figure.axes[1].texts] == ["does not apply"]
    red = [t.get_text() for t in figure.texts if t.get_color() == contact_sheet.WRONG]
    assert len(red) == 1
    assert red[0].startswith("wrong")
    assert [t.get_text() for t in figure.texts].count("first method") == 2  # above each line
    frames = [p.get_bbox().bounds for p in shown[1].patches]
    assert frames == [(1.5, 3.5, 4.0, 4.0)] * 2
    assert [len(a.patches) for a in shown] == [0, 2, 2]


def test_letters_are_legible_on_a_phone() -> None:
    line = Line("label", "detail", (colors(random_map(0)),), notes=("note",))
    figure = grid(("head",), [line], "rule", title="Title")
    smallest = min(t.get_fontsize() for t in figure.texts) * DPI / 72
    assert smallest * 390 / contact_sheet.WIDTH > 8  # pixels, of a screen 390 wide


def test_signed_maps_are_squares_on_a_scale_symmetric_about_zero() -> None:
    cells = np.array([[2.0, -2.0], [0.0, 0.5]])
    drawn = squares(cells, 7)
    assert drawn.shape == (7, 7, 3)
    limit = limit_of(cells)
    levels = np.rint(np.clip(cells / limit, -1, 1) * 32) / 32
    expected = signed_colors(levels, 1.0)
    assert np.array_equal(drawn[0, 0], expected[0, 0])
    assert np.array_equal(drawn[0, 6], expected[0, 1])
    assert np.array_equal(drawn[6, 0], signed_colors(np.zeros((1, 1)), 1.0)[0, 0])
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 4
    nothing = squares(np.zeros((2, 2)), 4)
    assert (nothing == drawn[6, 0]).all()


def test_the_colors_of_maps_survive_the_palette() -> None:
    heat = small(random_map(0, 224), 100)
    assert len(np.unique(heat)) <= 64
    signed = squares(random_map(1, 14).astype(float) - 0.5, 100)
    view = photo(photograph("coffee"), 100)
    line = Line("a", "b", (view, colors(heat), signed, "no"))
    figure = grid(
        ("photograph", "map", "signed", "none"), [line] * 2, "rule", cell=100, beside=True
    )
    before = png(figure)
    after = paletted(before)
    assert len(after) < len(before) / 1.5
    old, new = (
        np.asarray(Image.open(io.BytesIO(p)).convert("RGB")).astype(int) for p in (before, after)
    )
    for axes, map_ in ((figure.axes[1], colors(heat)), (figure.axes[2], signed)):
        frame = axes.get_window_extent()
        top, left = round(old.shape[0] - frame.y1), round(frame.x0)
        assert np.array_equal(new[top : top + 100, left : left + 100], map_)
    assert (new[0] == 255).all()
    assert np.abs(old - new).mean() < 1


@pytest.mark.parametrize("cells", [(), ("one",), ("one", "two", "three")])
def test_a_grid_of_uneven_rows_is_refused(cells: tuple[str, ...]) -> None:
    lines = [Line("label", "", cells)] if cells else []
    with pytest.raises(ValueError, match="lines of 2 cells each, one for each head"):
        grid(("a", "b"), lines, "rule")


def test_notes_are_one_for_each_cell() -> None:
    with pytest.raises(ValueError, match="lines of 2 cells each, one for each head"):
        grid(("a", "b"), [Line("label", "", ("x", "y"), notes=("one",))], "rule")

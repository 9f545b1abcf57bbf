"""Pictures are legible for maps and names of every kind, and never warn."""

from __future__ import annotations

import importlib
import io
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from figures import outside
from fullgrad.errors import InputError, MissingDependencyError
from fullgrad.viz import Row, blend, colors, normalize, picture, png, sheet
from fullgrad.viz.overlay import overlaid
from fullgrad.viz.style import limit_of, photo_png, signed_colors

LONG = "black-and-tan coonhound, which is a hound whose name goes on for a very long time " * 4


def ramp(height: int = 20, width: int = 30) -> np.ndarray:
    return np.linspace(0, 1, height * width, dtype=np.float32).reshape(height, width)


def opened(figure: Figure) -> Image.Image:
    image = Image.open(io.BytesIO(png(figure)))
    image.load()
    return image


def test_normalize_goes_from_0_to_1_and_keeps_the_order() -> None:
    heat = normalize(ramp() * 1e6 - 3)
    assert heat.min() == 0
    assert heat.max() == 1
    assert (np.diff(heat.ravel()) >= 0).all()
    assert heat.dtype == np.float32


def test_normalize_is_robust_against_one_extreme_pixel() -> None:
    values = ramp(100, 100)
    values[50, 50] = 1e9
    assert np.median(normalize(values)) == pytest.approx(0.5, abs=0.02)


def test_a_single_spot_on_a_constant_map_is_seen() -> None:
    values = np.ones((100, 100))
    values[3, 4] = 2
    heat = normalize(values)
    assert heat[3, 4] == 1
    assert heat.sum() == 1


@pytest.mark.parametrize("value", [0.0, 7.5, -1e30])
def test_a_constant_map_is_cold(value: float) -> None:
    assert not normalize(torch.full((1, 1, 6, 5), value)).any()


def test_normalize_takes_tensors_with_leading_ones() -> None:
    values = torch.rand(1, 1, 6, 5, requires_grad=True)
    assert normalize(values).shape == (6, 5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.zeros((2, 1, 5, 5)),
            r"one map of shape \(height, width\) is needed, not \(2, 1, 5, 5\)",
        ),
        (np.zeros(5), r"is needed, not \(5,\)"),
        (np.zeros((0, 5)), r"is needed, not \(0, 5\)"),
        (np.array([[1.0, np.nan]]), "holds NaN or infinite"),
    ],
)
def test_not_a_map(values: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        normalize(values)


def test_percentiles_in_the_wrong_order() -> None:
    with pytest.raises(ValueError, match="0 <= low < high <= 100, not 60 and 40"):
        normalize(ramp(), 60, 40)


def test_heat_is_brighter_and_more_colourful_than_cold() -> None:
    colour = colors(np.array([[0.0, 0.5, 1.0]], np.float32)).astype(int)
    assert (np.diff(colour[0].sum(1)) > 0).all()
    mixed = blend(Image.new("RGB", (2, 1), (100, 100, 100)), np.array([[0.0, 1.0]], np.float32))
    assert mixed.dtype == np.uint8
    assert np.ptp(mixed[0, 1].astype(int)) > np.ptp(mixed[0, 0].astype(int))


def test_image_and_map_of_different_size() -> None:
    with pytest.raises(
        InputError, match="the image is 5 x 4, the map 30 x 20: they must be of one"
    ):
        blend(Image.new("RGB", (5, 4)), ramp())


@pytest.mark.parametrize("shape", [(1, 1), (224, 224), (1, 3000), (3000, 1), (40, 900), (900, 40)])
def test_sizes_from_tiny_to_huge(shape: tuple[int, int]) -> None:
    height, width = shape
    figure = picture(Image.new("RGB", (width, height)), ramp(height, width), "title", "file.png")
    assert outside(figure) == []
    picture_size = opened(figure).size
    assert 500 < picture_size[0] < 1500
    assert 100 < picture_size[1] < 1500


@pytest.mark.parametrize(
    "name",
    ["short", LONG, "x" * 400, "costs $5 and $6 {a_b^c}", "\N{CAT FACE} 猫 \ud800 قط", "", "a\nb"],
)
def test_names_are_shown_whole(name: str) -> None:
    figure = picture(Image.new("RGB", (30, 20)), ramp(), name, name)
    assert outside(figure) == []
    shown = "".join("".join(t.get_text().split()) for t in figure.texts)
    assert len(shown) >= len("".join(name.split()))
    opened(figure)


def test_the_picture_shows_photograph_and_overlay_and_says_what_the_colours_mean() -> None:
    figure = picture(Image.new("RGB", (30, 20), "red"), ramp(), "tabby: 90 %", "cat.jpg")
    texts = [a.get_xlabel() for a in figure.axes] + [a.get_ylabel() for a in figure.axes]
    assert "what the model sees" in texts
    assert "overlay" in texts
    assert "fullgrad saliency\n(0 = least, 1 = most, per image)" in texts
    assert [t.get_text() for t in figure.texts] == ["tabby: 90 %", "cat.jpg"]
    assert (np.asarray(opened(figure).convert("RGB")) == (255, 0, 0)).all(2).any()


def test_a_signed_map_has_the_signed_colors_and_a_scale_about_zero() -> None:
    values = np.zeros((20, 30))
    values[:, :10], values[:, 20:] = -2.0, 1.0
    figure = picture(Image.new("RGB", (30, 20), "grey"), values, "a", method="own", sign=True)
    assert outside(figure) == []
    bar = figure.axes[2]
    assert bar.get_ylim() == (-2.0, 2.0)
    assert [t.get_text() for t in bar.get_yticklabels()] == ["−2", "0", "+2"]
    assert bar.get_ylabel() == "own, signed numbers\n(blue lowers the output, red raises it)"
    drawn = np.asarray(figure.axes[1].images[0].get_array()).astype(int)
    lower, none, raises = drawn[5, 5], drawn[5, 15], drawn[5, 25]
    assert lower[2] > lower[0] + 40
    assert raises[0] > raises[2] + 40
    assert np.ptp(none) <= 2
    assert np.ptp(lower) > np.ptp(raises)  # twice as large
    opened(figure)
    plain = picture(Image.new("RGB", (30, 20), "grey"), values, "a", method="own")
    assert plain.axes[2].get_ylim() == (0.0, 1.0)


@pytest.mark.parametrize("size", [1.2345e-5, 0.012345, 1.2345e9])
def test_numbers_at_a_signed_scale_have_room(size: float) -> None:
    figure = picture(
        Image.new("RGB", (9, 9)), np.full((9, 9), size), "a", method="smooth_fullgrad", sign=True
    )
    assert outside(figure) == []


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_constant_signed_maps(value: float) -> None:
    figure = picture(Image.new("RGB", (8, 8)), torch.full((1, 1, 8, 8), value), "a", sign=True)
    limit = abs(value) or 1.0
    assert figure.axes[2].get_ylim() == (-limit, limit)
    opened(figure)


def test_a_signed_map_of_another_size() -> None:
    with pytest.raises(InputError, match="the image is 5 x 4, the map 30 x 20: they must be of"):
        picture(Image.new("RGB", (5, 4)), ramp(), "a", sign=True)


def test_a_photograph_s_file_is_smaller_and_off_by_one_of_255_at_most() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    figure = picture(Image.fromarray(noise), ramp(60, 60), "noise")
    quick, exact = photo_png(figure), np.asarray(opened(figure).convert("RGB"), int)
    assert np.abs(np.asarray(Image.open(io.BytesIO(quick)), int) - exact).max() == 1
    assert len(quick) < len(png(figure))


def test_pictures_are_the_same_every_time() -> None:
    image = Image.new("RGB", (30, 20))
    assert png(picture(image, ramp(), "a")) == png(picture(image, ramp(), "a"))


def test_pyplot_is_not_used() -> None:
    png(picture(Image.new("RGB", (30, 20)), ramp(), "a"))
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


@pytest.mark.parametrize("length", [5, 80, 290])
@pytest.mark.parametrize("count", [1, 4])
def test_contact_sheet(count: int, length: int) -> None:
    row = Row(Image.new("RGB", (30, 20)), ramp(), LONG[:length], "probability 39%\nlogit 9.2")
    figure = sheet([row] * count)
    assert outside(figure) == []
    assert len(figure.axes) == 3 * count
    assert "probability 39%\nlogit 9.2" in [t.get_text() for t in figure.texts]
    opened(figure)


def test_a_signed_row_of_a_contact_sheet_has_the_signed_colors() -> None:
    """It had not: the recommended method's numbers were drawn by their percentiles."""
    values = ramp() - 0.5
    (figure,) = (sheet([Row(Image.new("RGB", (30, 20)), values, "a", sign=True)], "mine"),)
    panels = [axes.images[0].get_array() for axes in figure.axes]
    assert np.array_equal(panels[2], signed_colors(values, limit_of(values)))
    assert np.array_equal(panels[1], overlaid(Image.new("RGB", (30, 20)), values, sign=True))
    with pytest.raises(ValueError, match="it needs sign=True"):
        overlaid(Image.new("RGB", (30, 20)), values, limit=1.0)
    assert "mine" in [t.get_text() for t in figure.texts]


def test_contact_sheet_of_nothing() -> None:
    with pytest.raises(InputError, match="needs at least one photograph"):
        sheet([])


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'fullgrad\[cli\]'"):
        picture(Image.new("RGB", (30, 20)), ramp(), "a")


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("fullgrad.viz", "colours", "colors"),
        ("fullgrad.viz", "normalise", "normalize"),
        ("fullgrad.viz.overlay", "COLOURS", "COLORMAP"),
        ("fullgrad.viz.overlay", "colours", "colors"),
        ("fullgrad.viz.overlay", "normalise", "normalize"),
        ("fullgrad.viz.style", "signed_colours", "signed_colors"),
    ],
)
def test_names_of_before_still_work(module: str, old: str, new: str) -> None:
    found = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=f"{module}.{old} is now {new}"):
        assert getattr(found, old) is getattr(found, new)
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'nothing'"):
        found.nothing

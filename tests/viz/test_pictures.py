"""Pictures say what they show, at any size, and lie within their frame."""

from __future__ import annotations

import math
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import fullgrad
from drawn import HOSTILE, LONG, Net, legible, photo, ramp, texts
from fullgrad.errors import InputError, MissingDependencyError
from fullgrad.viz.compare import Compared, comparison
from fullgrad.viz.contour import contour, contour_picture, top_pixels
from fullgrad.viz.heatmap import heatmap
from fullgrad.viz.layers import Layer, layer_strip
from fullgrad.viz.style import page, saved, shortened, signed, signed_colors, wrap
from fullgrad.viz.waterfall import Part, Waterfall, gathered, waterfall, waterfall_of

# Text


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("bold", [False, True])
def test_wrapped_text_is_no_wider_than_asked_for_and_loses_nothing(text: str, bold: bool) -> None:
    figure = page(3, 20)
    lines = wrap(text, 2.5, 10, bold=bold)
    weight = "bold" if bold else "normal"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph|Matplotlib currently does not support")
        drawn = figure.text(0, 0, lines, size=10, weight=weight, parse_math=False)
        assert drawn.get_window_extent().width <= 2.53 * figure.dpi
    assert len("".join(lines.split())) == len("".join(text.split()))


def test_a_shortened_text_keeps_both_ends() -> None:
    assert shortened("layer1.0.conv1", 3, 9) == "layer1.0.conv1"
    short = shortened("encoder.layers.encoder_layer_11.self_attention.out_proj", 1.5, 9)
    assert short.startswith("encoder")
    assert short.endswith("out_proj")
    assert "…" in short


def test_a_picture_that_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(InputError, match=r"110 x 110000 pixels, more than 60000 a side: show less"):
        page(1, 1000)


# Colors


def test_signed_colors_are_symmetric_about_zero_and_tell_the_signs_apart() -> None:
    values = np.linspace(-2, 2, 257).reshape(1, -1)
    rgb = signed_colors(values, 2.0).astype(int)[0]
    red, blue = rgb[:, 0], rgb[:, 2]
    assert (red[:100] < blue[:100]).all()
    assert (red[157:] > blue[157:]).all()
    assert np.ptp(rgb[128]) < 5  # zero has no color
    light = rgb @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(light[:129]) >= 0).all()  # paler towards zero from both sides
    assert (np.diff(light[128:]) <= 0).all()
    assert light[128] > 240
    assert max(light[0], light[-1]) < 70
    np.testing.assert_array_equal(signed_colors(values * 9, 2.0)[0, 0], rgb[0])


def test_a_limit_that_is_none() -> None:
    with pytest.raises(ValueError, match="must be positive, not 0"):
        signed_colors(ramp(), 0)


# The map alone


@pytest.mark.parametrize("shape", [(1, 1), (224, 224), (1, 3000), (3000, 1), (40, 900)])
@pytest.mark.parametrize("sign", [False, True])
def test_a_heat_map_of_any_size(shape: tuple[int, int], sign: bool) -> None:
    legible(heatmap(ramp(*shape) - 0.3, "tiger cat", sign=sign))


@pytest.mark.parametrize("title", HOSTILE)
def test_a_heat_map_with_any_title(title: str) -> None:
    legible(heatmap(ramp(), title))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_scale_of_a_heat_map_has_the_maps_own_numbers(scale: float) -> None:
    values = np.arange(101.0).reshape(1, -1) * scale
    bar = heatmap(values).axes[1]
    low, _, high = [float(t.get_text()) for t in bar.get_xticklabels()]
    assert low == pytest.approx(1 * scale, rel=1e-3)
    assert high == pytest.approx(99.5 * scale, rel=1e-3)
    legible(heatmap(values))


def test_the_scale_of_a_signed_map_is_symmetric() -> None:
    bar = heatmap(np.array([[-3.0, 0.5, 1.0]]), sign=True).axes[1]
    low, zero, high = bar.get_xlim()[0], bar.get_xticks()[1], bar.get_xlim()[1]
    assert low == -high < zero == 0


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_constant_map_says_so(value: float) -> None:
    figure = heatmap(np.full((5, 5), value))
    assert any("the map is constant" in t.replace("\n", " ") for t in texts(figure))
    legible(figure)
    legible(heatmap(np.full((5, 5), value), sign=True))


@pytest.mark.parametrize("draw", [heatmap, lambda m: contour_picture(photo(5, 5), m)])
def test_no_map(draw: object) -> None:
    for bad in (np.zeros((0, 5)), np.full((5, 5), np.nan), np.zeros((2, 5, 5))):
        with pytest.raises(InputError, match=r"one map|NaN or infinite"):
            draw(bad)  # type: ignore[operator]


# Contours


@pytest.mark.parametrize("percent", [0.5, 10, 33.3, 100])
def test_the_top_pixels_are_the_largest(percent: float) -> None:
    values = np.random.default_rng(0).normal(size=(23, 17))
    order = sorted(range(values.size), key=lambda i: -values.flat[i])
    expected = np.zeros(values.size, bool)
    expected[order[: int(values.size * percent / 100)]] = True
    np.testing.assert_array_equal(top_pixels(values, percent).ravel(), expected)


def test_pixels_that_are_alike_are_taken_together_or_not_at_all() -> None:
    values = np.array([[3.0, 2.0, 2.0, 2.0, 1.0]])
    assert top_pixels(values, 40).sum() == 1
    assert top_pixels(values, 80).sum() == 4
    assert not top_pixels(np.ones((4, 4)), 50).any()


@pytest.mark.parametrize("percent", [0, -1, 101, float("nan")])
def test_a_percentage_out_of_range(percent: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \(0, 100\]"):
        top_pixels(ramp(), percent)


def test_a_contour_goes_round_the_top_pixels_and_leaves_the_rest() -> None:
    image = Image.new("RGB", (500, 480), (10, 120, 200))
    values = np.zeros((480, 500))
    values[100:200, 50:150] = 1 + ramp(100, 100)
    drawn = contour(image, values, 100 * 10_000 / values.size)
    changed = (drawn != np.array([10, 120, 200])).any(2)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (100, 199, 50, 149)
    assert not changed[110:190, 60:140].any()
    assert (drawn[102, 100] == 255).all()
    assert (drawn[100, 100] == 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (30, 30)])
@pytest.mark.parametrize("title", ["", LONG])
def test_a_contour_of_any_size(shape: tuple[int, int], title: str) -> None:
    legible(contour_picture(photo(shape[1], shape[0]), ramp(*shape), 20, title))


def test_a_contour_says_what_the_line_is() -> None:
    (text,) = texts(contour_picture(photo(), ramp(), 10))
    assert (
        text.replace("\n", " ") == "Inside the white line: the 10 % of the pixels that count most."
    )
    (text,) = texts(contour_picture(photo(), np.ones((20, 30)), 10))
    assert "has no most salient 10 %" in text
    (text,) = texts(contour_picture(photo(), ramp() > 0.97, 10))
    assert "10 % were asked for, but" in text.replace("\n", " ")


def test_a_contour_on_an_image_of_another_size() -> None:
    with pytest.raises(InputError, match="the image is 5 x 4, the map 30 x 20"):
        contour(photo(5, 4), ramp())


# The waterfall


def test_the_waterfall_of_a_decomposition(decomposition: fullgrad.Decomposition) -> None:
    found = waterfall_of(decomposition, sample=1)
    assert [p.name for p in found.parts[:2]] == ["input", "stem"]
    assert found.output == float(decomposition.output[1])
    assert math.fsum(p.value for p in found.parts) == pytest.approx(found.output, rel=1e-12)
    assert sum(found.share(p) or 0 for p in found.parts) == pytest.approx(100, rel=1e-9)
    figure = waterfall(found, "class 1")
    legible(figure)
    said = texts(figure)
    assert {"input", "stem", "body", "head", "residual", "= logit"} <= set(said)
    bars = [p for p in figure.axes[0].patches if p.get_height() == pytest.approx(0.66)]
    assert [b.get_width() for b in bars] == pytest.approx(
        [*(p.value for p in found.parts), found.output]
    )
    starts = [b.get_x() for b in bars]
    ends = np.cumsum([0.0, *(p.value for p in found.parts)])
    assert starts == pytest.approx([*ends[:-1], 0.0])


def test_the_waterfall_of_a_whole_batch() -> None:
    torch.manual_seed(0)
    d = fullgrad.decompose(Net().double(), torch.randn(3, 3, 9, 9).double(), 1, per_sample=False)
    assert waterfall_of(d).output == pytest.approx(float(d.output.sum()))
    with pytest.raises(IndexError, match="sample 1 of a decomposition with sums of 1"):
        waterfall_of(d, sample=1)


@pytest.mark.parametrize("count", [1, 40, 300])
def test_a_waterfall_of_any_length(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count) ** 3
    parts = tuple(Part(f"blocks.{i}.conv", float(v)) for i, v in enumerate(values))
    figure = waterfall(Waterfall(parts, float(sum(values)), 0.0), "title")
    legible(figure)
    assert figure.get_size_inches()[1] < 16


@pytest.mark.parametrize("name", HOSTILE)
def test_a_waterfall_with_any_names(name: str) -> None:
    parts = (Part(name, 1.0), Part(f"{name}.b", -2.0))
    legible(waterfall(Waterfall(parts, -1.0, 0.0), name, name=name or "logit"))


@pytest.mark.parametrize("values", [[0.0, 0.0], [1e-30, -3e-30], [1e30, 2e30], [5.0, -5.0]])
def test_a_waterfall_of_any_numbers(values: list[float]) -> None:
    parts = tuple(Part(f"s{i}", v) for i, v in enumerate(values))
    legible(waterfall(Waterfall(parts, sum(values), 0.0)))


@pytest.mark.parametrize(
    ("parts", "output", "residual", "message"),
    [
        ((), 0.0, 0.0, "needs at least one part"),
        ((Part("a", 1.0),), 2.0, 0.0, "add up to 1, not to the output 2"),
        ((Part("a", 1.0),), 1.0, 0.5, "add up to 1.5, not to the output 1"),
        ((Part("a", math.nan),), 1.0, 0.0, "must be finite"),
        ((Part("a", 1.0),), math.inf, 0.0, "must be finite"),
    ],
)
def test_no_waterfall(
    parts: tuple[Part, ...], output: float, residual: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Waterfall(parts, output, residual)


@pytest.mark.parametrize("most", [3, 7, 40])
@pytest.mark.parametrize("count", [1, 8, 100, 300])
def test_stages_that_are_put_together_keep_order_and_sum(count: int, most: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    parts = [Part(f"s{i}", float(v)) for i, v in enumerate(values)]
    found = gathered(parts, most)
    assert len(found) <= most
    assert found[0] == parts[0]
    assert math.fsum(p.value for p in found) == pytest.approx(math.fsum(values))
    alone = [p for p in found if p in parts]
    assert alone == sorted(alone, key=parts.index)
    covered = sum(int(p.name.split()[0]) if p.name.endswith(" stages") else 1 for p in found)
    assert covered == count
    if len(alone) > 1 and count > most:
        largest = max(parts[1:], key=lambda p: abs(p.value))
        assert largest in alone


def test_too_few_parts_to_leave() -> None:
    with pytest.raises(ValueError, match="at least 3 parts must be left, not 2"):
        gathered([Part("a", 1.0)], 2)


# Files


@pytest.mark.parametrize(
    ("kind", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_files_are_the_same_every_time(kind: str, start: bytes) -> None:
    def made() -> bytes:
        return saved(comparison([Compared(photo(), "猫 cat", (ramp(),))], ("m",)), kind)

    assert made().startswith(start)
    assert made() == made()


def test_another_kind_of_file() -> None:
    with pytest.raises(ValueError, match="one of png, svg, pdf, not 'gif'"):
        saved(page(1, 1), "gif")


def test_pyplot_is_not_used() -> None:
    saved(heatmap(ramp()), "png")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (
        lambda: heatmap(ramp()),
        lambda: waterfall(Waterfall((Part("a", 1.0),), 1.0, 0.0)),
        lambda: layer_strip([Layer("a", 1.0)], 1.0),
        lambda: comparison([Compared(photo(), "a", (ramp(),))], ("m",)),
        lambda: contour_picture(photo(), ramp()),
    ):
        with pytest.raises(MissingDependencyError, match=r"pip install 'fullgrad\[cli\]'"):
            draw()


def test_minuses_are_real_ones() -> None:
    found = [signed(v) for v in (0.0, 1.5, -1.5, 3.69e-5, -3.69e-5)]
    assert found == ["0", "+1.5", "−1.5", "+3.69e−05", "−3.69e−05"]

"""A sheet of methods side by side states what its colors have in common."""

from __future__ import annotations

import numpy as np
import pytest

from drawn import HOSTILE, legible, photo, ramp, texts
from fullgrad.errors import InputError
from fullgrad.viz.compare import RULES, Compared, comparison, most_rows, ranked
from fullgrad.viz.overlay import colors, normalize


def test_ranks_are_the_share_of_pixels_that_count_less() -> None:
    values = np.random.default_rng(0).integers(0, 20, (9, 11)).astype(float)
    found = ranked(values)
    flat = values.ravel()
    for value, share in zip(flat, found.ravel(), strict=True):
        less, equal = (flat < value).sum(), (flat == value).sum()
        assert share == pytest.approx((less + (equal - 1) / 2) / (flat.size - 1))
    assert not ranked(np.full((3, 3), 2.0)).any()


@pytest.mark.parametrize("scale", list(RULES))
def test_a_comparison_states_its_scale(scale: str) -> None:
    maps = (ramp(), ramp() ** 3, "does not apply")
    rows = [Compared(photo(), "tiger cat", maps, "probability 39.3%\ncat.png")] * 2
    figure = comparison(
        rows,
        ("fullgrad", "grad_cam", "deeplift"),
        scale=scale,
        title="A model",
        notes=["deeplift does not apply: no reason"],
        rule="More.",
    )  # type: ignore[arg-type]
    legible(figure)
    said = " ".join(texts(figure)).replace("\n", " ")
    assert RULES[scale] + " More." in said
    for text in (
        "tiger cat",
        "probability 39.3%",
        "grad cam",
        "deeplift does not apply: no reason",
    ):
        assert text in said
    assert [t.get_text().replace("\n", " ") for a in figure.axes for t in a.texts] == [
        "does not apply"
    ] * 2


def panels(scale: str, first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
    rows = [Compared(photo(), "a", (first,)), Compared(photo(), "b", (second,))]
    figure = comparison(rows, ("m",), scale=scale)  # type: ignore[arg-type]
    return [np.asarray(a.images[0].get_array()) for a in figure.axes if a.images][1::2]


def test_what_the_scales_make_alike() -> None:
    small, large = ramp(), 5 * ramp() ** 3
    for scale in ("map", "rank"):
        a, b = panels(scale, small, 5 * small)
        np.testing.assert_array_equal(a, b)
    a, b = panels("rank", small, large)
    np.testing.assert_array_equal(a, b)
    a, b = panels("map", small, large)
    assert (a != b).any()
    a, b = panels("method", small, large)
    assert a.sum(dtype=int) < b.sum(dtype=int)
    a, b = panels("method", small, small)
    np.testing.assert_array_equal(a, b)

    np.testing.assert_array_equal(a, colors(normalize(small)))
    a, _ = panels("method", np.ones((20, 30)), np.ones((20, 30)))
    assert len(np.unique(a.reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("text", HOSTILE)
def test_a_comparison_with_any_names(text: str) -> None:
    rows = [Compared(photo(), text, (ramp(), text or "-"), f"probability 3%\n{text}")] * 2
    legible(comparison(rows, (text[:60], "b"), title=text, notes=[text] * 2))


@pytest.mark.parametrize("count", [1, 16])
def test_a_comparison_of_any_width(count: int) -> None:
    rows = [Compared(photo(), "tiger cat", (ramp(),) * count, "probability 39%")]
    legible(comparison(rows, [f"method {i}" for i in range(count)]))


def test_no_comparison() -> None:
    row = Compared(photo(), "a", (ramp(),))
    with pytest.raises(InputError, match="at least one photograph and one method"):
        comparison([], ("a",))
    with pytest.raises(InputError, match="at least one photograph and one method"):
        comparison([row], ())
    with pytest.raises(InputError, match="2 methods need as many maps, not 1"):
        comparison([row], ("a", "b"))
    with pytest.raises(InputError, match="the image is 30 x 20, the map 3 x 4"):
        comparison([Compared(photo(), "a", (ramp(4, 3),))], ("a",))
    with pytest.raises(ValueError, match="scale must be one of map, rank, method, not 'sum'"):
        comparison([row], ("a",), scale="sum")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"room for {most_rows(1)} photographs, not for 1000"):
        comparison([row] * 1000, ("a",))

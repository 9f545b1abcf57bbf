"""Signed maps of several classes of one image share one symmetric scale, and say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from figures import outside
from fullgrad.errors import InputError
from fullgrad.viz.heatmap import heatmap
from fullgrad.viz.mixture import drawn, mixture
from fullgrad.viz.overlay import SHARED_LABEL, picture
from fullgrad.viz.style import SHARED, limit_of, shared_limit, signed_colors

IMAGE = Image.new("RGB", (40, 30), "white")
WEAK = np.random.default_rng(0).normal(size=(30, 40)) * 0.1
STRONG = np.random.default_rng(1).normal(size=(30, 40)) * 3


def over(values: Any, **options: Any) -> Any:
    return picture(IMAGE, values, "title", method="own", **options)


def alone(values: Any, **options: Any) -> Any:
    return heatmap(values, method="own", **options)


def mixed(values: Any, **options: Any) -> Any:
    return mixture(np.asarray(IMAGE), values, 1.0, "title", SHARED, **options)


def pixels(figure: Any) -> Any:
    """The picture that holds the map: the last one but for the scale."""
    return [a.images[0].get_array() for a in figure.axes if a.images][-1]


def words(figure: Any) -> str:
    labels = [a.get_ylabel() for a in figure.axes]
    return " ".join(" ".join([*labels, *(t.get_text() for t in figure.texts)]).split())


@pytest.mark.parametrize("draw", [over, alone, mixed])
def test_equal_colors_are_equal_numbers(draw: Callable[..., Any]) -> None:
    limit = shared_limit([WEAK, STRONG])
    assert limit == limit_of(STRONG) > limit_of(WEAK)
    weak, strong = draw(WEAK, sign=True, limit=limit), draw(STRONG, sign=True, limit=limit)
    same = draw(STRONG, sign=True)
    np.testing.assert_array_equal(pixels(strong), pixels(same))
    assert not np.array_equal(pixels(weak), pixels(draw(WEAK, sign=True)))
    assert SHARED in words(weak) or SHARED_LABEL.strip() in words(weak)
    assert outside(weak) == []
    if draw is not mixed:
        assert "shared" not in words(same)
        assert "percentile of their sizes" in words(same) or draw is over


def test_the_map_on_the_shared_scale() -> None:
    limit = shared_limit([WEAK, STRONG])
    np.testing.assert_array_equal(drawn(WEAK, True, limit), signed_colors(WEAK, limit))
    np.testing.assert_array_equal(
        pixels(alone(WEAK, sign=True, limit=limit)), signed_colors(WEAK, limit)
    )


@pytest.mark.parametrize("draw", [over, alone, mixed])
def test_limits_that_cannot_be(draw: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="it needs sign=True"):
        draw(WEAK, limit=1.0)
    for limit in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="must be positive, not"):
            draw(WEAK, sign=True, limit=limit)


def test_a_scale_of_nothing() -> None:
    with pytest.raises(InputError, match="at least one map"):
        shared_limit([])
    assert shared_limit([np.zeros((3, 3))]) == 1.0

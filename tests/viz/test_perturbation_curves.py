"""More methods than colors have rows: none hides another, and the best is on top."""

from __future__ import annotations

import pandas as pd
import pytest

from figures import outside
from fullgrad.viz.curves import perturbation_curves

FRACTIONS = (0.001, 0.01, 0.1)


def summary(count: int) -> pd.DataFrame:
    """All methods but the last are alike."""
    rows = [
        {
            "method": name,
            "order": order,
            "fill": "black",
            "fraction": fraction,
            "relative_change": fraction * height,
            "low": fraction * height * 0.9,
            "high": fraction * height * 1.1,
        }
        for order in ("least", "most")
        for fraction in FRACTIONS
        for name, height in [*((f"method {n}", 1) for n in range(count - 1)), ("last", 2)]
    ]
    return pd.DataFrame(rows)


def test_many_methods_have_rows() -> None:
    figure = perturbation_curves(summary(12), "12 images.")
    assert outside(figure) == []
    least, most = figure.axes
    for axes, place in ((least, 11), (most, 0)):
        names = [label.get_text() for label in axes.get_yticklabels()]
        assert len(names) == 12 and names[place] == "last"
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert len(dots) == len(FRACTIONS)
        for line, fraction in zip(dots, FRACTIONS, strict=True):
            assert list(line.get_ydata()) == list(range(12))
            assert line.get_xdata()[place] == pytest.approx(2 * fraction)
        bold = [t.get_text() for t in axes.get_yticklabels() if t.get_fontweight() == "bold"]
        assert bold == ["method 0"]
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["0.1 %", "1 %", "10 %"]


def test_few_methods_are_curves_of_different_colors() -> None:
    least, _ = perturbation_curves(summary(8)).axes
    assert len({line.get_color() for line in least.lines}) == 8

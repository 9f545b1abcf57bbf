"""Figures under test: what they say, whether it is legible, and what they are drawn of."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

LONG = "a module path whose name goes on for a very long time " * 6
HOSTILE = ["W" * 300, LONG, "costs $5 and {a_b^c}", "\N{CAT FACE} 猫 \ud800 قط", "", "a\nb"]


def ramp(height: int = 20, width: int = 30) -> np.ndarray:
    return np.linspace(0, 1, height * width).reshape(height, width)


def photo(width: int = 30, height: int = 20) -> Image.Image:
    return Image.new("RGB", (width, height), "teal")


def texts(figure: Figure) -> list[str]:
    own = [t for a in figure.axes for t in a.texts]
    return [t.get_text() for t in (*figure.texts, *own) if t.get_text()]


def outside(figure: Figure) -> list[str]:
    """Texts that are cut off, or that lie on another text or (outside axes) on a panel."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph|Matplotlib currently does not support")
        figure.canvas.draw()
        frame = figure.bbox
        free = [t for t in figure.texts if t.get_text()]
        ticks = [
            t
            for a in figure.axes
            for t in (*a.get_xticklabels(), *a.get_yticklabels(), a.xaxis.label, a.yaxis.label)
            if t.get_text() and t.get_visible()
        ]
        every = [*free, *ticks, *(t for a in figure.axes for t in a.texts)]
        boxes = [t.get_window_extent() for t in every]
        panels = [a.get_window_extent() for a in figure.axes]
    found = []
    for i, (text, box) in enumerate(zip(every, boxes, strict=True)):
        if box.x0 < 0 or box.y0 < 0 or box.x1 > frame.x1 or box.y1 > frame.y1:
            found.append(f"cut: {text.get_text()}")
        if any(box.overlaps(other) for other in boxes[:i]):
            found.append(f"on text: {text.get_text()}")
        if i < len(free) and any(box.overlaps(p) for p in panels):
            found.append(f"on panel: {text.get_text()}")
    return found


def legible(figure: Figure) -> None:
    assert outside(figure) == []
    assert max(figure.get_size_inches()) * figure.dpi < 12_000


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.stem(x).relu()).relu().mean((2, 3)))

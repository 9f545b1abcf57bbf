"""What every picture must meet: no text is cut off or hidden."""

from __future__ import annotations

import warnings

from matplotlib.figure import Figure


def outside(figure: Figure) -> list[str]:
    """Texts that are not wholly inside the picture, or lie on each other."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph|Matplotlib currently does not support")
        figure.canvas.draw()
        return _outside(figure)


def _outside(figure: Figure) -> list[str]:
    frame = figure.bbox
    axes_texts = [t for a in figure.axes for t in (a.xaxis.label, a.yaxis.label)]
    texts = [t for t in (*figure.texts, *axes_texts) if t.get_text()]
    boxes = [t.get_window_extent() for t in texts]
    cut = [
        t.get_text()
        for t, b in zip(texts, boxes, strict=True)
        if b.x0 < frame.x0 or b.y0 < frame.y0 or b.x1 > frame.x1 or b.y1 > frame.y1
    ]
    panels = [a.get_window_extent() for a in figure.axes]
    on_panels = [
        t.get_text()
        for t, b in zip(texts, boxes, strict=True)
        if any(b.overlaps(p) for p in panels)
    ]
    pairs = [
        t.get_text()
        for i, (t, b) in enumerate(zip(texts, boxes, strict=True))
        if any(b.overlaps(other) for other in boxes[:i])
    ]
    return cut + on_panels + pairs

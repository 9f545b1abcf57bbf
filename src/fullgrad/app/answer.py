"""The JSON, the picture, the array and the report of what was computed."""

from __future__ import annotations

import base64
import io
import json
import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from fullgrad.app.models import Served
from fullgrad.app.options import offered
from fullgrad.app.request import Request
from fullgrad.app.work import Computed
from fullgrad.images import OVERLAY_SUFFIX
from fullgrad.render.layers import Layer
from fullgrad.render.overlay import HIGH, LOW, Array, colours, normalise, png, show
from fullgrad.render.style import (
    DIVERGING,
    FAINT,
    SEQUENTIAL,
    Writer,
    limit_of,
    lines,
    number,
    page,
    plane,
    scale_bar,
    signed,
    signed_colours,
    wrap,
)

# Matplotlib's fonts are one for the process, and not made for several threads.
DRAWING = threading.Lock()


@dataclass(frozen=True, slots=True)
class File:
    """A download.

    Args:
        content: of it.
        kind: media type.
        suffix: behind the photograph's name.
    """

    content: bytes
    kind: str
    suffix: str


def result(request: Request, served: Served, found: Computed) -> dict[str, Any]:
    """The line of JSON that answers ``/api/explain``; see docs/design/app.md."""
    settings = request.method.settings(request.options)
    names = [o.name for o in offered(request.method)]
    height, width = found.saliency.shape
    return {
        "model": request.model,
        "method": request.method.name,
        "options": {name: _plain(getattr(settings, name)) for name in names},
        "name": request.name,
        "target": {
            "index": found.target,
            "name": served.name(found.target),
            "probability": found.probability,
            "logit": found.logit,
        },
        "top": [
            {"index": index, "name": served.name(index), "probability": probability}
            for index, probability in found.top
        ],
        "photograph": _url(_png(np.asarray(found.view.convert("RGB")))),
        "width": width,
        "height": height,
        "map": {
            "png": _url(_png(drawn(found.saliency, found.signed))),
            "least": float(found.saliency.min()),
            "most": float(found.saliency.max()),
            "signed": found.signed,
            "says": _says(request, found),
        },
        "stages": None if found.layers is None else _stages(found.layers, found),
        "waterfall": _waterfall(found),
        "notes": list(found.notes),
        "seconds": round(found.seconds, 4),
    }


def strict(value: Any) -> bytes:
    """JSON on one line, without NaN and infinities, in ASCII.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def drawn(saliency: Array, sign: bool, limit: float | None = None) -> Array:
    """A map in the project's colours, uint8 RGB of shape (height, width, 3).

    Args:
        saliency: shape (height, width).
        sign: whether its numbers have a sign.
        limit: end of the signed scale; None for the map's own.
    """
    values = plane(saliency)
    if sign:
        return signed_colours(values, limit or limit_of(values))
    return colours(normalise(values))


def _says(request: Request, found: Computed) -> str:
    name = request.method.name
    if found.signed:
        end = number(limit_of(plane(found.saliency)))
        return (
            f"{name}: red pixels raise the logit, blue ones lower it; the colours end at -{end} "
            f"and {end}, the {HIGH:g} % percentile of the numbers' sizes."
        )
    return (
        f"{name}: {request.method.about} The numbers are in the method's own units; the colours "
        f"go from the map's {LOW:g} % to its {HIGH:g} % percentile, so they cannot be compared "
        "between maps."
    )


def _stages(layers: tuple[Layer, ...], found: Computed) -> list[dict[str, Any]]:
    limit = max((limit_of(plane(s.map)) for s in layers if s.map is not None), default=1.0)
    return [
        {
            "name": s.name,
            "png": None if s.map is None else _url(_png(drawn(s.map, found.signed, limit))),
            "sum": s.sum,
            "share": _share(s.sum, found.logit),
        }
        for s in layers
    ]


def _share(part: float, whole: float) -> float | None:
    share = part / whole if whole else math.inf
    return share if math.isfinite(share) else None


def _waterfall(found: Computed) -> dict[str, Any] | None:
    shown = found.waterfall
    if shown is None:
        return None
    return {
        "input": shown.parts[0].value,
        "stages": [{"name": p.name, "value": p.value} for p in shown.parts[1:]],
        "residual": shown.residual,
        "output": shown.output,
    }


def _plain(value: Any) -> Any:
    return ", ".join(value) if isinstance(value, tuple) else value


def _png(pixels: Array) -> bytes:
    from PIL import Image

    with io.BytesIO() as file:
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", compress_level=4)
        return file.getvalue()


def _url(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def array(found: Computed) -> File:
    """The map's numbers: NumPy's format, float32, shape (height, width)."""
    return File(npy(found.saliency), "application/octet-stream", ".saliency.npy")


def npy(values: Array) -> bytes:
    """An array as the content of a ``.npy`` file, float32."""
    with io.BytesIO() as file:
        np.save(file, values.astype(np.float32))
        return file.getvalue()


def picture(request: Request, served: Served, found: Computed) -> File:
    """The map over the photograph by the asked opacity, with its words and its scale."""
    with DRAWING:
        return File(_figure(request, served, found), "image/png", OVERLAY_SUFFIX)


def _figure(request: Request, served: Served, found: Computed) -> bytes:
    width, panel = 6.4, 6.0
    name = served.name(found.target) or f"class {found.target}"
    title = wrap(
        f"{name} (class {found.target}): probability {found.probability:.1%}, logit "
        f"{number(found.logit)}", panel, 12,
    )  # fmt: skip
    opacity = f"Opacity {request.opacity:.0%}."
    text = wrap(f"{request.name}. {_says(request, found)} {opacity}", panel, 8.5)
    high, wide = found.saliency.shape
    tall = panel * high / wide
    head = 0.15 + 0.22 * lines(title)
    figure = page(width, head + tall + 0.55 + 0.17 * lines(text) + 0.1, dpi=120)
    write = Writer(figure)
    write(0.2, 0.1, title, va="top", size=12)
    photograph = np.asarray(found.view.convert("RGB"), np.float64)
    heat = drawn(found.saliency, found.signed).astype(np.float64)
    mixed = (1 - request.opacity) * photograph + request.opacity * heat
    show(write.axes(0.2, head, panel, tall), np.rint(mixed).astype(np.uint8))
    bar = write.axes(0.6, head + tall + 0.12, width - 1.2, 0.13)
    if found.signed:
        limit = limit_of(plane(found.saliency))
        ticks = {-limit: signed(-limit), 0.0: "0", limit: signed(limit)}
        scale_bar(bar, (-limit, limit), ticks, DIVERGING)
    else:
        scale_bar(bar, (0, 1), {0: "0: least", 1: "1: most"}, SEQUENTIAL)
    write(0.2, head + tall + 0.5, text, va="top", size=8.5, color=FAINT)
    return png(figure)

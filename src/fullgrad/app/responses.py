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
from fullgrad.app.options import offered_options
from fullgrad.app.query import Query
from fullgrad.app.compute import Computed
from fullgrad.vision.images import OVERLAY_SUFFIX
from fullgrad.viz.layers import Layer
from fullgrad.viz.mixture import drawn, mixture
from fullgrad.viz.overlay import HIGH, LOW, Array, png
from fullgrad.viz.style import limit_of, number, plane

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


def result(query: Query, served: Served, found: Computed) -> dict[str, Any]:
    """The line of JSON that answers ``/api/explain``; see docs/design/app.md."""
    settings = query.method.settings(query.options)
    names = [o.name for o in offered_options(query.method)]
    height, width = found.saliency.shape
    return {
        "model": query.model,
        "method": query.method.name,
        "options": {name: _plain(getattr(settings, name)) for name in names},
        "name": query.name,
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
            "says": _says(query, found),
        },
        "stages": None if found.layers is None else _stages(found.layers, found),
        "waterfall": _waterfall(found),
        "notes": list(found.notes),
        "seconds": round(found.seconds, 4),
    }


def strict_json(value: Any) -> bytes:
    """JSON on one line, without NaN and infinities, in ASCII.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def _says(query: Query, found: Computed) -> str:
    name = query.method.name
    if found.signed:
        end = number(limit_of(plane(found.saliency)))
        return (
            f"{name}: red pixels raise the logit, blue ones lower it; the colours end at -{end} "
            f"and {end}, the {HIGH:g} % percentile of the numbers' sizes."
        )
    return (
        f"{name}: {query.method.about} The numbers are in the method's own units; the colours "
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


def picture(query: Query, served: Served, found: Computed) -> File:
    """The map over the photograph by the asked opacity, with its words and its scale."""
    name = served.name(found.target) or f"class {found.target}"
    title = (
        f"{name} (class {found.target}): probability {found.probability:.1%}, logit "
        f"{number(found.logit)}"
    )
    text = f"{query.name}. {_says(query, found)} Opacity {query.opacity:.0%}."
    photograph = np.asarray(found.view.convert("RGB"))
    with DRAWING:
        figure = mixture(
            photograph, found.saliency, query.opacity, title, text, sign=found.signed
        )
        return File(png(figure), "image/png", OVERLAY_SUFFIX)

"""The JSON, and the downloads, of what was computed."""

from __future__ import annotations

import base64
import io
import json
import math
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image
from starlette.responses import Response

from fullgrad import methods
from fullgrad.app.models import Served
from fullgrad.app.names import method_title
from fullgrad.app.options import offered_options
from fullgrad.app.query import Query
from fullgrad.app.refusal import public
from fullgrad.report import report_of
from fullgrad.vision.areas import in_cells
from fullgrad.vision.image_result import ImageResult
from fullgrad.vision.images import OVERLAY_SUFFIX, frame_seen
from fullgrad.vision.layers import Layer
from fullgrad.vision.models import LoadedModel
from fullgrad.vision.provenance import provenance
from fullgrad.vision.split import Split
from fullgrad.viz.images import MAP_SUFFIX, npy, pictures_of, title_of
from fullgrad.viz.mixture import drawn, mixture
from fullgrad.viz.style import HIGH, LOW, Array, limit_of, number, plane, png

# Matplotlib's fonts are one for the process, and not made for several threads.
_DRAWING = threading.Lock()
_RANDOM_WEIGHTS = "The model has random weights: its classes and maps mean nothing."


def strict_json(value: Any) -> bytes:
    """Write JSON on one line, without NaN and infinities, in ASCII.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def result_of(query: Query, served: Served, found: ImageResult) -> dict[str, Any]:
    """Return the result line of ``/api/explain``; see docs/design/app.md."""
    height, width = found.saliency.shape
    signed = found.map.signed
    settings = query.method.settings(query.options)
    names = [o.name for o in offered_options(query.method)]
    notes = [] if served.model.trained else [_RANDOM_WEIGHTS]
    return {
        "model": query.model,
        "method": query.method.name,
        "chosen": "default" if found.by_default else "given",
        "reason": methods.REASON if query.method.name == methods.RECOMMENDED else None,
        "options": {name: _plain(getattr(settings, name)) for name in names},
        "name": query.name,
        "target": found.target_info(found.name).model_dump(),
        "top": [
            {"index": s.index, "name": s.name, "probability": s.probability} for s in found.top
        ],
        "photograph": picture_url(np.asarray(found.view.convert("RGB"))),
        "frame": frame_seen(found.photograph.size, served.model.preprocessing),
        "width": width,
        "height": height,
        "map": {
            "png": picture_url(drawn(found.map.shown, signed, _limit(query, found))),
            **_numbers(found),
            "signed": signed,
            "limit": _limit(query, found),
            "says": _caption(query, found),
        },
        "stages": None if found.layers is None else _stages(found.layers, signed, found.explained),
        "waterfall": None if found.split is None else _waterfall(found.split, found.explained),
        "notes": [*notes, *map(public, found.notes.values())],
        "seconds": round(found.seconds, 4),
    }


def _numbers(found: ImageResult) -> dict[str, Any]:
    """What the colors stand for: the sums of a complete map's cells, else the pixels' numbers."""
    cell = found.map.cell if found.map.method.complete else None
    values = found.saliency if cell is None else in_cells(found.saliency, cell)
    return {
        "least": float(values.min()),
        "most": float(values.max()),
        "cell": cell,
        "rows": values.shape[0],
        "columns": values.shape[1],
        "values": base64.b64encode(values.astype("<f4").tobytes()).decode("ascii"),
    }


def _limit(query: Query, found: ImageResult) -> float | None:
    """The end of a signed map's scale: its own, or a larger one of the photograph's other classes.

    None for a map without sign.
    """
    if not found.map.signed:
        return None
    return max(limit_of(plane(found.map.shown)), query.limit or 0.0)


def _caption(query: Query, found: ImageResult) -> str:
    name = method_title(query.method.name)
    limit = _limit(query, found)
    if limit is not None:
        end = number(limit)
        about = f" {found.areas_text}." if found.areas_text else ""
        other = found.rather_than
        sides = (
            "raise the logit, blue ones lower it"
            if other is None
            else f"speak for {found.label}, blue ones for {other.label}"
        )
        return (
            f"{name}:{about} Red areas {sides}; the colors end at "
            f"-{end} and {end}, {_end_in_words(query, found)}."
        )
    return (
        f"{name}: {query.method.about} The numbers are in the method's own units; the colors "
        f"go from the map's {LOW:g} % to its {HIGH:g} % percentile, so they cannot be compared "
        "between maps."
    )


def _end_in_words(query: Query, found: ImageResult) -> str:
    if query.limit is None:
        return f"the {HIGH:g} % percentile of the numbers' sizes"
    what = "classes" if found.rather_than is None else "pairs of classes"
    return (
        f"one scale for all {what} that were explained so far in this photograph, so equal colors "
        f"are equal numbers: the largest of the {HIGH:g} % percentiles of their sizes"
    )


def _stages(layers: Sequence[Layer], signed: bool, logit: float) -> list[dict[str, Any]]:
    limit = max((limit_of(plane(s.map)) for s in layers if s.map is not None), default=1.0)
    return [
        {
            "name": s.name,
            "png": None if s.map is None else picture_url(drawn(s.map, signed, limit)),
            "sum": s.sum,
            "share": _share(s.sum, logit),
        }
        for s in layers
    ]


def _share(part: float, whole: float) -> float | None:
    share = part / whole if whole else math.inf
    return share if math.isfinite(share) else None


def _waterfall(split: Split, logit: float) -> dict[str, Any]:
    (_, first), *stages = split.shares
    return {
        "input": first,
        "stages": [{"name": name, "value": value} for name, value in stages],
        "residual": split.residual,
        "output": logit,
    }


def _plain(value: Any) -> Any:
    return ", ".join(value) if isinstance(value, tuple) else value


def picture_url(pixels: Array) -> str:
    """Return pixels as the address of a picture that is in it."""
    with io.BytesIO() as file:
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", compress_level=4)
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def attachment(name: str, suffix: str, content: bytes, media_type: str) -> Response:
    """Return a download.

    Args:
        name: the photograph's name.
        suffix: what the download's name ends with.
        content: the file.
        media_type: its type.
    """
    stem, dot, ending = name.rpartition(".")
    stem = stem if dot and stem and len(ending) <= 5 else name
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_. ") else "_" for c in stem)
    exact = quote(f"{stem}{suffix}", safe="")
    header = f"attachment; filename=\"{plain}{suffix}\"; filename*=UTF-8''{exact}"
    return Response(content, 200, {"content-disposition": header}, media_type)


def array(query: Query, model: LoadedModel, found: ImageResult, depth: int | None) -> Response:
    """Return the map's numbers: NumPy's format, float32, shape (height, width)."""
    return attachment(query.name, MAP_SUFFIX, npy(found.saliency), "application/octet-stream")


def picture(query: Query, model: LoadedModel, found: ImageResult, depth: int | None) -> Response:
    """Return the map over the photograph at the asked opacity, with its words and its scale."""
    text = f"{query.name}. {_caption(query, found)} Opacity {query.opacity:.0%}."
    view = np.asarray(found.view.convert("RGB"))
    with _DRAWING:
        figure = mixture(
            view,
            found.map.shown,
            query.opacity,
            title_of(found),
            text,
            sign=found.map.signed,
            limit=_limit(query, found),
        )
        return attachment(query.name, OVERLAY_SUFFIX, png(figure), "image/png")


def report(query: Query, model: LoadedModel, found: ImageResult, depth: int | None) -> Response:
    """Return one HTML file, as ``fullgrad explain --layers`` and ``fullgrad report`` make it."""
    command = command_line(query, model, layers=found.layers is not None, depth=depth)
    made_by = provenance(model, command, {"made_by": "fullgrad app"})
    with _DRAWING:
        made = report_of(query.name, found.record(made_by), pictures_of(found))
    return attachment(query.name, ".html", made.html.encode(), "text/html; charset=utf-8")


DOWNLOADS = {"picture": picture, "array": array, "report": report}


def command_line(
    query: Query, model: LoadedModel, *, layers: bool, depth: int | None = None
) -> list[str]:
    """Return the words of the command that makes the same map of the same photograph.

    Args:
        query: what was asked for.
        model: the model that computed it.
        layers: whether the maps of single stages are kept.
        depth: the components of a module path that make a stage, if that was stated.
    """
    words = ["fullgrad", "explain", query.name, "--model", model.spec]
    if model.checkpoint is not None and model.weights.startswith("checkpoint "):
        words += ["--weights", str(model.checkpoint)]
    if query.target is not None:
        words += ["--target", str(query.target)]
    if query.rather_than is not None:
        words += ["--rather-than", str(query.rather_than)]
    if query.method.name != methods.RECOMMENDED:
        words += ["--method", query.method.name]
    for name, value in query.options.items():
        if (name == "terms" or (name == "psi" and value != "signed")) and value is not None:
            words += [f"--{name}", ",".join(value) if isinstance(value, tuple) else str(value)]
        else:
            words += ["--option", f"{name}={value}"]
    if depth is not None:
        words += ["--depth", str(depth)]
    return [*words, "--layers"] if layers else words

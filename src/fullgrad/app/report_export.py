"""The report of one photograph: one HTML file to share, made in memory."""

from __future__ import annotations

import json
from dataclasses import replace

from fullgrad.app.responses import DRAWING, File, npy
from fullgrad.app.models import Served
from fullgrad.app.query import Query
from fullgrad.app.compute import option_errors
from fullgrad.errors import LayoutError
from fullgrad.report import report_of
from fullgrad.vision.image_result import Task, explain, overlay_of, record
from fullgrad.vision.images import OVERLAY_SUFFIX, Photograph
from fullgrad.vision.models import LoadedModel
from fullgrad.viz.layers import packed
from fullgrad.viz.overlay import png


def export_report(photograph: Photograph, query: Query, served: Served, model: LoadedModel) -> File:
    """One HTML file, as ``fullgrad explain --layers`` and ``fullgrad report`` make it.

    Args:
        photograph: decoded.
        request: what was asked for.
        served: the model's names.
        model: the worker's copy.

    Raises:
        FullGradError: see :func:`fullgrad.decompose`.
    """
    task = Task(model, served.names, query.target, query.method, query.options, True)
    with option_errors(query):
        try:
            (found,) = explain(task, [photograph])
        except LayoutError:  # perhaps of the single stages only: the map may need no more
            task = replace(task, layers=False)
            (found,) = explain(task, [photograph])
    command = command_line(query, model, layers=task.layers)
    told = record(task, found, command, {"made_by": "fullgrad app"})
    values = json.loads(json.dumps(told, allow_nan=False))  # as it would be read from a file
    with DRAWING:
        files = {OVERLAY_SUFFIX: png(overlay_of(task, found)), ".saliency.npy": npy(found.saliency)}
        if found.layers:
            files[".layers.npz"] = packed(found.layers)
        made = report_of(query.name, values, files)
    return File(made.html.encode(), "text/html; charset=utf-8", ".html")


def command_line(query: Query, model: LoadedModel, *, layers: bool) -> list[str]:
    """The command that makes the same map of the same photograph.

    Args:
        request: what was asked for.
        model: that computed it.
        layers: whether the maps of single stages are kept.
    """
    words = ["fullgrad", "explain", query.name, "--model", model.spec]
    if model.checkpoint is not None and model.weights.startswith("checkpoint "):
        words += ["--weights", str(model.checkpoint)]
    if query.target is not None:
        words += ["--target", str(query.target)]
    if query.method.name != "fullgrad":
        words += ["--method", query.method.name]
    for name, value in query.options.items():
        if (name == "terms" or (name == "psi" and value != "signed")) and value is not None:
            words += [f"--{name}", ",".join(value) if isinstance(value, tuple) else str(value)]
        else:
            words += ["--option", f"{name}={value}"]
    return [*words, "--layers"] if layers else words

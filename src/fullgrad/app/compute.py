"""A request's computation, in stages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fullgrad import methods
from fullgrad.app.upload import Limits, decode_upload
from fullgrad.app.pool import Bench, Steps
from fullgrad.app.refusal import Refusal, public
from fullgrad.app.query import Query
from fullgrad.decomposition import decompose
from fullgrad.decomposition.result import Decomposition
from fullgrad.errors import FullGradError, LayoutError
from fullgrad.maps.saliency import saliency_from_decomposition
from fullgrad.vision.image_result import logits_of
from fullgrad.vision.images import Photograph, display_image, preprocess
from fullgrad.vision.models import LoadedModel
from fullgrad.viz.layers import Layer, layers_of
from fullgrad.viz.waterfall import Waterfall, waterfall_of

TOP = 10
_FEW, _MANY, _DEEPEST = 6, 48, 4  # stages that make a good slider; components of a module path
_PASSES = {"integrated_gradients": "n_steps", "smoothgrad": "samples", "smooth_fullgrad": "samples"}


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """What a request's computation found.

    Args:
        photograph: as it was sent.
        view: what the model saw of it.
        saliency: float32 of shape (height, width).
        signed: whether its numbers have a sign.
        target: the explained class.
        logit: its output.
        probability: its softmax.
        top: the most probable classes and their probabilities.
        layers: the stages with their maps, or None.
        waterfall: the logit's parts, or None.
        notes: what the person should know.
        seconds: that it took.
    """

    photograph: Photograph
    view: Any
    saliency: np.ndarray[Any, Any]
    signed: bool
    target: int
    logit: float
    probability: float
    top: tuple[tuple[int, float], ...]
    layers: tuple[Layer, ...] | None
    waterfall: Waterfall | None
    notes: tuple[str, ...]
    seconds: float


def compute(
    content: bytes, query: Query, limits: Limits, bench: Bench, steps: Steps
) -> Computed:
    """Do what a request asks for.

    Args:
        content: of the uploaded file.
        request: the rest.
        limits: of an upload.
        bench: of the worker.
        steps: told of each stage.

    Raises:
        Refusal: the upload is no photograph.
        FullGradError: the model or method cannot do it.
        Abandoned: nobody waits any more.
    """
    began = time.perf_counter()
    model = bench.models[query.model]
    notes: list[str] = []
    if not model.trained:
        notes.append("The model has random weights: its classes and maps mean nothing.")
    steps.stage("reading", "reading the photograph")
    photograph = decode_upload(content, query.name, limits)
    view = display_image(photograph.image, model.preprocessing)
    x = preprocess(photograph.image, model.preprocessing)[None].to(model.device)
    steps.stage("explaining", "asking the model for its classes")
    logits = logits_of(model, x)
    if not bool(torch.isfinite(logits).all()):
        raise Refusal("The model's output for this photograph is not finite.", "method")
    target = int(logits.argmax(1)) if query.target is None else query.target
    probabilities = logits[0].double().softmax(0).cpu()
    values, classes = probabilities.topk(min(TOP, len(probabilities)))
    logit = float(logits[0, target])
    layers: tuple[Layer, ...] | None = None
    waterfall: Waterfall | None = None
    decomposition = None
    if query.parts == "all":
        steps.stage("explaining", "splitting the logit into its terms")
        decomposition = _decomposed(model, x, target, query, notes)
    saliency = _map(model, x, target, query, decomposition, steps)
    if decomposition is not None:
        steps.stage("explaining", "adding up the stages")
        logit = float(decomposition.output[0])
        depth = depth_of(decomposition)
        waterfall = waterfall_of(decomposition, depth=depth)
        try:
            layers = layers_of(
                decomposition, depth=depth, psi=query.options.get("psi") or "layer"
            )
        except LayoutError as error:
            notes.append(f"There are no maps of single stages: {public(str(error))}")
    return Computed(
        photograph=photograph,
        view=view,
        saliency=saliency,
        signed=query.options.get("psi") == "signed",
        target=target,
        logit=logit,
        probability=float(probabilities[target]),
        top=tuple(zip(classes.tolist(), values.tolist(), strict=True)),
        layers=layers,
        waterfall=waterfall,
        notes=tuple(notes),
        seconds=time.perf_counter() - began,
    )


def _decomposed(
    model: LoadedModel, x: torch.Tensor, target: int, query: Query, notes: list[str]
) -> Decomposition | None:
    """The decomposition; for other methods than FullGrad the map can be had without it."""
    try:
        return decompose(model.module, x, target)
    except FullGradError as error:
        if query.method.name == "fullgrad":
            raise
        notes.append(f"There is no split of the logit: {public(str(error))}")
        return None


def _map(
    model: LoadedModel,
    x: torch.Tensor,
    target: int,
    query: Query,
    decomposition: Decomposition | None,
    steps: Steps,
) -> np.ndarray[Any, Any]:
    name, options = query.method.name, query.options
    if name == "fullgrad" and decomposition is not None:  # its terms are here already
        steps.stage("explaining", "summing the terms to a map")
        with option_errors(query):
            found = saliency_from_decomposition(decomposition, **options)
    else:
        steps.stage("explaining", f"computing the {name} map", _passes(query))
        with option_errors(query):
            found = methods.attribute(
                query.method, model.module, x, torch.tensor([target]), **options
            )
    result: np.ndarray[Any, Any] = found[0, 0].detach().float().cpu().numpy()
    return result


@contextmanager
def option_errors(query: Query) -> Iterator[None]:
    """Turn complaints about options that do not fit the model into the requester's matter.

    Raises:
        Refusal: such a complaint.
    """
    try:
        yield
    except FullGradError:
        raise
    except ValueError as error:
        raise Refusal(f"{query.method.name}: {error}") from error


def _passes(query: Query) -> int | None:
    option = _PASSES.get(query.method.name)
    if option is None:
        return None
    return int(getattr(query.method.settings(query.options), option))


def depth_of(decomposition: Decomposition) -> int:
    """How many components of a module's path make a stage: so many that a few stages come out.

    The fewest components that give at least 6 stages; where none does so with 48 stages at most,
    that which gives the most without being too many.
    """
    counts = {k: len(decomposition.by_module(k)) for k in range(1, _DEEPEST + 1)}
    for depth, count in counts.items():
        if _FEW <= count <= _MANY:
            return depth
    fitting = {k: n for k, n in counts.items() if n <= _MANY}
    return max(fitting, key=lambda k: (fitting[k], -k)) if fitting else 1

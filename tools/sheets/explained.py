"""One photograph explained with one model: the paper's map, and the maps that sum to the logit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor, nn

import fullgrad
from fullgrad.vision import models
from fullgrad.vision.images import display_image, preprocess
from fullgrad.viz.overlay import Array
from small_models import FAMILIES
from training import STORED, prepared, reduced, visible

Area = tuple[float, float, float, float]
CELLS_OF_224, CELLS_OF_64 = 16, 4  # pixels a side of the cells that signed maps are drawn in
# What is drawn beside the paper's map: options of fullgrad.complete_map.
COMPLETE: dict[str, dict[str, Any]] = {
    "complete_fullgrad": {},
    "balanced_fullgrad": {"linearization": "balanced"},
    "balanced_input": {"linearization": "balanced", "terms": "input"},
}
# Where the object stands in the center square of the photograph, in 1/32 of its side: from this
# row down, between these columns.
OBJECTS = {"rocket": (9, 14, 21)}


@dataclass(frozen=True, slots=True)
class Split:
    """A complete map in cells, and what it adds up to.

    Args:
        cells: the map, summed in each cell.
        positive: the sum of all positive cells.
        negative: of all negative ones.
        elsewhere: what has no place on this map.
        inside: the exact sum over the object's area; None where there is none.
    """

    cells: Array
    positive: float
    negative: float
    elsewhere: float
    inside: float | None

    @property
    def largest(self) -> float:
        """The size of the largest cell."""
        return float(np.abs(self.cells).max())


@dataclass(frozen=True, slots=True)
class Explained:
    """One photograph explained with one model.

    Args:
        area: where the object stands in what the model sees, as shares of its sides.
        logit: of the predicted class.
        logit_without_object: the same with the object painted over.
        splits: by method's name.
    """

    name: str
    title: str
    traits: str
    view: Image.Image
    saliency: Tensor
    prediction: str
    probability: float
    right: bool | None
    area: Area | None
    logit: float
    logit_without_object: float | None
    splits: Mapping[str, Split]
    facts: dict[str, Any]


def photograph(name: str) -> Image.Image:
    """A photograph of ``skimage.data`` in RGB; of a stereo pair the left one."""
    pixels = getattr(skimage.data, name)()
    return Image.fromarray(pixels[0] if isinstance(pixels, tuple) else pixels).convert("RGB")


def erased(pixels: Tensor, top: int, left: int, right: int) -> Tensor:
    """Pixels whose columns ``left`` to ``right`` - 1, from row ``top`` down, fade from the pixel
    at the left of them to the one at the right."""
    result = pixels.clone()
    a, b = (pixels[:, :, top:, c].float() for c in (left - 1, right))
    for column in range(left, right):
        share = (column - left + 1) / (right - left + 1)
        result[:, :, top:, column] = (a + share * (b - a)).round().to(pixels.dtype)
    return result


def erased_photograph(image: Image.Image, top: int, left: int, right: int) -> Image.Image:
    """A photograph with an object painted over, its place in 1/32 of the center square."""
    side = min(image.size)
    x, y = ((n - side) / 2 for n in image.size)
    unit = side / STORED
    pixels = torch.from_numpy(np.array(image)).movedim(-1, 0)[None]
    found = erased(
        pixels, math.floor(y + top * unit), math.floor(x + left * unit), math.ceil(x + right * unit)
    )
    return Image.fromarray(found[0].movedim(0, -1).numpy())


def area_of(place: tuple[int, int, int], zoom: float = 1.0) -> Area:
    """An object's place as left, top, right and bottom shares of what a model sees.

    Args:
        place: as in :data:`OBJECTS`.
        zoom: the side of the center square divided by that of what is cut out of its center.
    """
    top, left, right = place
    shares = (((n / STORED - 0.5) * zoom + 0.5) for n in (left, top, right, STORED))
    x0, y0, x1, y1 = (min(max(share, 0.0), 1.0) for share in shares)
    return x0, y0, x1, y1


def split(
    model: nn.Module, x: Tensor, target: int, pixels: int, area: Area | None, **how: Any
) -> Split:
    """The complete map of one image in cells of some pixels a side, and its sums."""
    found = fullgrad.complete_map(model, x, target, **how)
    rows, columns = x.shape[-2:]
    cells = found.pooled((rows // pixels, columns // pixels))[0, 0].double()
    inside = None
    if area is not None:
        sides = (columns, rows) * 2
        box = tuple(share * side for share, side in zip(area, sides, strict=True))
        inside = float(found.by_region(boxes={"object": box}).loc["object", 0])
    return Split(
        cells.numpy(),
        float(cells.clamp(min=0).sum()),
        float(cells.clamp(max=0).sum()),
        float(found.elsewhere[0]),
        inside,
    )


def splits(
    model: nn.Module, x: Tensor, target: int, pixels: int, area: Area | None
) -> dict[str, Split]:
    """All complete maps of one image, by method's name."""
    return {
        name: split(model, x, target, pixels, area, **options) for name, options in COMPLETE.items()
    }


def predicted(model: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    """The logits of one image, and the class of the largest."""
    with torch.no_grad():
        logits = model(x)[0]
    return logits, int(logits.argmax())


def explained_small(
    name: str, image: Image.Image, truth: str, model: nn.Module, record: Any
) -> Explained:
    """Explain a photograph with a small network, for the class that it predicts."""
    x = prepared(reduced(image), record.size)
    place = OBJECTS.get(truth)

    def hide(place: tuple[int, int, int]) -> Tensor:
        return prepared(erased(reduced(image), *place), record.size)

    family = FAMILIES[name]
    return _explained(
        model,
        x,
        hide,
        place,
        classes=record.classes,
        truth=truth,
        pixels=CELLS_OF_64,
        name=name,
        title=family.title,
        traits=family.traits,
        view=visible(x),
        area=area_of(place) if place else None,
        facts={
            "model": family.constructor,
            "test_accuracy": record.accuracy,
            "parameters": record.parameters,
            "epochs": record.epochs,
            "seconds": record.seconds,
            "threads": record.threads,
            "device": record.device,
            "seed": record.seed,
            "digest": record.digest,
            "torch": record.torch,
            "timm": record.timm,
        },
    )


def explained_pretrained(
    loaded: models.LoadedModel, image: Image.Image, truth: str = ""
) -> Explained:
    """Explain a photograph with the pre-trained model, for the class that it predicts."""
    asked = loaded.preprocessing
    assert loaded.class_names is not None
    assert isinstance(asked.resize, int)
    place = OBJECTS.get(truth)

    def hide(place: tuple[int, int, int]) -> Tensor:
        return preprocess(erased_photograph(image, *place), asked)[None]

    return _explained(
        loaded.module,
        preprocess(image, asked)[None],
        hide,
        place,
        classes=loaded.class_names,
        truth=None,
        pixels=CELLS_OF_224,
        name=loaded.spec,
        title="EfficientNet-Lite0",
        traits="ReLU6, batch-norm, depthwise convolutions",
        view=display_image(image, asked),
        area=area_of(place, asked.resize / asked.crop[0]) if place else None,
        facts={"model": "timm:tf_efficientnet_lite0", "weights": loaded.weights},
    )


def _explained(
    model: nn.Module,
    x: Tensor,
    hide: Callable[[tuple[int, int, int]], Tensor],
    place: tuple[int, int, int] | None,
    *,
    classes: Any,
    truth: str | None,
    pixels: int,
    area: Area | None,
    facts: dict[str, Any],
    **about: Any,
) -> Explained:
    logits, best = predicted(model, x)
    without = None if place is None else predicted(model, hide(place))[0]
    told = {
        "probability_without_object": None if without is None else float(without.softmax(0)[best])
    }
    if truth is not None:
        told["truth"] = truth  # type: ignore[assignment]
        told["probability_of_truth"] = float(logits.softmax(0)[classes.index(truth)])
    return Explained(
        saliency=fullgrad.saliency(model, x, best),
        prediction=classes[best].replace("_", " "),
        probability=float(logits.softmax(0)[best]),
        right=None if truth is None else classes[best] == truth,
        area=area,
        logit=float(logits[best]),
        logit_without_object=None if without is None else float(without[best]),
        splits=splits(model, x, best, pixels, area),
        facts={**facts, **told},
        **about,
    )

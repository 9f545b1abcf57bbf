"""Photographs through a model: classes, decomposition, map, and the record of it all."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullgrad import methods
from fullgrad._files import printable
from fullgrad._version import __version__
from fullgrad.decomposition import decompose
from fullgrad.engine.targets import main_tensor
from fullgrad.errors import FullGradError, ModelLoadError
from fullgrad.maps.saliency import saliency_from_decomposition
from fullgrad.methods import Method
from fullgrad.vision.images import Photograph, display_image, preprocess
from fullgrad.vision.models import LoadedModel
from fullgrad.viz.layers import Layer, layers_of
from fullgrad.viz.overlay import picture

TOP = 5
PACKAGES = ("torchvision", "timm", "numpy", "pillow", "matplotlib")


@dataclass(frozen=True, slots=True)
class Task:
    """What to do with every photograph.

    Args:
        model: the classifier.
        names: of its classes, if they are known.
        target: class to explain; None for the predicted one.
        method: that makes the maps.
        options: of it.
        layers: whether the map of each stage is kept.
    """

    model: LoadedModel
    names: tuple[str, ...] | None
    target: int | None
    method: Method
    options: dict[str, Any]
    layers: bool = False

    def name(self, index: int) -> str:
        """Of a class, for people."""
        return self.names[index] if self.names else f"class {index}"


@dataclass(frozen=True, slots=True, eq=False)
class Explained:
    """One photograph, explained.

    Args:
        photograph: the file.
        view: what the model saw of it.
        saliency: float32 of shape (height, width).
        target: the explained class.
        logit: its output.
        probability: its softmax.
        top: the most probable classes and their probabilities.
        input_sum: the input term's share of the logit.
        stage_sums: and the bias terms' by stage, the module path's first component.
        residual: logit minus all shares.
        relative_residual: compared with the sum of the terms' absolute values.
        tolerance: for the relative residual.
        layers: the stages with their maps, if they are kept.
    """

    photograph: Photograph
    view: Any
    saliency: np.ndarray[Any, Any]
    target: int
    logit: float
    probability: float
    top: tuple[tuple[int, float], ...]
    input_sum: float
    stage_sums: dict[str, float]
    residual: float
    relative_residual: float
    tolerance: float
    layers: tuple[Layer, ...] = ()


def logits_of(model: LoadedModel, batch: Tensor) -> Tensor:
    """The model's output for each class.

    Raises:
        ModelLoadError: the model fails, or its output is not of shape (batch, classes).
    """
    try:
        with torch.no_grad():
            output, _ = main_tensor(model.module(batch))
    except FullGradError as error:
        raise ModelLoadError(f"{model.spec} is not an image classifier: {error}") from error
    except Exception as error:
        size = "x".join(map(str, batch.shape))
        raise ModelLoadError(
            f"{model.spec} fails on an input of shape {size}: {type(error).__name__}: {error}"
        ) from error
    if output.dim() != 2 or output.shape[0] != batch.shape[0]:
        raise ModelLoadError(
            f"{model.spec} is not an image classifier: its output has shape "
            f"{tuple(output.shape)}, not ({batch.shape[0]}, classes)"
        )
    return output


def number_of_classes(model: LoadedModel) -> int:
    """How many classes the model tells apart, by trying it on a black image.

    Raises:
        ModelLoadError: it does not work as an image classifier.
    """
    height, width = model.preprocessing.crop
    return logits_of(model, torch.zeros(1, 3, height, width, device=model.device)).shape[1]


def explain(task: Task, photographs: Sequence[Photograph]) -> list[Explained]:
    """Explain photographs in one batch.

    Args:
        task: model and options.
        photographs: at least one.

    Returns:
        One result for each.

    Raises:
        FullGradError: see :func:`fullgrad.decompose`.
    """
    views = [display_image(p.image, task.model.preprocessing) for p in photographs]
    inputs = torch.stack([preprocess(p.image, task.model.preprocessing) for p in photographs])
    inputs = inputs.to(task.model.device)
    logits = logits_of(task.model, inputs)
    if task.target is None:
        targets = logits.argmax(1)
    else:
        targets = torch.full((len(logits),), task.target, device=logits.device)
    decomposition = decompose(task.model.module, inputs, targets)
    if task.method.name == "fullgrad":  # its terms are here already
        maps = saliency_from_decomposition(decomposition, **task.options)
    else:
        maps = methods.attribute(
            task.method, task.model.module, inputs, targets, batch_size=len(inputs), **task.options
        )
    probabilities = logits.double().softmax(1).cpu()
    stages = decomposition.by_module(depth=1)
    results = []
    for i, photograph in enumerate(photographs):
        target = int(targets[i])
        values, classes = probabilities[i].topk(min(TOP, logits.shape[1]))
        results.append(
            Explained(
                photograph=photograph,
                view=views[i],
                saliency=maps[i, 0].detach().float().cpu().numpy(),
                target=target,
                logit=float(decomposition.output[i]),
                probability=float(probabilities[i, target]),
                top=tuple(zip(classes.tolist(), values.tolist(), strict=True)),
                input_sum=float(decomposition.input_sums[i]),
                stage_sums={key: float(sums[i]) for key, sums in stages.items()},
                residual=float(decomposition.residual[i]),
                relative_residual=float(decomposition.relative_residual[i]),
                tolerance=decomposition.tolerance,
                layers=layers_of(decomposition, sample=i) if task.layers else (),
            )
        )
    return results


def shares(result: Explained) -> list[tuple[str, float]]:
    """Where the logit comes from: (input or stage, sum), adding up to it but for the residual."""
    stages = [(name or "(model)", value) for name, value in result.stage_sums.items()]
    return [("input", result.input_sum), *stages]


def versions() -> dict[str, str | None]:
    """Of Python, fullgrad and the packages that have a part in the result."""
    found: dict[str, str | None] = {"fullgrad": __version__}
    found["python"] = platform.python_version()
    found["torch"] = torch.__version__  # with its build: "+cu132", which metadata leaves out
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def model_record(model: LoadedModel) -> dict[str, Any]:
    """Which model it was, as JSON-ready values."""
    return {
        "spec": model.spec,
        "weights": model.weights,
        "trained": model.trained,
        "checkpoint": printable(model.checkpoint) if model.checkpoint else None,
        "sha256": model.sha256,
        "device": str(model.device),
        "preprocessing": asdict(model.preprocessing),
    }


def record(
    task: Task, result: Explained, command: Sequence[str], options: dict[str, Any]
) -> dict[str, Any]:
    """All that is needed to trust and to repeat one result, as JSON-ready values.

    Args:
        task: what was asked for.
        result: what came out.
        command: the command line.
        options: its options, defaults filled in.
    """
    model, photograph = task.model, result.photograph
    settings = task.method.settings(task.options)
    return {
        "image": {
            "path": printable(photograph.path),
            "sha256": photograph.sha256,
            "width": photograph.size[0],
            "height": photograph.size[1],
            "mode": photograph.mode,
            "frames": photograph.frames,
            "frame_used": 0,
        },
        "target": {
            "index": result.target,
            "name": task.names[result.target] if task.names else None,
            "chosen": "predicted" if task.target is None else "given",
            "logit": result.logit,
            "probability": result.probability,
        },
        "top": [
            {
                "index": index,
                "name": task.names[index] if task.names else None,
                "probability": probability,
            }
            for index, probability in result.top
        ],
        "decomposition": {
            "residual": result.residual,
            "relative_residual": result.relative_residual,
            "tolerance": result.tolerance,
            "shares": [
                {"of": name, "sum": value, "share": value / result.logit if result.logit else None}
                for name, value in shares(result)
            ],
        },
        "saliency": {
            "method": task.method.name,
            "options": {k: _plain(v) for k, v in asdict(settings).items()},
            "height": result.saliency.shape[0],
            "width": result.saliency.shape[1],
            "least": float(result.saliency.min()),
            "most": float(result.saliency.max()),
        },
        "model": model_record(model),
        "versions": versions(),
        "command": shlex.join(map(printable, command)),
        "options": options,
    }


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def overlay_of(task: Task, result: Explained) -> Any:
    """The labelled picture of one result, a matplotlib figure."""
    title = (
        f"{task.name(result.target)} (class {result.target}): probability "
        f"{result.probability:.1%}, logit {result.logit:.2f}"
    )
    caption = result.photograph.path.name
    sign = task.options.get("psi") == "signed"
    return picture(result.view, result.saliency, title, caption, method=task.method.name, sign=sign)

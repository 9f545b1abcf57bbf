"""The number that is explained in each image, whatever the target."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fullgrad.engine.lending import lent, own
from fullgrad.engine.module_path import watched
from fullgrad.engine.targets import Target, main_tensor, predicts, select
from fullgrad.errors import FullGradError, ModelLoadError, OutputError, TargetError
from fullgrad.targets import Contrast, SeveralClasses
from fullgrad.vision.classification import logits_of, refuse_no_classes
from fullgrad.vision.models import LoadedModel
from fullgrad.vision.split import contrast


@dataclass(frozen=True, slots=True, eq=False)
class Explained:
    """What is explained in a batch of images.

    Args:
        target: as the library's calls take it, nothing in it left to the output.
        numbers: that are explained, of a comparison the first class's outputs, shape (B,).
        classes: of each image, shape (B,); None where it is no class's output.
        logits: of all classes, shape (B, classes); None where the outputs are no classes.
    """

    target: Target
    numbers: Tensor
    classes: Tensor | None
    logits: Tensor | None


def explained_by(
    model: LoadedModel, inputs: Tensor, target: Target, rather_than: int | None
) -> Explained:
    """Run the model, and find the number that a target means.

    Raises:
        ModelLoadError: a class is meant, and the model is not an image classifier.
        OutputError: the output is not finite.
        TargetError: the target does not fit the output, or is no class and is compared with one.
    """
    if target is None or isinstance(target, int):
        logits = _finite(logits_of(model, inputs))
        refuse_no_classes(model, logits.shape[1])
        classes = logits.argmax(1) if target is None else torch.full((len(logits),), target)
        classes = classes.to(logits.device)
        explained = classes if rather_than is None else contrast(logits, classes, rather_than)
        return Explained(explained, select(logits, classes).output, classes, logits)
    if rather_than is not None:
        raise TargetError(
            "rather_than compares one class with another: for any other target leave it out, and "
            f"give target=fullgrad.targets.margin(target, {rather_than})"
        )
    with lent(model.module), watched(model.module, target), torch.no_grad():
        try:
            output = model.module(own(inputs))
        except Exception as error:
            size = "x".join(map(str, inputs.shape))
            raise ModelLoadError(
                f"{model.spec} fails on an input of shape {size}: {type(error).__name__}: {error}"
            ) from error
        found = select(output, target)
    _finite(found.output)
    settled = found.target if predicts(target) else target
    return Explained(settled, found.output, None, _logits(output) if _of_classes(target) else None)


def _of_classes(target: Target) -> bool:
    """Whether a target is made of classes' outputs alone, so that probabilities mean something."""
    if isinstance(target, Contrast):
        return all(_of_classes(part) for part in target.parts)
    return isinstance(target, (int, SeveralClasses)) or target is None


def _logits(output: object) -> Tensor | None:
    try:
        tensor, _ = main_tensor(output)
    except FullGradError:
        return None
    return tensor if tensor.dim() == 2 else None


def _finite(values: Tensor) -> Tensor:
    if not bool(torch.isfinite(values).all()):
        raise OutputError("the model's output holds NaN or infinite values; nothing to explain")
    return values

"""A classifier's outputs for images, and what is wrong when there are none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fullgrad.engine.targets import main_tensor
from fullgrad.errors import FullGradError, ModelLoadError
from fullgrad.vision.models import LoadedModel

if TYPE_CHECKING:
    pass


def one_line(error: BaseException) -> str:
    """Return what went wrong, on one line."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return "out of memory"
    text = str(error) if isinstance(error, FullGradError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def logits_of(model: LoadedModel, batch: Tensor) -> Tensor:
    """Return the model's output for each class, shape (batch, classes).

    Raises:
        ModelLoadError: the model fails, or its output is not of that shape.
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
    """Return how many classes the model tells apart, by trying it on a black image.

    Raises:
        ModelLoadError: it does not work as an image classifier.
    """
    height, width = model.preprocessing.crop
    return logits_of(model, torch.zeros(1, 3, height, width, device=model.device)).shape[1]

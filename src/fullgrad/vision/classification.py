"""A classifier's outputs for images, and what is wrong when there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from fullgrad.engine.targets import Target, main_tensor
from fullgrad.errors import FullGradError, ImageError, ModelLoadError
from fullgrad.targets import Known, parse, similarity_to_input
from fullgrad.targets.names import WAY_OUT
from fullgrad.vision.images import input_of, preprocess, read_photograph
from fullgrad.vision.models import LoadedModel


def one_line(error: BaseException) -> str:
    """Return what went wrong, on one line."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return "out of memory"
    text = str(error) if isinstance(error, FullGradError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def logits_of(model: LoadedModel, batch: Tensor, way_out: str | None = None) -> Tensor:
    """Return the model's output for each class, shape (batch, classes).

    Args:
        model: a classifier.
        batch: of inputs.
        way_out: what helps where the output has another shape; None for a target.

    Raises:
        ModelLoadError: the model fails, or its output is not of that shape.
    """
    try:
        with torch.no_grad():
            output, _ = main_tensor(model.module(batch))
    except FullGradError as error:
        raise ModelLoadError(f"{model.spec} is not an image classifier: {error}") from error
    except Exception as error:
        raise _failed(model, batch, error) from error
    if output.dim() != 2 or output.shape[0] != batch.shape[0]:
        raise ModelLoadError(
            f"{model.spec} is not an image classifier: its output has shape "
            f"{tuple(output.shape)}, not ({batch.shape[0]}, classes); "
            + (way_out or f"name what to explain in it with --target, such as {_example(output)}")
        )
    return output


def refuse_no_classes(model: LoadedModel, count: int | None) -> None:
    """Refuse to explain the only output as a class.

    Raises:
        ModelLoadError: there is one.
    """
    if count == 1:
        raise ModelLoadError(
            f"{model.spec} returns one number for each image, and no classes: explain it with "
            "--target value:0, or value:0:UNIT"
        )


def classes_if_any(model: LoadedModel) -> int | None:
    """Return the size of the output's second axis; None where it has none.

    Raises:
        ModelLoadError: the model fails on a black image.
    """
    black = _black(model)
    with torch.no_grad():
        try:
            output = model.module(black)
        except Exception as error:
            raise _failed(model, black, error) from error
    try:
        tensor, _ = main_tensor(output)
    except FullGradError:
        return None
    return tensor.shape[1] if tensor.dim() > 1 else None


def number_of_classes(model: LoadedModel, way_out: str | None = None) -> int:
    """Return how many classes the model tells apart, by trying it on a black image.

    Args:
        model: a classifier.
        way_out: as for :func:`logits_of`.

    Raises:
        ModelLoadError: it does not work as an image classifier.
    """
    return logits_of(model, _black(model), way_out).shape[1]


def _black(model: LoadedModel) -> Tensor:
    height, width = model.preprocessing.crop
    return torch.zeros(1, model.preprocessing.channels, height, width, device=model.device)


def _failed(model: LoadedModel, batch: Tensor, error: Exception) -> ModelLoadError:
    size = "x".join(map(str, batch.shape))
    return ModelLoadError(
        f"{model.spec} fails on an input of shape {size}: {type(error).__name__}: {error}"
        f"{channels_hint(model, batch)}"
    )


def channels_hint(model: LoadedModel, batch: Tensor) -> str:
    """Return a hint where the model's first convolution takes another number of channels."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    first = next((m for m in model.module.modules() if isinstance(m, kinds)), None)
    if first is None or first.in_channels == batch.shape[1]:
        return ""
    count = first.in_channels
    return (
        f". Its first convolution takes {count} channel{'s' * (count != 1)}, and the input has "
        f"{batch.shape[1]}: give --mean and --std with {count} number{'s' * (count != 1)} each"
    )


def _example(output: Tensor) -> str:
    if output.dim() == 1:
        return "value"
    return "'region:3' or '3,10,20'" if output.dim() == 4 else "'token:0:3'"


def target_of(
    text: str,
    model: LoadedModel,
    names: Sequence[str] | None,
    classes: int | None,
    way_out: str = WAY_OUT,
) -> Target:
    """Read a target that is written as :data:`fullgrad.targets.FORMS` shows.

    Args:
        text: the target.
        model: whose view of a mask, and whose embedding of another photograph are meant.
        names: of the classes, if they are known.
        classes: how many there are, if that is known.
        way_out: what helps where names are not known.

    Raises:
        TargetError: see :func:`fullgrad.targets.parse`.
        ImageError: a picture that it names cannot be read.
    """

    def read_mask(path: str) -> Tensor:
        plain = replace(model.preprocessing, interpolation="nearest", mean=(0.0,), std=(1.0,))
        mask = preprocess(read_photograph(path).image, plain)[0] > 0.5
        if not bool(mask.any()):
            raise ImageError(f"the mask {path} has no white part where the model looks")
        return mask

    def embed(path: str) -> Tensor:
        x = input_of(read_photograph(path), model.preprocessing)[None].to(model.device)
        return similarity_to_input(model.module, x).to

    return parse(text, Known(names, classes, read_mask, embed, way_out))

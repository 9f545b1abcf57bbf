"""Any saliency method as the ``explain_func`` of a Quantus metric."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fullgrad.engine.inputs import check_one
from fullgrad.engine.wrappers import unwrap
from fullgrad.errors import InputError
from fullgrad.methods import attribute


def _model_tensor(model: nn.Module) -> torch.Tensor:
    """A tensor of the model's device and type."""
    tensors = (*model.parameters(), *model.buffers())
    return next((t for t in tensors if t.is_floating_point()), torch.zeros(()))


def explain(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    *,
    method: Any = "fullgrad",
    device: Any = None,
    **options: Any,
) -> NDArray[Any]:
    """The maps of a batch, with the signature of Quantus' ``explain_func``.

    Options for it are passed to a metric as ``explain_func_kwargs``; Quantus adds ``device``.

    Args:
        model: the model itself, as Quantus passes it.
        inputs: array or tensor of shape (B, C, *positions), or as ``layout=`` says; read as
            numbers of the model's type, on its device.
        targets: one class per sample, or None for the predicted ones.
        method: any method that :func:`fullgrad.methods.attribute` takes.
        device: where the model is; None asks the model.
        **options: of :func:`fullgrad.methods.attribute` and of the method.

    Returns:
        Shape (B, 1, *positions).

    Raises:
        ValueError: the model is not on ``device``, or an unknown option.
        FullGradError: as :func:`fullgrad.methods.attribute`.
    """
    like = _model_tensor(unwrap(model))
    if device is not None and not _same(_device(device), like.device):
        raise ValueError(f"device is {device}, but the model is on {like.device}; move the model")
    x = _numbers(inputs).detach().to(like.dtype)
    check_one(x, "inputs")
    x = x.to(like.device)
    if isinstance(targets, np.ndarray):
        targets = torch.from_numpy(np.ascontiguousarray(targets))
    found: NDArray[Any] = attribute(method, model, x, targets, **options).cpu().numpy()
    return found


def _numbers(inputs: Any) -> torch.Tensor:
    try:
        return torch.as_tensor(np.asarray(inputs) if isinstance(inputs, list) else inputs)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"inputs must be an array of numbers: {error}") from error


def _device(device: Any) -> torch.device:
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device is {device!r}, which is invalid: {error}") from error


def _same(asked: torch.device, actual: torch.device) -> bool:
    return asked.type == actual.type and asked.index in (None, actual.index)

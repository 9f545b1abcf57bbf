"""Any saliency method as the ``explain_func`` of a Quantus metric."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

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
    like = _model_tensor(model)
    if device is not None and not _same(torch.device(device), like.device):
        raise ValueError(f"device is {device}, but the model is on {like.device}; move the model")
    x = torch.as_tensor(np.asarray(inputs) if isinstance(inputs, list) else inputs)
    x = x.detach().to(like.device, like.dtype)
    if isinstance(targets, np.ndarray):
        targets = torch.from_numpy(np.ascontiguousarray(targets))
    found: NDArray[Any] = attribute(method, model, x, targets, **options).cpu().numpy()
    return found


def _same(asked: torch.device, actual: torch.device) -> bool:
    return asked.type == actual.type and asked.index in (None, actual.index)

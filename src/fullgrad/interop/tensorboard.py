"""Maps of a model in training, logged to TensorBoard: how what it looks at changes.

The writer is a ``torch.utils.tensorboard.SummaryWriter``, or anything else with its ``add_image``
and ``add_scalar``; TensorBoard itself is not imported.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fullgrad import methods
from fullgrad.axes.layouts import InputLayout
from fullgrad.engine.lending import lent
from fullgrad.engine.targets import Target, select
from fullgrad.engine.wrappers import unwrap
from fullgrad.errors import InputError
from fullgrad.methods import Method
from fullgrad.methods.attribution import indices
from fullgrad.viz.style import Array, colors, limit_of, normalize, signed_colors


def log_maps(
    writer: Any,
    model: nn.Module,
    inputs: Tensor,
    step: int,
    *,
    target: Target = None,
    images: Tensor | None = None,
    method: str | Method = "fullgrad",
    tag: str = "maps",
    layout: InputLayout = None,
    **options: Any,
) -> Tensor:
    """Explain fixed samples with a model in training, and log the maps to TensorBoard.

    It may be called at any point of a training step, inside ``torch.no_grad()``,
    ``torch.inference_mode()`` and ``torch.autocast`` too. Training goes on as if it had not been
    called: flags, parameters, buffers, ``.grad`` and the random state are as before. The model is
    explained in evaluation mode, in the precision of its parameters.

    Sample i has the image ``TAG/i``, its map, right of the image if there is one, and the scalar
    ``TAG/explained/i``, the number that the map explains. Maps are drawn each on its own scale, as
    :func:`fullgrad.viz.picture` does: without sign from dark to bright, with a sign from blue
    through white at 0 to red.

    Args:
        writer: of ``torch.utils.tensorboard``.
        model: any ``nn.Module``; wrapped ones (``DataParallel``) are unwrapped.
        inputs: as the model takes them, shape (B, C, height, width) or as ``layout`` says.
        step: of the training, for TensorBoard's slider.
        target: class, one class per sample, or a callable; None for the class that is predicted,
            which may change from step to step.
        images: how the samples look, shape (B, 3 or 1, height, width), uint8 or numbers from 0 to
            1; without, only maps are drawn, since how inputs were prepared is not known.
        method: a method's name ('fullgrad methods' lists them).
        tag: what the names in TensorBoard begin with.
        layout: what the inputs' axes hold; see :func:`fullgrad.methods.attribute`.
        **options: of the method.

    Returns:
        The maps, shape (B, 1, height, width).

    Raises:
        InputError: maps that have not two positions, or images that do not fit them.
        FullGradError: see :func:`fullgrad.methods.attribute`.
        MissingDependencyError: matplotlib, whose colors are used, is not installed.

    Example:
        >>> class Writer:
        ...     def add_image(self, name, pixels, step, dataformats):
        ...         print(name, step, pixels.shape, dataformats)
        ...     def add_scalar(self, name, value, step):
        ...         print(name, step)
        >>> net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
        >>> found = log_maps(Writer(), net, torch.rand(1, 3, 8, 8), step=5, target=1)
        maps/0 5 (8, 8, 3) HWC
        maps/explained/0 5
        >>> net.training, found.shape
        (True, torch.Size([1, 1, 8, 8]))
    """
    chosen = methods.get(method) if isinstance(method, str) else method
    with torch.inference_mode(False), torch.no_grad(), _full_precision(inputs):
        inputs = inputs.clone()  # of inference mode, else
        numbers, target = _explained(model, inputs, target)
        found = methods.attribute(chosen, model, inputs, target, layout=layout, **options)
        if found.dim() != 4:
            raise InputError(f"maps of shape {tuple(found.shape[2:])} cannot be logged as images")
        shown = None if images is None else _pixels(images, found)
    sign = chosen.complete or options.get("psi") == "signed" or bool(options.get("signed"))
    for i, values in enumerate(found[:, 0].float().cpu().numpy()):
        drawn = signed_colors(values, limit_of(values)) if sign else colors(normalize(values))
        both = drawn if shown is None else np.concatenate([shown[i], drawn], 1)
        writer.add_image(f"{tag}/{i}", both, step, dataformats="HWC")
        writer.add_scalar(f"{tag}/explained/{i}", float(numbers[i]), step)
    return found


def _full_precision(inputs: Tensor) -> Any:
    return torch.autocast(inputs.device.type, enabled=False)


def _explained(model: nn.Module, inputs: Tensor, target: Any) -> tuple[Tensor, Any]:
    """The explained numbers, shape (B,), and a target in which predicted classes are fixed."""
    model = unwrap(model)
    with lent(model), torch.no_grad():
        found = select(model(inputs), indices(target, inputs), len(inputs))
    return found.output, found.target


def _pixels(images: Tensor, maps: Tensor) -> Array:
    """Images as uint8, shape (B, height, width, 3)."""
    size = (len(maps), *maps.shape[2:])
    fits = images.dim() == 4 and images.shape[1] in (1, 3)
    if not fits or (len(images), *images.shape[2:]) != size:
        wanted = (len(maps), 3, *maps.shape[2:])
        raise InputError(f"images must have the shape {wanted}, not {tuple(images.shape)}")
    values = images.detach().cpu()
    if values.dtype != torch.uint8:
        if not values.is_floating_point() or not bool(((values >= 0) & (values <= 1)).all()):
            raise InputError("images must be uint8, or numbers from 0 to 1")
        values = (values.float() * 255).round().to(torch.uint8)
    found: Array = values.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    return found

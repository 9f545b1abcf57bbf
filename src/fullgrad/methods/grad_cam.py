"""Grad-CAM and LayerCAM, on the layer of any architecture that has a grid of positions.

Which axes of a layer are positions is followed from the input on, so convolutional nets, token
sequences, windows and channels-last networks need neither a layer nor a ``reshape_transform``.
Numbers without a place in the input, such as a class token's, have no part: neither in the map
nor in Grad-CAM's mean gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad.axes.layouts import ActivationLayouts, InputLayout
from fullgrad.axes.placement import Placement, arranged, on_grid
from fullgrad.errors import MethodError
from fullgrad.methods.activations import (
    Activation,
    Recording,
    channels_of,
    gradients,
    mean_over_positions,
    stretched,
)
from fullgrad.methods.layer_choice import default_layer
from fullgrad.methods.registry import Method, unlike


@dataclass(frozen=True, slots=True)
class LayerCamOptions:
    """Where a class activation map looks.

    Args:
        layer: path of the module whose output is read, as ``model.named_modules()`` calls it;
            None for the last one whose output has positions that the explained number depends on,
            and through which all of the network runs
            (:func:`fullgrad.methods.layer_choice.default_layer`).
        activation_layouts: layouts of activations that axis propagation cannot follow; see
            :func:`fullgrad.saliency`.

    Raises:
        ValueError: values of other types.
    """

    layer: str | None = None
    activation_layouts: ActivationLayouts | None = None

    def __post_init__(self) -> None:
        if not (self.layer is None or isinstance(self.layer, str)):
            raise ValueError(f"layer must be a module's path or None, not {self.layer!r}")


@dataclass(frozen=True, slots=True)
class GradCamOptions:
    """Where Grad-CAM looks.

    Args:
        layer: see :class:`LayerCamOptions`.
        relu: keep positive numbers only, as in the paper.
        activation_layouts: see :class:`LayerCamOptions`.

    Raises:
        ValueError: values of other types.
    """

    layer: str | None = None
    relu: bool = True
    activation_layouts: ActivationLayouts | None = None

    def __post_init__(self) -> None:
        LayerCamOptions(self.layer)
        if not isinstance(self.relu, bool):
            raise ValueError(f"relu must be True or False, not {self.relu!r}")  # noqa: TRY004


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """A layer's numbers with their gradient, and where they lie."""

    value: Tensor
    gradient: Tensor
    placement: Placement
    size: tuple[int, ...]


def _layer(
    method: str,
    model: nn.Module,
    inputs: Tensor,
    target: Any,
    layer: str | None,
    extra: Any,
    layout: InputLayout,
    activation_layouts: ActivationLayouts | None,
) -> _Layer:
    modules = {path: module for path, module in model.named_modules() if path}
    if layer is not None and layer not in modules:
        raise MethodError(
            f"{method}: the model has no layer {layer!r}; {unlike(layer, [*modules])}"
        )
    fresh = partial(Recording, method, model, inputs, extra, layout, activation_layouts)
    path, call = default_layer(fresh(), target) if layer is None else (layer, None)
    recording = fresh()
    noted: list[Activation] = []
    calls: list[Any] = []
    modules[path].register_forward_hook(recording.noted(noted, path, values=True))
    modules[path].register_forward_hook(lambda module, args, output: calls.append(output))
    output = recording.run(target)
    if call is None and len(calls) != 1:
        raise MethodError(
            f"{method} needs a layer that is called once; {path} is called {len(calls)} times"
        )
    chosen = next((a for a in noted if call in (None, a.call)), None)
    if chosen is None:
        raise MethodError(
            f"{method} needs a layer that returns a tensor which depends on the input; {path} "
            f"returns {type(calls[0]).__name__} without one"
        )
    placement = recording.place(chosen)
    if placement is None or max(placement.extents) < 2:
        raise MethodError(
            f"{method} needs a layer whose output has more than one position of the input's grid; "
            f"{path} returns {tuple(chosen.shape)} without: give another layer="
        )
    assert chosen.value is not None
    (gradient,) = gradients(output, [chosen])
    if gradient is None:
        raise MethodError(f"{method}: the explained output does not depend on {path}: give layer=")
    return _Layer(chosen.value, gradient, placement, recording.grid.sizes)


def grad_cam(
    model: nn.Module,
    inputs: Tensor,
    target: Any,
    *,
    layer: str | None,
    relu: bool,
    additional_forward_args: Any = None,
    layout: InputLayout = None,
    activation_layouts: ActivationLayouts | None = None,
) -> Tensor:
    """The channels of one layer, weighted by their mean gradient over positions, and summed.

    Returns:
        Shape (B, 1, *positions).
    """
    at = _layer(
        "grad_cam",
        model,
        inputs,
        target,
        layer,
        additional_forward_args,
        layout,
        activation_layouts,
    )
    view, positions = arranged(at.value, at.placement)
    weighted = mean_over_positions(at.gradient, at.placement) * view
    return _drawn(weighted, positions, at, relu)


def layer_cam(
    model: nn.Module,
    inputs: Tensor,
    target: Any,
    *,
    layer: str | None,
    additional_forward_args: Any = None,
    layout: InputLayout = None,
    activation_layouts: ActivationLayouts | None = None,
) -> Tensor:
    """The numbers of one layer, each times its gradient where that is positive, and summed.

    Returns:
        Shape (B, 1, *positions), nothing negative.
    """
    at = _layer(
        "layer_cam",
        model,
        inputs,
        target,
        layer,
        additional_forward_args,
        layout,
        activation_layouts,
    )
    view, positions = arranged(at.value, at.placement)
    weighted = arranged(at.gradient, at.placement)[0].clamp(min=0) * view
    return _drawn(weighted, positions, at, True)


def _drawn(weighted: Tensor, positions: tuple[int, ...], at: _Layer, relu: bool) -> Tensor:
    channels = channels_of(weighted, positions)
    coarse = on_grid(weighted.sum(channels) if channels else weighted, at.placement)
    return stretched(torch.relu(coarse) if relu else coarse, at.placement, at.size)


def _has_sign(options: GradCamOptions) -> bool:
    return not options.relu


METHODS = (
    Method(
        "grad_cam",
        grad_cam,
        options=GradCamOptions,
        signed=_has_sign,
        call_options=("layout",),
        about="The channels of one layer, weighted by their mean gradient, summed and upsampled.",
        reference="Selvaraju, Cogswell, Das, Vedantam, Parikh & Batra 2017, Grad-CAM",
    ),
    Method(
        "layer_cam",
        layer_cam,
        options=LayerCamOptions,
        signed=False,
        call_options=("layout",),
        about="The numbers of one layer times their positive gradients, summed and upsampled.",
        reference="Jiang, Zhang, Hou, Cheng & Wei 2021, LayerCAM",
    ),
)

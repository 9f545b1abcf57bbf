"""The mean of three complete maps that ask one question in different ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fullgrad.axes.layouts import ActivationLayouts, InputLayout
from fullgrad.axes.spread import MassPlacement
from fullgrad.engine.inputs import Inputs
from fullgrad.engine.request import Detached, Mode
from fullgrad.engine.targets import Target
from fullgrad.errors import OptionError
from fullgrad.maps.complete import CompleteMap, Depth, complete_map
from fullgrad.maps.complete_sink import in_order
from fullgrad.maps.minibatches import BatchSize
from fullgrad.maps.path import Baseline, Steps
from fullgrad.operations.linearization import Named


class _Part(NamedTuple):
    """One of the maps: its weight, and what sets it apart."""

    weight: float
    linearization: Named
    depth: Depth
    in_steps: bool


# Half in steps; half in one step, by the quotient over all of it and by the linear map at its end.
_PARTS = (
    _Part(0.5, "quotient", "early", in_steps=True),
    _Part(0.25, "difference", "mean", in_steps=False),
    _Part(0.25, "balanced", "mean", in_steps=False),
)


def combined_map(
    model: nn.Module,
    inputs: Inputs,
    target: Target = None,
    *,
    placement: MassPlacement = "receptive_field",
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    mode: Mode = "eval",
    detached: Detached = "error",
    tolerance: float | None = None,
    layout: InputLayout = None,
    activation_layouts: ActivationLayouts | None = None,
    baseline: Baseline = "mean",
    steps: Steps = "auto",
    batch_size: BatchSize = None,
    memory: int | None = None,
    top: int | None = None,
) -> CompleteMap:
    """What sets the input apart from a baseline; in three ways where they differ, and their mean.

    How the output changes on the way from the baseline to the input can be asked in many small
    steps or in one. Half of the map is in steps, as the method ``path_fullgrad``; a quarter is in
    one step by difference quotients, as ``difference_fullgrad``; a quarter is in one step by the
    balanced linear maps at the input, as ``difference_fullgrad`` with
    ``linearization="balanced"``. In tests the mean does better than each of them on most networks,
    not on all (docs/recommendation.md). Each is a complete map, proved by itself, and so is the
    mean. With ``steps="auto"`` the first of the three is the whole map of samples for which it
    takes one step, because that one adds up.

    Args:
        model: see :func:`fullgrad.complete_map`.
        inputs: see :func:`fullgrad.complete_map`.
        target: see :func:`fullgrad.complete_map`.
        placement: see :func:`fullgrad.complete_map`.
        additional_forward_args: see :func:`fullgrad.decompose`.
        forward_kwargs: see :func:`fullgrad.decompose`.
        mode: see :func:`fullgrad.decompose`.
        detached: see :func:`fullgrad.decompose`.
        tolerance: see :func:`fullgrad.decompose`.
        layout: see :func:`fullgrad.decompose`.
        activation_layouts: see :func:`fullgrad.decompose`.
        baseline: see :func:`fullgrad.complete_map`; not None.
        steps: of the first of the three; see :func:`fullgrad.complete_map`.
        batch_size: see :func:`fullgrad.saliency`.
        memory: see :func:`fullgrad.saliency`.
        top: see :func:`fullgrad.saliency`.

    Returns:
        The frozen :class:`CompleteMap`; ``steps`` are those of the first of the three.

    Raises:
        ValueError: a value that an option cannot have.
        OptionError: no baseline, or an option that there is not; a ``TypeError``.
        FullGradError: as :func:`fullgrad.complete_map`.

    Example:
        >>> import torch
        >>> from fullgrad.maps.combined import combined_map
        >>> conv, head = torch.nn.Conv2d(3, 2, 3, stride=2), torch.nn.Linear(2 * 3 * 3, 4)
        >>> model = torch.nn.Sequential(conv, torch.nn.ReLU(), torch.nn.Flatten(), head)
        >>> images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> found = combined_map(model, images, target=1)
        >>> total = found.map.sum() + found.elsewhere
        >>> found.map.shape, torch.allclose(total, found.output.double(), atol=1e-5)
        (torch.Size([1, 1, 8, 8]), True)
    """
    if baseline is None:
        raise OptionError(
            "this map says what sets the input apart from a baseline: give baseline='mean', a "
            "number or a tensor"
        )
    whole = partial(
        complete_map,
        model,
        inputs,
        target,
        placement=placement,
        additional_forward_args=additional_forward_args,
        forward_kwargs=forward_kwargs,
        mode=mode,
        detached=detached,
        tolerance=tolerance,
        layout=layout,
        activation_layouts=activation_layouts,
        batch_size=batch_size,
        memory=memory,
        top=top,
    )
    return combined(whole, baseline=baseline, steps=steps)


def combined(
    whole: Callable[..., CompleteMap], *, steps: Steps = "auto", **options: Any
) -> CompleteMap:
    """The mean of the three maps that a function gives; see :func:`combined_map`.

    Args:
        whole: takes the options of :func:`fullgrad.complete_map`.
        steps: see :func:`combined_map`.
        options: the same for each of the three.
    """
    found = []
    for part in _PARTS:
        own = {"linearization": part.linearization, "depth": part.depth}
        taken = steps if part.in_steps else 1
        found.append(whole(terms="input", steps=taken, **own, **options))
        if part.in_steps and steps == "auto" and bool((found[0].steps == 1).all()):
            return found[0]
    first = found[0]
    alone = (first.steps == 1) & (steps == "auto")
    mean = partial(_weighted, alone)
    names = in_order([list(each.elsewhere_by_stage) for each in found])
    none = torch.zeros_like(first.residual)
    stages = {n: mean([e.elsewhere_by_stage.get(n, none) for e in found]) for n in names}
    maps = tuple(mean(own) for own in zip(*(each.maps for each in found), strict=True))
    return CompleteMap(
        map=_like(first.map, maps),
        elsewhere=mean([each.elsewhere for each in found]),
        elsewhere_by_stage=stages,
        output=mean([each.output for each in found]),
        residual=mean([each.residual for each in found]),
        target=first.target,
        input_names=first.input_names,
        linearization=", ".join(part.linearization for part in _PARTS),
        zero=first.zero,
        layers=tuple(dict.fromkeys(name for each in found for name in each.layers)),
        steps=first.steps,
    )


def _weighted(alone: Tensor, values: Sequence[Tensor]) -> Tensor:
    """The first of the values for some samples, and the mean of all for the others.

    Args:
        alone: which samples, shape (B,); with k targets (B, k).
        values: of this shape, and what follows it.
    """
    mean = torch.stack([p.weight * v for p, v in zip(_PARTS, values, strict=True)]).sum(0)
    return torch.where(alone.view(*alone.shape, *[1] * (mean.dim() - alone.dim())), values[0], mean)


def _like(form: Any, maps: tuple[Tensor, ...]) -> Any:
    """Maps in the form of others: a tensor, a dict or a tuple."""
    if isinstance(form, Tensor):
        return maps[0]
    return dict(zip(form, maps, strict=True)) if isinstance(form, dict) else maps

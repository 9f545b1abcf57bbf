"""What happens when one cell after the other is removed, by Captum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad.axes.layouts import InputLayout
from fullgrad.engine.inputs import baseline_like, check_baseline
from fullgrad.methods.captum_adapter import Explained, captum, speaking_plainly
from fullgrad.methods.controls import cells_of
from fullgrad.methods.positions import channels_first, letters, positions_of
from fullgrad.methods.registry import Method

_TOGETHER = 8  # images without a cell that go through the model together


@dataclass(frozen=True, slots=True)
class OcclusionOptions:
    """What is removed.

    Args:
        cell: positions along a cell's side.
        baseline: what a removed cell becomes: a number, a tensor of shape (B or 1, C, *positions),
            or ``"mean"``, each sample's mean over its positions for each channel.

    Raises:
        ValueError: a cell below 1, or another baseline than these.
    """

    cell: int = 16
    baseline: float | Tensor | str = "mean"

    def __post_init__(self) -> None:
        if type(self.cell) is not int or self.cell < 1:
            raise ValueError(f"cell must be a positive integer, not {self.cell!r}")
        check_baseline(self.baseline, or_mean=True)


def occlusion(
    model: nn.Module,
    inputs: Tensor,
    target: Any,
    *,
    cell: int,
    baseline: float | Tensor | str,
    additional_forward_args: Any = None,
    layout: InputLayout = None,
) -> Tensor:
    """The drop of the output without each cell, divided evenly among its numbers.

    One forward pass for each cell, so it is slow; of the input's shape.
    """
    named = letters(inputs, layout)
    explained = Explained(model, target, additional_forward_args, len(inputs))
    start = baseline_like(baseline, inputs, positions_of(named))
    labels = cells_of(channels_first(inputs, named).shape[2:], cell)
    shape = [n if c not in "BC" else 1 for c, n in zip(named, inputs.shape, strict=True)]
    mask = labels.view(shape).expand(1, *inputs.shape[1:]).to(inputs.device)
    with speaking_plainly("occlusion"):
        drops: Tensor = (
            captum()
            .FeatureAblation(explained)
            .attribute(inputs, baselines=start, feature_mask=mask, perturbations_per_eval=_TOGETHER)
        )
    return drops / torch.bincount(mask.flatten())[mask]


METHODS = (
    Method(
        "occlusion",
        occlusion,
        options=OcclusionOptions,
        call_options=("layout",),
        about="How far the output falls without each cell; one forward pass for each.",
        reference="Zeiler & Fergus 2014, Visualizing and Understanding Convolutional Networks",
        package="captum.attr",
    ),
)

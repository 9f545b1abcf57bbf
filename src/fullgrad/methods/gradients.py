"""Methods that read the gradient at the input, by Captum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad.axes.layouts import InputLayout
from fullgrad.engine.inputs import baseline_like, check_baseline
from fullgrad.maps.smoothing import Noise, noisy
from fullgrad.methods.captum_adapter import Explained, captum, speaking_plainly
from fullgrad.methods.positions import letters, positions_of
from fullgrad.methods.registry import Method


@dataclass(frozen=True, slots=True)
class NoOptions:
    """Nothing to choose."""


@dataclass(frozen=True, slots=True)
class IntegratedOptions:
    """The path of integrated gradients.

    Args:
        n_steps: points on the path (Gauss-Legendre quadrature).
        baseline: where it starts: a number, a tensor of shape (B or 1, C, *positions), or
            ``"mean"``: each sample's mean over its positions, for each channel.

    Raises:
        ValueError: no steps, or a baseline that is neither.
    """

    n_steps: int = 50
    baseline: float | Tensor | str = 0.0

    def __post_init__(self) -> None:
        if type(self.n_steps) is not int or self.n_steps < 1:
            raise ValueError(f"n_steps must be a positive integer, not {self.n_steps!r}")
        check_baseline(self.baseline, or_mean=True)


@dataclass(frozen=True, slots=True)
class SmoothGradOptions:
    """The noise of SmoothGrad; see :class:`fullgrad.maps.smoothing.Noise`."""

    samples: int = 25
    scale: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        Noise(self.samples, self.scale, self.seed)


def input_gradient(
    model: nn.Module, inputs: Tensor, target: Any, *, additional_forward_args: Any = None
) -> Tensor:
    """The gradient at the input, of the input's shape."""
    explained = Explained(model, target, additional_forward_args, len(inputs))
    with speaking_plainly("input_gradient"):
        found: Tensor = captum().Saliency(explained).attribute(inputs, abs=False)
    return found


def input_x_gradient(
    model: nn.Module, inputs: Tensor, target: Any, *, additional_forward_args: Any = None
) -> Tensor:
    """Input times gradient, of the input's shape."""
    explained = Explained(model, target, additional_forward_args, len(inputs))
    with speaking_plainly("input_x_gradient"):
        found: Tensor = captum().InputXGradient(explained).attribute(inputs)
    return found


def integrated_gradients(
    model: nn.Module,
    inputs: Tensor,
    target: Any,
    *,
    n_steps: int,
    baseline: float | Tensor | str,
    additional_forward_args: Any = None,
    layout: InputLayout = None,
) -> Tensor:
    """Integrated gradients, one step of the batch at a time, of the input's shape."""
    explained = Explained(model, target, additional_forward_args, len(inputs))
    start = baseline_like(baseline, inputs, positions_of(letters(inputs, layout)))
    with speaking_plainly("integrated_gradients"):
        found: Tensor = (
            captum()
            .IntegratedGradients(explained)
            .attribute(inputs, baselines=start, n_steps=n_steps, internal_batch_size=len(inputs))
        )
    return found


def smoothgrad(
    model: nn.Module,
    inputs: Tensor,
    target: Any,
    *,
    samples: int,
    scale: float,
    seed: int,
    additional_forward_args: Any = None,
) -> Tensor:
    """The mean gradient over noisy copies, one copy of the batch at a time."""
    # Captum's NoiseTunnel takes one standard deviation for the whole batch, where SmoothGrad has
    # one for each sample's range, and it draws from the global generator. So the copies are those
    # of Smooth FullGrad, and the gradient at each is Captum's.
    explained = Explained(model, target, additional_forward_args, len(inputs))
    total = torch.zeros_like(inputs)
    with speaking_plainly("smoothgrad"):
        gradient = captum().Saliency(explained)
        for copy in noisy(inputs, Noise(samples, scale, seed)):
            total += gradient.attribute(copy, abs=False)
    return total / samples


METHODS = (
    Method(
        "input_gradient",
        input_gradient,
        options=NoOptions,
        about="The gradient of the explained output at the input.",
        reference="Simonyan, Vedaldi & Zisserman 2014, Deep Inside Convolutional Networks",
        package="captum.attr",
    ),
    Method(
        "input_x_gradient",
        input_x_gradient,
        options=NoOptions,
        about="The gradient at the input times the input.",
        reference="Shrikumar, Greenside, Shcherbina & Kundaje 2016, Not Just a Black Box",
        package="captum.attr",
    ),
    Method(
        "integrated_gradients",
        integrated_gradients,
        options=IntegratedOptions,
        call_options=("layout",),
        about="The mean gradient on the way from a baseline to the input, times that way.",
        reference="Sundararajan, Taly & Yan 2017, Axiomatic Attribution for Deep Networks",
        package="captum.attr",
    ),
    Method(
        "smoothgrad",
        smoothgrad,
        options=SmoothGradOptions,
        about="The mean gradient over noisy copies of the input.",
        reference="Smilkov, Thorat, Kim, Viégas & Wattenberg 2017, SmoothGrad",
        package="captum.attr",
    ),
)

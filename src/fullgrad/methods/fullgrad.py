"""FullGrad and its variants, as methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from fullgrad.axes.layouts import ActivationLayouts
from fullgrad.engine.request import ModelOptions
from fullgrad.maps.aggregation import check_psi
from fullgrad.maps.saliency import saliency
from fullgrad.maps.smoothing import Noise
from fullgrad.methods.registry import Method
from fullgrad.operations.linearization import Linearization, Named, linearization_of

_PAPER = "Srinivas & Fleuret 2019, Full-Gradient Representation for Neural Network Visualization"
_NOISE = Noise()


@dataclass(frozen=True, slots=True)
class FullGradOptions:
    """How terms become a map.

    Args:
        psi: see :func:`fullgrad.saliency`; None for ``"layer"``, or ``"signed"`` where a sign is
            asked for.
        terms: which terms count; see :func:`fullgrad.saliency`.
        activation_layouts: layouts of activations that axis propagation cannot follow; see
            :func:`fullgrad.saliency`.
        linearization: which linear maps stand for the operations; see :func:`fullgrad.decompose`.

    Raises:
        ValueError: an unknown psi or linearization.
    """

    psi: str | None = None
    terms: str | Sequence[str] = "all"
    activation_layouts: ActivationLayouts | None = None
    linearization: Named | Linearization = "jacobian"

    def __post_init__(self) -> None:
        linearization_of(self.linearization)
        if self.psi is not None:
            check_psi(self.psi)


@dataclass(frozen=True, slots=True)
class SmoothFullGradOptions(FullGradOptions):
    """How terms become a map, and the noise; see :class:`fullgrad.maps.smoothing.Noise`."""

    samples: int = _NOISE.samples
    scale: float = _NOISE.scale
    seed: int = _NOISE.seed

    def __post_init__(self) -> None:
        FullGradOptions.__post_init__(self)
        Noise(self.samples, self.scale, self.seed)


def _has_sign(options: FullGradOptions) -> bool:
    return options.psi in {None, "signed"}


def _map(
    model: nn.Module,
    inputs: Tensor,
    target: Any,
    *,
    method: str,
    signed: bool,
    psi: Any,
    **options: Any,
) -> Tensor:
    smoothing = {k: options.pop(k) for k in ("samples", "scale", "seed") if k in options}
    return saliency(
        model,
        inputs,
        target,
        method,
        psi=psi or ("signed" if signed else "layer"),
        noise=Noise(**smoothing) if smoothing else None,
        **options,
    )


def _variant(name: str, about: str, options: type = FullGradOptions) -> Method:
    return Method(
        name,
        partial(_map, method=name),
        options,
        about,
        _PAPER,
        signed=_has_sign,
        direct=True,
        call_options=(*ModelOptions.__optional_keys__, "memory"),
        renamed={"places": "activation_layouts"},
    )


METHODS = (
    _variant(
        "fullgrad",
        "Input times its gradient and every bias times its gradient, stretched and summed.",
    ),
    _variant(
        "simple_fullgrad",
        "As FullGrad, but with the gradients at biases alone, not multiplied by the biases.",
    ),
    _variant(
        "smooth_fullgrad",
        "The FullGrad map of the terms' mean over noisy copies of the input.",
        SmoothFullGradOptions,
    ),
)

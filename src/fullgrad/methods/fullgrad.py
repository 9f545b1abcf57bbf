"""FullGrad and its variants, as methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fullgrad.axes.layouts import Places
from fullgrad.maps.aggregation import PSI
from fullgrad.maps.saliency import saliency
from fullgrad.maps.smoothing import Noise
from fullgrad.methods.registry import described

_PAPER = "Srinivas & Fleuret 2019, Full-Gradient Representation for Neural Network Visualization"
_NOISE = Noise()


@dataclass(frozen=True, slots=True)
class FullGradOptions:
    """How terms become a map.

    Args:
        psi: see :func:`fullgrad.saliency`; None for ``"layer"``, or ``"signed"`` where a sign is
            asked for.
        terms: which terms count; see :func:`fullgrad.saliency`.
        places: layouts of activations that cannot be followed; see :func:`fullgrad.saliency`.

    Raises:
        ValueError: an unknown psi.
    """

    psi: str | None = None
    terms: str | Sequence[str] = "all"
    places: Places | None = None

    def __post_init__(self) -> None:
        if self.psi is not None and self.psi not in PSI:
            raise ValueError(f"psi must be one of {', '.join(PSI)}, not {self.psi!r}")


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


def _function(method: str) -> Any:
    def function(
        model: nn.Module,
        inputs: Tensor,
        target: Any,
        *,
        signed: bool,
        additional_forward_args: Any,
        batch_size: int | None,
        psi: Any,
        terms: Any,
        places: Any,
        **noise: Any,
    ) -> Tensor:
        found: Tensor = saliency(
            model,
            inputs,
            target,
            method=method,
            psi=psi or ("signed" if signed else "layer"),
            terms=terms,
            places=places,
            additional_forward_args=additional_forward_args,
            batch_size=batch_size,
            noise=Noise(**noise) if noise else None,
        )
        return found

    return function


METHODS = tuple(
    described(
        name,
        _function(name),
        options=options,
        about=about,
        reference=_PAPER,
        signed=_has_sign,
        direct=True,
    )
    for name, options, about in (
        (
            "fullgrad",
            FullGradOptions,
            "Input times its gradient and every bias times its gradient, stretched and summed.",
        ),
        (
            "simple_fullgrad",
            FullGradOptions,
            "As FullGrad, but with the gradients at biases alone, not multiplied by the biases.",
        ),
        (
            "smooth_fullgrad",
            SmoothFullGradOptions,
            "The FullGrad map of the terms' mean over noisy copies of the input.",
        ),
    )
)

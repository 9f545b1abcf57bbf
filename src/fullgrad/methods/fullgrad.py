"""FullGrad and its variants, as methods."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from fullgrad.axes.layouts import ActivationLayouts
from fullgrad.axes.spread import MassPlacement, check_placement
from fullgrad.engine.inputs import check_baseline
from fullgrad.engine.request import ModelOptions
from fullgrad.maps.aggregation import check_psi
from fullgrad.maps.combined import combined, combined_map
from fullgrad.maps.complete import CompleteMap, Depth, check_depth, complete_map
from fullgrad.maps.path import Steps, check_steps
from fullgrad.maps.saliency import saliency
from fullgrad.maps.smoothing import Noise
from fullgrad.methods.registry import Method
from fullgrad.operations.linearization import Linearization, Named, linearization_of

_PAPER = "Srinivas & Fleuret 2019, Full-Gradient Representation for Neural Network Visualization"
_BALANCED = (
    "The gradient's rules for transformers: Mehri et al. 2025, LibraGrad: Balancing Gradient Flow "
    "for Universally Better Vision Transformer Attributions; the sum: docs/linearization.md"
)
_DIFFERENCE = (
    "Difference quotients: Shrikumar, Greenside & Kundaje 2017, DeepLIFT; gates and norms: "
    "LibraGrad; the sum, and the mean over layers: docs/complete-map.md"
)
_PATH = (
    "The path: Sundararajan, Taly & Yan 2017, Axiomatic Attribution for Deep Networks; in inner "
    "layers: Dhamdhere, Sundararajan & Yan 2019, How Important Is a Neuron?; difference quotients: "
    "DeepLIFT; the sum, and the mean over layers: docs/complete-map.md"
)
_COMBINED = (
    "The mean of several explanations: Rieger & Hansen 2019, Aggregating explanation methods for "
    "stable and robust explainability; its three maps: docs/complete-map.md"
)
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


@dataclass(frozen=True, slots=True)
class CompleteOptions:
    """What is on the complete map, and where; see :func:`fullgrad.complete_map`.

    Args:
        placement: how a coarse cell's number is divided among places.
        terms: which terms are on the map.
        activation_layouts: layouts of activations that axis propagation cannot follow.
        linearization: which linear maps stand for the operations.
        baseline: a reference that splits the input term; the output is still what is explained.
        depth: at which layers the sum is stopped.
        steps: how many steps lead from the baseline to the input.

    Raises:
        ValueError: an unknown placement, depth or linearization, or what cannot be a baseline.
        OptionError: several steps without a baseline, or of other terms than the input's.
    """

    placement: MassPlacement = "receptive_field"
    terms: str | Sequence[str] = "all"
    activation_layouts: ActivationLayouts | None = None
    linearization: Named | Linearization = "jacobian"
    baseline: float | Tensor | str | None = None
    depth: Depth = "input"
    steps: Steps = 1

    def __post_init__(self) -> None:
        check_placement(self.placement)
        check_depth(self.depth)
        linearization_of(self.linearization)
        if self.baseline is not None:
            check_baseline(self.baseline, or_mean=True)
        check_steps(self.steps, self.baseline, self.terms)


@dataclass(frozen=True, slots=True)
class BalancedOptions(CompleteOptions):
    """As :class:`CompleteOptions`, with the balanced linearization."""

    linearization: Named | Linearization = "balanced"


@dataclass(frozen=True, slots=True)
class BalancedInputOptions(BalancedOptions):
    """As :class:`BalancedOptions`, with the input term alone."""

    terms: str | Sequence[str] = "input"


@dataclass(frozen=True, slots=True)
class DifferenceOptions(CompleteOptions):
    """As :class:`CompleteOptions`, compared with a baseline in every layer."""

    terms: str | Sequence[str] = "input"
    linearization: Named | Linearization = "difference"
    baseline: float | Tensor | str | None = "mean"
    depth: Depth = "mean"


@dataclass(frozen=True, slots=True)
class PathOptions(DifferenceOptions):
    """As :class:`DifferenceOptions`, in steps from the baseline to the input."""

    linearization: Named | Linearization = "quotient"
    depth: Depth = "early"
    steps: Steps = "auto"


def _complete(
    model: nn.Module, inputs: Tensor, target: Any, *, signed: bool, **options: Any
) -> Tensor:
    """The map alone, whose numbers have a sign whether it is asked for or not."""
    found: Tensor = complete_map(model, inputs, target, **options).map
    return found


@dataclass(frozen=True, slots=True)
class CombinedOptions:
    """What the maps of the mean have in common; see :func:`fullgrad.maps.combined.combined_map`.

    Args:
        placement: how a coarse cell's number is divided among places.
        activation_layouts: layouts of activations that axis propagation cannot follow.
        baseline: a reference that splits the input term; the output is still what is explained.
        steps: how many steps lead from the baseline to the input, in the map that has steps.

    Raises:
        ValueError: an unknown placement, a number of steps that cannot be, or what cannot be a
            baseline.
    """

    placement: MassPlacement = "receptive_field"
    activation_layouts: ActivationLayouts | None = None
    baseline: float | Tensor | str = "mean"
    steps: Steps = "auto"

    def __post_init__(self) -> None:
        check_placement(self.placement)
        check_baseline(self.baseline, or_mean=True)
        check_steps(self.steps, self.baseline, "input")


def _combined(
    model: nn.Module, inputs: Tensor, target: Any, *, signed: bool, **options: Any
) -> Tensor:
    """The map alone, as :func:`_complete`."""
    found: Tensor = combined_map(model, inputs, target, **options).map
    return found


def is_complete(method: Method) -> bool:
    """Whether a method is one of those that give a whole :class:`fullgrad.CompleteMap`."""
    return method.function in (_complete, _combined)


def is_one_pass(method: Method, settings: Mapping[str, Any]) -> bool:
    """Whether the terms on a method's map are those of one pass."""
    return method.function is not _combined and settings.get("steps", 1) == 1


def whole_map(
    method: Method, whole: Callable[..., CompleteMap], settings: Mapping[str, Any]
) -> CompleteMap:
    """The complete map of such a method.

    Args:
        method: one that :func:`is_complete`.
        whole: takes the options of :func:`fullgrad.complete_map`.
        settings: of the method and of the call.
    """
    return (partial(combined, whole) if method.function is _combined else whole)(**settings)


def _complete_variant(
    name: str,
    about: str,
    options: type,
    paper: str = _PAPER,
    function: Callable[..., Tensor] = _complete,
    fixed: Collection[str] = (),
) -> Method:
    of_calls = ModelOptions.__optional_keys__ - {"per_sample", *fixed}
    return Method(
        name,
        function,
        options,
        about,
        paper,
        signed=True,
        direct=True,
        complete=True,
        call_options=(*sorted(of_calls), "memory"),
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
    _complete_variant(
        "complete_fullgrad",
        "The terms with their signs and sizes, each drawn so that its sum is kept.",
        CompleteOptions,
    ),
    _complete_variant(
        "balanced_fullgrad",
        "As complete_fullgrad, with linear maps that leave little to implicit biases.",
        BalancedOptions,
        _BALANCED,
    ),
    _complete_variant(
        "balanced_input",
        "The input term alone, of the same linear maps: input times its balanced gradient.",
        BalancedInputOptions,
        _BALANCED,
    ),
    _complete_variant(
        "difference_fullgrad",
        "What sets the input apart from a baseline, in every layer and averaged over the layers.",
        DifferenceOptions,
        _DIFFERENCE,
    ),
    _complete_variant(
        "path_fullgrad",
        "As difference_fullgrad, in steps where one is not enough, and early layers count more.",
        PathOptions,
        _PATH,
    ),
    _complete_variant(
        "combined_fullgrad",
        "The mean of path_fullgrad and of difference_fullgrad with two linearizations.",
        CombinedOptions,
        _COMBINED,
        _combined,
        {"linearization"},
    ),
)

"""FullGrad as an attribution in Captum's style, for its viewers and its ``NoiseTunnel``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from torch import Tensor, nn

from fullgrad._options import takes_options
from fullgrad.engine.targets import holds_integers
from fullgrad.errors import InputError, TargetError
from fullgrad.maps.saliency import METHODS, MapOptions, saliency

if TYPE_CHECKING:
    from typing_extensions import Unpack

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _wrapped(function: _Function) -> _Function:
    """NoiseTunnel calls ``attribute.__wrapped__``, the function behind Captum's usage log."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def _target(target: Any) -> Any:
    """Captum takes a tensor of one number for all samples."""
    if isinstance(target, Tensor) and target.shape == (1,) and holds_integers(target):
        return int(target)
    return target


def _among_channels(found: Tensor, x: Tensor, letters: str | None) -> Tensor:
    """A map in the input's shape, shared equally among its channels."""
    letters = "BCXYZ"[: x.dim()] if letters is None else letters.replace(" ", "")
    order = ["B", "C", *(c for c in letters if c not in "BC")]
    if "C" not in letters:
        found, order = found.squeeze(1), [c for c in order if c != "C"]
    channels = x.shape[letters.index("C")] if "C" in letters else 1
    shared = found.permute([order.index(c) for c in letters]) / channels
    return shared.expand(x.shape).contiguous()


class FullGrad:
    """FullGrad with the methods of Captum's attributions.

    ``captum.attr.NoiseTunnel(FullGrad(model)).attribute(x, nt_type="smoothgrad", target=3)`` works
    as with Captum's own; give it a target, or each noisy copy is explained for its own prediction.

    Args:
        model: any ``nn.Module``.
        method: ``"fullgrad"``, or another of :func:`fullgrad.saliency`'s.

    Raises:
        ValueError: an unknown method.

    Example:
        >>> import torch
        >>> from fullgrad.interop.captum import FullGrad
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten())
        >>> FullGrad(model).attribute(torch.ones(1, 3, 8, 8), target=0).shape
        torch.Size([1, 3, 8, 8])
    """

    def __init__(self, model: nn.Module, method: str = "fullgrad") -> None:
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
        self.forward_func = model
        self.method = method

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether the numbers are global: FullGrad's are gradient times input and bias."""
        return self.method != "simple_fullgrad"

    def has_convergence_delta(self) -> bool:
        """Always False: a map is stretched, and its sum says nothing."""
        return False

    @_wrapped
    @takes_options("interop.captum.FullGrad.attribute", MapOptions, places="activation_layouts")
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        shape: Literal["input", "map"] = "input",
        **options: Unpack[MapOptions],
    ) -> Any:
        """The FullGrad map.

        Args:
            inputs: shape (B, C, *positions), or a tuple of such tensors.
            target: an index, one per sample, a tensor of them, a tuple into a dense output, a
                callable (:mod:`fullgrad.targets` has some), or None for the predicted class.
            additional_forward_args: a value or tuple passed to the model after the inputs.
            shape: ``"input"`` shares the map equally among the channels, so that their sum, which
                Captum's viewer draws, is the map; ``"map"`` returns it as it is.
            **options: of :func:`fullgrad.saliency`: all but its ``method``.

        Returns:
            The inputs' shape, or (B, 1, *positions); in a tuple if the inputs were in one.

        Raises:
            ValueError: an unknown option or shape.
            InputError: an input that is no float tensor.
            TargetError: several targets of each sample.
            FullGradError: as :func:`fullgrad.saliency`.
        """
        if shape not in ("input", "map"):
            raise ValueError(f"shape must be 'input' or 'map', not {shape!r}")
        # Smooth FullGrad takes one input, which NoiseTunnel may hand over in a tuple.
        alone = inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs
        found = saliency(
            self.forward_func,
            alone,
            _target(target),
            self.method,
            additional_forward_args=additional_forward_args,
            **options,
        )
        maps = found if isinstance(found, tuple) else (found,)
        explained = inputs if isinstance(inputs, tuple) else (inputs,)
        if len(maps) != len(explained):
            raise InputError(
                f"{len(maps)} of {len(explained)} inputs are float tensors; pass the others "
                "through additional_forward_args"
            )
        if any(m.shape[1] != 1 for m in maps):
            raise TargetError(
                f"attribute() explains one target for each sample, not {maps[0].shape[1]}: "
                "fullgrad.saliency() and fullgrad.complete_map() explain several at once"
            )
        if shape == "input":
            layout = options.get("layout")
            letters = [layout] * len(maps) if layout is None or isinstance(layout, str) else layout
            maps = tuple(map(_among_channels, maps, explained, letters))
        return maps if isinstance(inputs, tuple) else maps[0]

"""FullGrad saliency: psi and the aggregation, as pure functions on tensors.

Srinivas & Fleuret 2019, equation 4: S(x) = psi(grad f * x) + sum over layers and channels of
psi(f^b), psi = upsample(rescale(|.|)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullgrad import backward
from fullgrad.axes import Axes, resolved
from fullgrad.decomposition import BiasTerm, Decomposition
from fullgrad.errors import InputError, LayoutError
from fullgrad.explanation import Request, Traced, explain
from fullgrad.inputs import Inputs
from fullgrad.layouts import Placement, arranged, on_grid, placement_of
from fullgrad.targets import Target
from fullgrad.terms import Term

Psi: TypeAlias = Literal["layer", "channel", "signed"]
Terms: TypeAlias = Literal["all", "explicit", "input", "bias"]

METHODS = ("fullgrad",)
_PSI = ("layer", "channel", "signed")
_TERMS = ("all", "explicit", "input", "bias")
_EPSILON = 1e-6  # in the authors' code, against layers of zeros
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def rescaled_sum(
    term: Tensor, channels: Sequence[int], psi: Psi = "layer", *, overwrite: bool = False
) -> Tensor:
    """The rescaling of psi, then the sum over channels (they commute with upsampling).

    Args:
        term: gradient times bias, samples first, contiguous or not.
        channels: which axes of it are not positions.
        psi: ``layer`` takes |.| and stretches each sample's layer to [0, 1]: minimum and maximum
            over all channels and positions (the authors' code); ``channel`` stretches every
            channel by itself (the paper's formula); ``signed`` leaves the numbers as they are.
        overwrite: the term's memory may be used.

    Returns:
        The term without its channel axes.
    """
    if psi == "signed":
        return term.sum(list(channels)) if channels else term
    size = term.abs_() if overwrite else term.abs()
    if psi == "channel":
        over = [d for d in range(1, size.dim()) if d not in channels]
        if over:
            low, high = size.amin(over, keepdim=True), size.amax(over, keepdim=True)
            size = (size - low).div_(high - low + _EPSILON)
        else:
            size = torch.zeros_like(size)
        return size.sum(list(channels)) if channels else size
    flat = size.flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    total = size.sum(list(channels)) if channels else size
    count = math.prod(term.shape[d] for d in channels)
    each = (-1,) + (1,) * (total.dim() - 1)
    return (total - (count * low).view(each)).div_((high - low + _EPSILON).view(each))


def rescaled_channel_sum(term: Tensor, psi: Psi = "layer") -> Tensor:
    """:func:`rescaled_sum` of a term of shape (B, C, *positions): shape (B, 1, *positions)."""
    return rescaled_sum(term, [1], psi).unsqueeze(1)


def upsample(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bring maps of shape (B, 1, *positions) to the input's size, linearly, corners aligned."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode=_MODES[len(size)], align_corners=True)


class _Aggregate:
    """Sums of term maps, one per spatial resolution, upsampled once at the end."""

    def __init__(self, size: Sequence[int]) -> None:
        self._size = tuple(size)
        self._sums: dict[tuple[int, ...], Tensor] = {}

    def add(self, reduced: Tensor) -> None:
        """Count a term's map, shape (B, 1, *positions)."""
        key = tuple(reduced.shape[2:])
        known = self._sums.get(key)
        self._sums[key] = reduced if known is None else known.add_(reduced)

    def map(self) -> Tensor:
        total: Tensor | None = None
        for maps in self._sums.values():
            upsampled = upsample(maps, self._size)
            total = upsampled if total is None else total + upsampled
        if total is None:
            raise LayoutError("no term of 'bias' has positions, so there is no map")
        return total


def _checked(psi: str, terms: str) -> None:
    if psi not in _PSI:
        raise ValueError(f"psi must be one of {', '.join(_PSI)}, not {psi!r}")
    if terms not in _TERMS:
        raise ValueError(f"terms must be one of {', '.join(_TERMS)}, not {terms!r}")


def _image_input(inputs: Sequence[Tensor], batch: int) -> Tensor:
    if len(inputs) != 1:
        raise InputError(
            f"a saliency map needs one explained input with positions, not {len(inputs)}; pass "
            "the others through additional_forward_args, or read Decomposition.input_terms"
        )
    x = inputs[0]
    if x.dim() not in (3, 4, 5) or x.shape[0] != batch:
        raise InputError(
            "a saliency map needs an input of shape (batch, channels, positions...) with 1 to 3 "
            f"spatial axes, not {tuple(x.shape)}"
        )
    return x


def _unknown(module: str, op: str, shape: Sequence[int]) -> LayoutError:
    return LayoutError(
        f"it is not known where the numbers of {op} in {module or 'the model'} (shape "
        f"{tuple(shape)}) lie in the input. Choose terms='input', or aggregate the terms of "
        "fullgrad.decompose yourself."
    )


def _placement(
    axes: Axes | None, module: str, op: str, shape: Sequence[int], batch: int, rank: int
) -> Placement | None:
    """How a term is to be read; None if it has no positions."""
    if axes is None or axes.shape != tuple(shape) or len(axes.coordinates) != rank:
        if len(shape) <= 2 and len(shape) > 0 and shape[0] == batch:
            return None  # a dense layer's
        raise _unknown(module, op, shape)
    try:
        return placement_of(axes, batch)
    except ValueError:
        raise _unknown(module, op, shape) from None


def _reduced(value: Tensor, placement: Placement, psi: Psi, *, overwrite: bool = False) -> Tensor:
    """The map of (some samples of) a term on its own grid, shape (samples, 1, *extents)."""
    view, positions = arranged(value, placement)
    channels = [d for d in range(1, view.dim()) if d not in positions]
    return on_grid(rescaled_sum(view, channels, psi, overwrite=overwrite), placement)


def _wanted(kind: str, terms: Terms) -> bool:
    return terms in {"all", "bias"} or (terms == "explicit" and kind != "implicit")


def term_map(term: BiasTerm, decomposition: Decomposition, psi: Psi = "layer") -> Tensor:
    """The map of one term alone, at the input's size.

    Args:
        term: one of the decomposition's bias terms.
        decomposition: where it comes from.
        psi: see :func:`rescaled_channel_sum`.

    Returns:
        Shape (B, 1, *positions of the input).

    Raises:
        LayoutError: the term has no positions, or they are not known.
    """
    x = _image_input(decomposition.inputs, len(decomposition.output))
    placement = _placement(
        term.axes, term.module, term.op, term.shape, x.shape[0], x.dim() - 2
    )  # fmt: skip
    if placement is None:
        raise LayoutError(
            f"{term.op} in {term.module or 'the model'} (shape {tuple(term.shape)}) has no "
            "positions, so it has no map"
        )
    return upsample(_reduced(term.value, placement, psi), x.shape[2:])


def saliency_from_decomposition(
    decomposition: Decomposition, *, psi: Psi = "layer", terms: Terms = "all"
) -> Tensor:
    """The FullGrad map of a decomposition; see :func:`saliency` for the options.

    Returns:
        Shape (B, 1, *positions of the input).

    Raises:
        InputError: the input has no positions.
        LayoutError: where a term's numbers lie is not known.
    """
    _checked(psi, terms)
    x = _image_input(decomposition.inputs, len(decomposition.output))
    aggregate = _Aggregate(x.shape[2:])
    for term in decomposition.bias_terms:
        if _wanted(term.kind, terms):
            placement = _placement(
                term.axes, term.module, term.op, term.shape, x.shape[0], x.dim() - 2
            )  # fmt: skip
            if placement is not None:
                aggregate.add(_reduced(term.value, placement, psi))
    if terms != "bias":
        aggregate.add(rescaled_channel_sum(decomposition.input_terms[0], psi))
    return aggregate.map()


class _Stream:
    """Reduces each term to its map the moment it comes, and lets the term go."""

    def __init__(self, traced: Traced, psi: Psi, terms: Terms) -> None:
        self._x = _image_input(traced.prepared.leaves, len(traced.output))
        self._bindings = traced.tape.bindings
        self._psi: Psi = psi
        self._terms = terms
        self.aggregate = _Aggregate(self._x.shape[2:])

    def term(self, term: Term) -> Tensor:
        placement = self._placement_of(term)
        sums, maps = [], []
        for gradient, bias, samples, own in term.parts():
            value = backward.product(gradient, bias, term.may_be_infinite, overwrite=own)
            sums.append(term.sums(value, samples))
            if placement is not None:
                maps.append(_reduced(value, placement, self._psi, overwrite=True))
        if maps:
            self.aggregate.add(torch.cat(maps) if len(maps) > 1 else maps[0])
        return torch.cat(sums) if len(sums) > 1 else sums[0]

    def _placement_of(self, term: Term) -> Placement | None:
        entry, x = term.entry, self._x
        if not _wanted(entry.bias.kind, self._terms):
            return None
        axes = None if entry.axes is None else resolved(entry.axes, self._bindings)
        return _placement(axes, entry.module, entry.op, entry.shape, x.shape[0], x.dim() - 2)


def saliency(
    model: nn.Module,
    inputs: Inputs,
    target: Target = None,
    method: str = "fullgrad",
    *,
    psi: Psi = "layer",
    terms: Terms = "all",
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    mode: Literal["eval", "as_is"] = "eval",
    tolerance: float | None = None,
) -> Tensor:
    """The FullGrad saliency map (Srinivas & Fleuret 2019, equation 4).

    The same full-gradient as :func:`fullgrad.decompose`, its sum proved as well, but every term
    is reduced to what the map needs as soon as back-propagation reaches it.

    Args:
        model: any ``nn.Module`` whose terms lie on the input's grid.
        inputs: shape (B, C, *positions) with 1 to 3 spatial axes.
        target: see :func:`fullgrad.decompose`.
        method: ``"fullgrad"``.
        psi: ``layer`` (default, as in the authors' code), ``channel`` (as in the paper's formula)
            or ``signed``; see :func:`rescaled_channel_sum`.
        terms: which terms count: ``all``; ``explicit``: input and biases the model adds, without
            those that only a non-linearity leaves over; ``input`` alone; ``bias`` without input.
            Terms without positions (dense layers) never count.
        additional_forward_args: see :func:`fullgrad.decompose`.
        forward_kwargs: see :func:`fullgrad.decompose`.
        mode: see :func:`fullgrad.decompose`.
        tolerance: see :func:`fullgrad.decompose`.

    Returns:
        Shape (B, 1, *positions), on the input's device.

    Raises:
        ValueError: an unknown method or option.
        LayoutError: where a term's numbers lie is not known.
        FullGradError: as :func:`fullgrad.decompose`.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    _checked(psi, terms)
    request = Request(
        model, inputs, target, additional_forward_args, forward_kwargs, mode, True, "error",
        tolerance,
    )  # fmt: skip
    make: Callable[[Traced], _Stream] = lambda traced: _Stream(traced, psi, terms)  # noqa: E731
    traced, totals, stream = explain(request, make)
    if terms != "bias":
        gradient, x = totals.input_gradients[0], traced.prepared.leaves[0].detach()
        stream.aggregate.add(rescaled_channel_sum(gradient * x, psi))
    result: Tensor = stream.aggregate.map()
    return result

"""FullGrad saliency: psi and the aggregation, as pure functions on tensors.

Srinivas & Fleuret 2019, equation 4: S(x) = psi(grad f * x) + sum over layers and channels of
psi(f^b), psi = upsample(rescale(|.|)).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

from fullgrad.decomposition import BiasTerm, Decomposition
from fullgrad.errors import InputError, LayoutError
from fullgrad.explanation import Request, Traced, explain
from fullgrad.inputs import Inputs
from fullgrad.layouts import layout_of
from fullgrad.tape import Entry
from fullgrad.targets import Target

Psi: TypeAlias = Literal["layer", "channel", "signed"]
Terms: TypeAlias = Literal["all", "explicit", "input", "bias"]

METHODS = ("fullgrad",)
_PSI = ("layer", "channel", "signed")
_TERMS = ("all", "explicit", "input", "bias")
_EPSILON = 1e-6  # in the authors' code, against layers of zeros
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def rescaled_channel_sum(term: Tensor, psi: Psi = "layer") -> Tensor:
    """The rescaling of psi, then the sum over channels (they commute with upsampling).

    Args:
        term: gradient times bias, shape (B, C, *positions).
        psi: ``layer`` takes |.| and stretches each sample's layer to [0, 1]: minimum and maximum
            over all channels and positions (the authors' code); ``channel`` stretches every
            channel by itself (the paper's formula); ``signed`` leaves the numbers as they are.

    Returns:
        Shape (B, 1, *positions).
    """
    if psi == "signed":
        return term.sum(1, keepdim=True)
    size = term.abs()
    over = list(range(2 if psi == "channel" else 1, term.dim()))
    low, high = size.amin(over, keepdim=True), size.amax(over, keepdim=True)
    spread = high - low + _EPSILON
    if psi == "channel":
        return ((size - low) / spread).sum(1, keepdim=True)
    return (size.sum(1, keepdim=True) - term.shape[1] * low) / spread


def upsample(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bring maps of shape (B, 1, *positions) to the input's size, linearly, corners aligned."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode=_MODES[len(size)], align_corners=True)


class _Aggregate:
    """Sums of term maps, one per spatial resolution, upsampled once at the end."""

    def __init__(self, size: Sequence[int], psi: Psi) -> None:
        self._size = tuple(size)
        self._psi = psi
        self._sums: dict[tuple[int, ...], Tensor] = {}

    def add(self, term: Tensor) -> None:
        reduced = rescaled_channel_sum(term, self._psi)
        key = tuple(reduced.shape[2:])
        self._sums[key] = self._sums[key] + reduced if key in self._sums else reduced

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


def _to_channels_first(
    value: Tensor,
    module: str,
    op: str,
    channel_axis: int | None,
    batch: int,
    rank: int,
) -> Tensor | None:
    layout = layout_of(value.shape, channel_axis, batch, rank)
    if layout is None:
        raise _unknown(module, op, value.shape)
    if layout == "none":
        return None
    return value.movedim(-1, 1) if layout == "channels_last" else value


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
    value = _to_channels_first(
        term.value, term.module, term.op, term.channel_axis, x.shape[0], x.dim() - 2
    )  # fmt: skip
    if value is None:
        raise LayoutError(
            f"{term.op} in {term.module or 'the model'} (shape {tuple(term.shape)}) has no "
            "positions, so it has no map"
        )
    return upsample(rescaled_channel_sum(value, psi), x.shape[2:])


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
    aggregate = _Aggregate(x.shape[2:], psi)
    for term in decomposition.bias_terms:
        if _wanted(term.kind, terms):
            value = _to_channels_first(
                term.value, term.module, term.op, term.channel_axis, x.shape[0], x.dim() - 2
            )  # fmt: skip
            if value is not None:
                aggregate.add(value)
    if terms != "bias":
        aggregate.add(decomposition.input_terms[0])
    return aggregate.map()


class _Stream:
    """Reduces each term to its map the moment it comes, and lets the term go."""

    def __init__(self, traced: Traced, psi: Psi, terms: Terms) -> None:
        self._x = _image_input(traced.prepared.leaves, len(traced.output))
        self._terms = terms
        self.aggregate = _Aggregate(self._x.shape[2:], psi)

    def term(self, place: int, entry: Entry, gradient: Tensor, bias: Tensor, value: Tensor) -> None:
        if not _wanted(entry.bias.kind, self._terms):
            return
        x = self._x
        placed = _to_channels_first(
            value, entry.module, entry.op, entry.channel_axis, x.shape[0], x.dim() - 2
        )  # fmt: skip
        if placed is not None:
            self.aggregate.add(placed)


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
        stream.aggregate.add(gradient * x)
    result: Tensor = stream.aggregate.map()
    return result

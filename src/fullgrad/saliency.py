"""FullGrad saliency maps of a model, and of a decomposition.

Srinivas & Fleuret 2019, equation 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from fullgrad import backward
from fullgrad.aggregation import (
    PSI,
    Aggregate,
    Psi,
    placement_for,
    reduced,
    rescaled_channel_sum,
    upsample,
)
from fullgrad.axes import resolved
from fullgrad.batches import BatchSize, in_batches
from fullgrad.batches import checked as check_size
from fullgrad.decomposition import BiasTerm, Decomposition
from fullgrad.errors import InputError, LayoutError
from fullgrad.explanation import Request, Traced, explain
from fullgrad.inputs import Inputs
from fullgrad.layouts import Placement
from fullgrad.smooth import Noise, smoothed
from fullgrad.targets import Target
from fullgrad.terms import Term

Terms: TypeAlias = Literal["all", "explicit", "input", "bias"]

METHODS = ("fullgrad", "smooth_fullgrad")
_TERMS = ("all", "explicit", "input", "bias")


def _checked(psi: str, terms: str) -> None:
    if psi not in PSI:
        raise ValueError(f"psi must be one of {', '.join(PSI)}, not {psi!r}")
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
    placement = placement_for(
        term.axes, term.module, term.op, term.shape, x.shape[0], x.dim() - 2
    )  # fmt: skip
    if placement is None:
        raise LayoutError(
            f"{term.op} in {term.module or 'the model'} (shape {tuple(term.shape)}) has no "
            "positions, so it has no map"
        )
    return upsample(reduced(term.value, placement, psi), x.shape[2:])


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
    aggregate = Aggregate(x.shape[2:])
    for term in decomposition.bias_terms:
        if _wanted(term.kind, terms):
            placement = placement_for(
                term.axes, term.module, term.op, term.shape, x.shape[0], x.dim() - 2
            )  # fmt: skip
            if placement is not None:
                aggregate.add(reduced(term.value, placement, psi))
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
        self.aggregate = Aggregate(self._x.shape[2:])

    def term(self, term: Term) -> Tensor:
        placement = self._placement_of(term)
        sums, maps = [], []
        for gradient, bias, samples, own in term.parts():
            value = backward.product(gradient, bias, term.may_be_infinite, overwrite=own)
            sums.append(term.sums(value, samples))
            if placement is not None:
                maps.append(reduced(value, placement, self._psi, overwrite=True))
        if maps:
            self.aggregate.add(torch.cat(maps) if len(maps) > 1 else maps[0])
        return torch.cat(sums) if len(sums) > 1 else sums[0]

    def _placement_of(self, term: Term) -> Placement | None:
        entry, x = term.entry, self._x
        if not _wanted(entry.bias.kind, self._terms):
            return None
        axes = None if entry.axes is None else resolved(entry.axes, self._bindings)
        return placement_for(axes, entry.module, entry.op, entry.shape, x.shape[0], x.dim() - 2)


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
    batch_size: BatchSize = None,
    memory: int | None = None,
    noise: Noise | None = None,
) -> Tensor:
    """The FullGrad saliency map (Srinivas & Fleuret 2019, equation 4).

    The same full-gradient as :func:`fullgrad.decompose`, its sum proved as well, but every term
    is reduced to what the map needs as soon as back-propagation reaches it.

    Args:
        model: any ``nn.Module`` whose terms lie on the input's grid.
        inputs: shape (B, C, *positions) with 1 to 3 spatial axes.
        target: see :func:`fullgrad.decompose`.
        method: ``"fullgrad"``, or ``"smooth_fullgrad"``: the mean over noisy copies of the input,
            all of them for the class that is predicted without noise if ``target`` is None.
        psi: ``layer`` (default, as in the authors' code), ``channel`` (as in the paper's formula)
            or ``signed``; see :func:`fullgrad.aggregation.rescaled_sum`.
        terms: which terms count: ``all``; ``explicit``: input and biases the model adds, without
            those that only a non-linearity leaves over; ``input`` alone; ``bias`` without input.
            Terms without positions (dense layers, class tokens) never count.
        additional_forward_args: see :func:`fullgrad.decompose`.
        forward_kwargs: see :func:`fullgrad.decompose`.
        mode: see :func:`fullgrad.decompose`.
        tolerance: see :func:`fullgrad.decompose`.
        batch_size: how many samples (noisy copies count as such) go through the model together;
            ``"auto"`` takes as many as fit ``memory``, measured on the first one; None takes the
            whole batch. Tensors among the additional arguments whose first size is B are cut too.
        memory: bytes that ``batch_size="auto"`` may use; None for half of what is free.
        noise: of ``"smooth_fullgrad"``; None for :class:`fullgrad.smooth.Noise`'s defaults.

    Returns:
        Shape (B, 1, *positions), on the input's device.

    Raises:
        ValueError: an unknown method or option, or one that the method has not.
        LayoutError: where a term's numbers lie is not known.
        FullGradError: as :func:`fullgrad.decompose`.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    _checked(psi, terms)
    check_size(batch_size, memory)
    if noise is not None and method != "smooth_fullgrad":
        raise ValueError(f"noise is an option of 'smooth_fullgrad', not of {method!r}")
    request = Request(
        model, inputs, target, additional_forward_args, forward_kwargs, mode, True, "error",
        tolerance,
    )  # fmt: skip

    def plain(part: Request) -> Tensor:
        return _map(part, psi, terms)

    if method == "fullgrad":
        return in_batches(request, plain, batch_size, memory)
    if not isinstance(inputs, Tensor):
        raise InputError(
            "smooth_fullgrad needs one input tensor to add noise to; pass the others through "
            "additional_forward_args"
        )
    return smoothed(request, plain, noise or Noise(), batch_size, memory)


def _map(request: Request, psi: Psi, terms: Terms) -> Tensor:
    """The map of one batch."""
    make: Callable[[Traced], _Stream] = lambda traced: _Stream(traced, psi, terms)  # noqa: E731
    traced, totals, stream = explain(request, make)
    if terms != "bias":
        gradient, x = totals.input_gradients[0], traced.prepared.leaves[0].detach()
        value = backward.product(backward.widen(gradient), backward.widen(x), False)
        stream.aggregate.add(rescaled_channel_sum(value, psi))
    result: Tensor = stream.aggregate.map()
    return result

"""FullGrad saliency maps of a model, and of a decomposition.

Srinivas & Fleuret 2019, equation 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from fullgrad.axes.broadcasting import resolved
from fullgrad.axes.layouts import InputLayout, Places
from fullgrad.decomposition.result import BiasTerm, Decomposition
from fullgrad.engine import backward
from fullgrad.engine.inputs import Inputs
from fullgrad.engine.pipeline import Request, Traced, explain
from fullgrad.engine.targets import Target
from fullgrad.engine.terms import Term
from fullgrad.engine.wrappers import unwrap
from fullgrad.errors import InputError, LayoutError
from fullgrad.maps.accumulator import Canvas, MeanCanvas, Means
from fullgrad.maps.aggregation import PSI, Psi, placements_for, reduced, upsample
from fullgrad.maps.minibatches import BatchSize, in_batches
from fullgrad.maps.minibatches import checked as check_size
from fullgrad.maps.selection import Terms, selection
from fullgrad.maps.smoothing import Noise, smoothed

METHODS = ("fullgrad", "simple_fullgrad", "smooth_fullgrad")


def _check_psi(psi: str) -> None:
    if psi not in PSI:
        raise ValueError(f"psi must be one of {', '.join(PSI)}, not {psi!r}")


def _packed(maps: tuple[Tensor, ...], like: Any, names: Sequence[str]) -> Any:
    """Maps in the form of the inputs: a tensor, a tuple, or a dict."""
    if isinstance(like, Mapping):
        return dict(zip(names, maps, strict=True))
    return maps[0] if isinstance(like, Tensor) else maps


def term_map(term: BiasTerm, decomposition: Decomposition, psi: Psi = "layer") -> Tensor:
    """The map of one term alone, at the size of the (first) input that it lies on.

    Args:
        term: one of the decomposition's bias terms.
        decomposition: where it comes from.
        psi: see :func:`rescaled_channel_sum`.

    Returns:
        Shape (B, 1, *positions of the input).

    Raises:
        LayoutError: the term has no positions, or they are not known.
    """
    grids = decomposition.layouts.grids
    found = placements_for(
        term.axes, term.module, term.op, term.shape, len(decomposition.output), grids
    )
    for grid, placement in zip(grids, found, strict=True):
        if placement is not None:
            return upsample(reduced(term.value, placement, psi), grid.sizes, placement.cells)
    raise LayoutError(
        f"{term.op} in {term.module or 'the model'} (shape {tuple(term.shape)}) has no "
        "positions, so it has no map"
    )


def layer_maps(
    decomposition: Decomposition, *, depth: int | None = 1, psi: Psi = "layer"
) -> dict[str, Tensor]:
    """The maps of the bias terms by layer, from the first to the last; their sum is ``bias``'s map.

    Args:
        decomposition: of one explained input with positions.
        depth: how many components of the module path make a layer (1: stages); None for every
            module by itself.
        psi: see :func:`fullgrad.maps.aggregation.rescaled_sum`.

    Returns:
        From module path to shape (B, 1, *positions), in order of execution; modules whose terms
        lie nowhere (dense layers) are left out.

    Raises:
        ValueError: depth is below 1, or psi unknown.
        LayoutError: where a term's numbers lie is not known.
    """
    if depth is not None and depth < 1:
        raise ValueError(f"depth must be at least 1, not {depth}")
    _check_psi(psi)
    maps: dict[str, Tensor] = {}
    grids = decomposition.layouts.grids
    for term in decomposition.bias_terms:
        place = (term.axes, term.module, term.op, term.shape, len(decomposition.output), grids)
        if any(p is not None for p in placements_for(*place)):
            key = ".".join(term.module.split(".")[:depth])
            own = term_map(term, decomposition, psi)
            maps[key] = maps[key] + own if key in maps else own
    return maps


def saliency_from_decomposition(
    decomposition: Decomposition, *, psi: Psi = "layer", terms: Terms = "all"
) -> Any:
    """The FullGrad map of a decomposition; see :func:`saliency` for the options.

    Returns:
        Shape (B, 1, *positions of the input); a tuple of them for several inputs.

    Raises:
        InputError: an input has no positions.
        LayoutError: where a term's numbers lie is not known.
    """
    _check_psi(psi)
    d = decomposition
    chosen = selection(terms, _stages(t.module for t in d.bias_terms))
    canvas = Canvas(d.layouts, [x.shape for x in d.inputs], len(d.output), psi, chosen)
    for t in reversed(d.bias_terms):
        places = canvas.places(t.axes, t.kind, t.module, t.op, t.shape)
        if places:
            canvas.add(places, canvas.reduced(t.value, places), t.module)
    maps = canvas.finished(d.input_terms)
    return maps[0] if len(maps) == 1 else maps


def _stages(modules: Any) -> set[str]:
    """Module paths with all that contain them."""
    parts = [m.split(".") for m in modules]
    return {".".join(p[:i]) for p in parts for i in range(1, len(p) + 1)}


class _Stream:
    """Draws each term the moment it comes, and lets the term go."""

    def __init__(self, traced: Traced, canvas: Canvas, times_bias: bool) -> None:
        self._bindings = traced.tape.bindings
        self._times_bias = times_bias
        self.canvas = canvas

    def term(self, term: Term) -> Tensor:
        entry = term.entry
        axes = None if entry.axes is None else resolved(entry.axes, self._bindings)
        places = self.canvas.places(axes, entry.bias.kind, entry.module, entry.op, entry.shape)
        sums: list[Tensor] = []
        maps: list[list[Tensor]] = []
        for gradient, bias, samples, own in term.parts():
            value = backward.product(gradient, bias, term.may_be_infinite, overwrite=own)
            sums.append(term.sums(value, samples))
            if places:
                drawn = value if self._times_bias else gradient.clone()
                maps.append(self.canvas.reduced(drawn, places))
        if maps:
            whole = [torch.cat(m) if len(m) > 1 else m[0] for m in zip(*maps, strict=True)]
            self.canvas.add(places, whole, f"{entry.op} in {entry.module}")
        return torch.cat(sums) if len(sums) > 1 else sums[0]


@overload
def saliency(
    model: nn.Module,
    inputs: Tensor,
    target: Target = None,
    method: str = "fullgrad",
    **options: Any,
) -> Tensor: ...
@overload
def saliency(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    target: Target = None,
    method: str = "fullgrad",
    **options: Any,
) -> dict[str, Tensor]: ...
@overload
def saliency(
    model: nn.Module,
    inputs: Sequence[Tensor],
    target: Target = None,
    method: str = "fullgrad",
    **options: Any,
) -> tuple[Tensor, ...]: ...
def saliency(  # type: ignore[misc]
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
    layout: InputLayout = None,
    places: Places | None = None,
    batch_size: BatchSize = None,
    memory: int | None = None,
    noise: Noise | None = None,
) -> Any:
    """The FullGrad saliency map (Srinivas & Fleuret 2019, equation 4).

    The same full-gradient as :func:`fullgrad.decompose`, its sum proved as well, but every term
    is reduced to what the map needs as soon as back-propagation reaches it.

    Args:
        model: any ``nn.Module`` whose terms lie on the input's grid.
        inputs: shape (B, C, *positions) with 1 to 3 spatial axes, or as ``layout`` says; a tuple
            or dict of them for models with several inputs.
        target: see :func:`fullgrad.decompose`.
        method: ``"fullgrad"``; ``"simple_fullgrad"``: bias terms without the bias, that is the
            gradient at every operation that has one (the input term stays gradient times input);
            ``"smooth_fullgrad"``: every signed term is averaged over noisy copies of the input
            before anything is drawn, all copies for the class that is predicted without noise if
            ``target`` is None. It keeps one batch's terms in memory.
        psi: ``layer`` (default, as in the authors' code), ``channel`` (as in the paper's formula)
            or ``signed``; see :func:`fullgrad.maps.aggregation.rescaled_sum`.
        terms: which terms count: ``all``; ``explicit``: input and biases the model adds, without
            those that only a non-linearity leaves over; ``implicit``: those alone; ``bias``: all
            without input; ``input`` alone; the path of a module (a stage), or a list of them, with
            ``"input"`` for the input term. Terms without positions (dense layers, class tokens)
            never count.
        additional_forward_args: see :func:`fullgrad.decompose`.
        forward_kwargs: see :func:`fullgrad.decompose`.
        mode: see :func:`fullgrad.decompose`.
        tolerance: see :func:`fullgrad.decompose`.
        layout: see :func:`fullgrad.decompose`.
        places: see :func:`fullgrad.decompose`.
        batch_size: how many samples (noisy copies count as such) go through the model together;
            ``"auto"`` takes as many as fit ``memory``, measured on the first one; None takes the
            whole batch. Tensors among the additional arguments whose first size is B are cut too.
        memory: bytes that ``batch_size="auto"`` may use; None for half of what is free.
        noise: of ``"smooth_fullgrad"``; None for :class:`fullgrad.maps.smoothing.Noise`'s defaults.

    Returns:
        Shape (B, 1, *positions), on the input's device; for a tuple or dict of inputs a tuple or
        dict of them, one for each explained input. A term that lies on several inputs' grids is
        shared equally among them.

    Raises:
        ValueError: an unknown method or option, or one that the method has not.
        LayoutError: where a term's numbers lie is not known.
        FullGradError: as :func:`fullgrad.decompose`.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    _check_psi(psi)
    modules = [name for name, _ in unwrap(model).named_modules()]
    chosen = selection(terms, modules)
    check_size(batch_size, memory)
    if noise is not None and method != "smooth_fullgrad":
        raise ValueError(f"noise is an option of 'smooth_fullgrad', not of {method!r}")
    request = Request(
        model,
        inputs,
        target,
        additional_forward_args,
        forward_kwargs,
        mode,
        True,
        "error",
        tolerance,
        layout,
        places,
    )
    names: list[str] = []

    def draw(part: Request, means: Means | None = None) -> tuple[Tensor, ...]:
        def make(traced: Traced) -> _Stream:
            shapes = [x.shape for x in traced.prepared.leaves]
            batch = len(traced.output)
            if means is None:
                canvas = Canvas(traced.layouts, shapes, batch, psi, chosen)
            else:
                canvas = MeanCanvas(means, traced.layouts, shapes, batch, chosen)
            return _Stream(traced, canvas, method != "simple_fullgrad")

        traced, totals, stream = explain(part, make)
        names[:] = traced.prepared.names
        values = [
            backward.product(backward.widen(g), backward.widen(x.detach()), False)
            for g, x in zip(totals.input_gradients, traced.prepared.leaves, strict=True)
            if chosen.input
        ]
        maps: tuple[Tensor, ...] = stream.canvas.finished(values)
        return maps

    if method != "smooth_fullgrad":
        return _packed(in_batches(request, draw, batch_size, memory), inputs, names)
    if not isinstance(inputs, Tensor):
        raise InputError(
            "smooth_fullgrad needs one input tensor to add noise to; pass the others through "
            "additional_forward_args"
        )
    return smoothed(request, draw, psi, noise or Noise(), batch_size, memory)

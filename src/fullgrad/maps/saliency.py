"""FullGrad saliency maps of a model, and of a decomposition.

Srinivas & Fleuret 2019, equation 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from torch import Tensor, nn

from fullgrad._options import takes_options
from fullgrad.axes.layouts import ActivationLayouts, InputLayout
from fullgrad.axes.placement import Placement
from fullgrad.decomposition.result import BiasTerm, Decomposition
from fullgrad.engine.inputs import Inputs, check, check_one, explained_names
from fullgrad.engine.pipeline import explain_each
from fullgrad.engine.request import Detached, Mode, ModelOptions, Request, Traced
from fullgrad.engine.targets import Several, Target, Top, several
from fullgrad.errors import InputError, LayoutError, OptionError
from fullgrad.maps.aggregation import Psi, check_psi, placements_for, reduced, upsample
from fullgrad.maps.location import Locator
from fullgrad.maps.minibatches import BatchSize, check_size, in_minibatches, largest_minibatch
from fullgrad.maps.selection import Terms, paths_in, selection
from fullgrad.maps.sinks import Draw, MapAccumulator, Maps, beside
from fullgrad.maps.smoothing import Noise, smoothed
from fullgrad.operations.linearization import Linearization, Named

if TYPE_CHECKING:
    from typing_extensions import Unpack

METHODS = ("fullgrad", "simple_fullgrad", "smooth_fullgrad")


class MapOptions(ModelOptions, total=False):
    """Options of every call that draws FullGrad maps, as :func:`saliency` documents them."""

    psi: Psi
    terms: Terms
    batch_size: BatchSize
    memory: int | None
    noise: Noise | None


class SaliencyOptions(MapOptions, total=False):
    """The options of :func:`saliency`."""

    additional_forward_args: Any
    top: int | None


def packed(maps: Maps, inputs: Inputs) -> Any:
    """Maps in the form of the inputs: a tensor, a tuple, or a dict."""
    if isinstance(inputs, Mapping):
        return dict(zip(explained_names(inputs), maps, strict=True))
    return maps[0] if isinstance(inputs, Tensor) else maps


def _placements(term: BiasTerm, decomposition: Decomposition) -> list[Placement | None]:
    grids, batch = decomposition.layouts.grids, len(decomposition.output)
    return placements_for(
        term.axes, term.module, term.op, term.shape, batch, grids, decomposed=True
    )


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
    found = _placements(term, decomposition)
    for grid, placement in zip(decomposition.layouts.grids, found, strict=True):
        if placement is not None:
            return upsample(reduced(term.value, placement, psi), grid.sizes, placement.cells)
    raise LayoutError(
        f"{term.op} in {term.module or 'the model'} (shape {tuple(term.shape)}) has no "
        "positions, so it has no map"
    )


def _check_decomposition(value: Any) -> None:
    if not isinstance(value, Decomposition):
        raise TypeError(f"decomposition must be decompose()'s, not a {type(value).__name__}")


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
        have no spatial position (dense layers) are left out.

    Raises:
        TypeError: not a decomposition, or a depth that is not an integer.
        ValueError: depth is below 1, or psi unknown.
        LayoutError: where a term's numbers lie is not known.

    Example:
        >>> import torch, fullgrad
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten())
        >>> d = fullgrad.decompose(model, torch.ones(1, 3, 8, 8), target=0)
        >>> {name: tuple(m.shape) for name, m in fullgrad.layer_maps(d).items()}
        {'0': (1, 1, 8, 8)}
    """
    _check_decomposition(decomposition)
    if depth is not None and type(depth) is not int:
        raise TypeError(f"depth must be an integer or None, not {depth!r}")
    if depth is not None and depth < 1:
        raise ValueError(f"depth must be at least 1, not {depth}")
    check_psi(psi)
    maps: dict[str, Tensor] = {}
    for term in decomposition.bias_terms:
        if any(p is not None for p in _placements(term, decomposition)):
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
    _check_decomposition(decomposition)
    check_psi(psi)
    d = decomposition
    chosen = selection(terms, _stages(t.module for t in d.bias_terms))
    shapes = [x.shape for x in d.inputs]
    locator = Locator(d.layouts, shapes, d.input_names, len(d.output), chosen, decomposed=True)
    accumulator = MapAccumulator(d.layouts.grids, psi)
    for t in reversed(d.bias_terms):
        location = locator.of(t.axes, t.kind, t.module, t.op, t.shape)
        if location:
            accumulator.add(location, accumulator.read(t.value, location))
    locator.check()
    if chosen.input:
        for i, value in enumerate(d.input_terms):
            location = locator.of_input(i)
            accumulator.add(location, accumulator.read(value, location))
    maps = accumulator.maps()
    return maps[0] if len(maps) == 1 else maps


def _stages(modules: Iterable[str]) -> set[str]:
    """Module paths with all that contain them."""
    parts = [m.split(".") for m in modules]
    return {".".join(p[:i]) for p in parts for i in range(1, len(p) + 1)}


@overload
def saliency(
    model: nn.Module,
    inputs: Tensor,
    target: Target = None,
    method: str = "fullgrad",
    **options: Unpack[SaliencyOptions],
) -> Tensor: ...
@overload
def saliency(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    target: Target = None,
    method: str = "fullgrad",
    **options: Unpack[SaliencyOptions],
) -> dict[str, Tensor]: ...
@overload
def saliency(
    model: nn.Module,
    inputs: Sequence[Tensor],
    target: Target = None,
    method: str = "fullgrad",
    **options: Unpack[SaliencyOptions],
) -> tuple[Tensor, ...]: ...
@takes_options("saliency", places="activation_layouts")
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
    mode: Mode = "eval",
    per_sample: bool = True,
    detached: Detached = "error",
    tolerance: float | None = None,
    layout: InputLayout = None,
    activation_layouts: ActivationLayouts | None = None,
    linearization: Named | Linearization = "jacobian",
    batch_size: BatchSize = None,
    memory: int | None = None,
    noise: Noise | None = None,
    top: int | None = None,
) -> Any:
    """The FullGrad saliency map (Srinivas & Fleuret 2019, equation 4).

    The same full-gradient as :func:`fullgrad.decompose`, its sum proved as well, but every term
    is reduced to what the map needs as soon as back-propagation reaches it.

    Args:
        model: any ``nn.Module`` whose terms lie on the input's grid.
        inputs: shape (B, C, *positions) with 1 to 3 spatial axes, or as ``layout`` says; a tuple
            or dict of them for models with several inputs.
        target: see :func:`fullgrad.decompose`; also some targets for each sample (a list of lists,
            one for each sample or a single one for all; an integer tensor of shape (B, k)), which
            cost one forward and k backward passes: ``[[3, 7, 9]]``. Of a dense output, rows of as
            many indices as it has axes beside the batch stay one index; write several as
            ``[[(5, 8), (3, 8)]]``. Items of a single list are targets as they are without it
            (callables return shape (B,)); those of a list for each sample are its own (callables
            get that sample's output, without the batch axis).
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
        per_sample: False explains the sum over the batch: a sample's map shows what lies at its
            own positions, whichever sample's output it adds to. ``batch_size`` cannot cut it.
        detached: see :func:`fullgrad.decompose`.
        tolerance: see :func:`fullgrad.decompose`.
        layout: see :func:`fullgrad.decompose`.
        activation_layouts: see :func:`fullgrad.decompose`.
        linearization: see :func:`fullgrad.decompose`.
        batch_size: how many samples (noisy copies count as such) go through the model together;
            ``"auto"`` takes as many as fit ``memory``, measured on the first one; None takes the
            whole batch. Tensors among the additional arguments whose first size is B are cut too.
        memory: bytes that ``batch_size="auto"`` may use; None for half of what is free.
        noise: of ``"smooth_fullgrad"``; None for :class:`fullgrad.maps.smoothing.Noise`'s defaults.
        top: instead of ``target``: this many classes with the highest outputs, in the order of
            ``model(inputs).topk(top)``.

    Returns:
        Shape (B, 1, *positions), or (B, k, *positions) for k targets for each sample, on the
        input's device; for a tuple or dict of inputs a tuple or dict of them, one for each
        explained input. A term that lies on several inputs' grids is shared equally among them.

    Raises:
        ValueError: an unknown method, or a value that an option cannot have.
        OptionError: an option that there is not, or that the method does not have; a ``TypeError``.
        LayoutError: where a term's numbers lie is not known.
        FullGradError: as :func:`fullgrad.decompose`.

    Example:
        >>> import torch, fullgrad
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten())
        >>> fullgrad.saliency(model, torch.ones(1, 3, 8, 8), target=0, psi="channel").shape
        torch.Size([1, 1, 8, 8])
        >>> fullgrad.saliency(model, torch.ones(2, 3, 8, 8), target=[[3, 7, 9]]).shape
        torch.Size([2, 3, 8, 8])
    """
    if method not in METHODS:
        raise ValueError(
            f"unknown method {method!r}; known: {', '.join(METHODS)}. Other methods are drawn by "
            "fullgrad.methods.attribute(name, model, inputs, target); fullgrad.methods.names() "
            "lists them"
        )
    check_psi(psi)
    chosen = selection(terms, paths_in(model))
    check_size(batch_size, memory, per_sample=per_sample)
    if not isinstance(noise, Noise | None):
        raise OptionError(f"noise must be a fullgrad.Noise, not {noise!r}")
    if noise is not None and method != "smooth_fullgrad":
        raise OptionError(f"noise is an option of 'smooth_fullgrad', not of {method!r}")
    if batch_size is not None or method == "smooth_fullgrad":
        check(inputs)  # before they are cut or made noisy
    request = Request(
        model,
        inputs,
        asked(target, top),
        additional_forward_args,
        forward_kwargs,
        mode,
        per_sample,
        detached,
        tolerance,
        layout,
        activation_layouts,
        linearization,
    )
    if method == "smooth_fullgrad":
        if not isinstance(inputs, Tensor):
            raise InputError(
                "smooth_fullgrad needs one input tensor to add noise to; pass the others through "
                "additional_forward_args"
            )
        check_one(inputs, "inputs")
        size = largest_minibatch(request, memory) if batch_size == "auto" else batch_size
        draw = partial(smoothed, chosen=chosen, psi=psi, noise=noise or Noise(), size=size)
        return packed(in_minibatches(request, draw, size, None), inputs)

    def open_sink(traced: Traced, number: int) -> Draw:
        return Draw(traced, chosen, psi, times_bias=method != "simple_fullgrad")

    def maps(part: Request) -> Maps:
        return beside(explain_each(part, open_sink))

    return packed(in_minibatches(request, maps, batch_size, memory), inputs)


def asked(target: Target, top: int | None) -> Target | Several | Top:
    """What a call explains that takes several targets for each sample.

    Raises:
        OptionError: both are given.
        TargetError: lists of unequal length, or empty ones.
        ValueError: top is not a positive integer.
    """
    if top is None:
        found: Target | Several = several(target)
        return found
    if target is not None:
        raise OptionError("top= chooses the classes itself: leave target out, or top")
    if type(top) is not int or top < 1:
        raise ValueError(f"top must be a positive integer, not {top!r}")
    return Top(top)

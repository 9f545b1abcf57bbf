"""The backward pass: each gradient meets its bias the moment autograd produces it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from fullgrad._decisions import tracing
from fullgrad.engine.tape import Entry, Handover, Shift, Step, Tape, View
from fullgrad.errors import ModelError

_WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32}

Receive = Callable[[int, Entry, Tensor], None]


def widen(t: Tensor) -> Tensor:
    """Half precision to float32: sums and products of terms are never taken in half."""
    wider = _WIDER.get(t.dtype)
    return t if wider is None else t.to(wider)


def _widened(t: Tensor | None) -> Tensor | None:
    return None if t is None else widen(t)


def bias_of(entry: Entry) -> Tensor:
    """Compute the bias of a recorded operation.

    Returns:
        A tensor that broadcasts to the shape of the operation's output.
    """
    assert not callable(getattr(entry.bias, "biases", None)), "general biases are resolved first"
    return entry.bias.compute(*(widen(h) for h in entry.held))  # type: ignore[union-attr]


def product(
    gradient: Tensor, bias: Tensor, may_be_infinite: bool, *, overwrite: bool = False
) -> Tensor:
    """Gradient times bias per neuron; an infinite bias (a mask) counts zero where no gradient is.

    For complex numbers the real inner product, matching autograd's convention for gradients.

    Args:
        gradient: at the operation's output.
        bias: broadcasts to it.
        may_be_infinite: the bias may hold infinities.
        overwrite: the result may take the bias's memory, if it has the gradient's shape.
    """
    if gradient.is_complex() or bias.is_complex():
        return (gradient.conj() * bias).real
    if overwrite and bias.shape == gradient.shape and bias.dtype == gradient.dtype:
        value = bias.mul_(gradient)
    else:
        value = gradient * bias
    if not may_be_infinite or _seen_finite(bias, gradient):
        return value
    return torch.where(gradient == 0, torch.zeros_like(value), value)


def _seen_finite(bias: Tensor, gradient: Tensor) -> bool:
    """Whether a bias that repeats a few numbers is finite; False where asking costs too much."""
    if bias.device.type != "cpu" or tracing():  # a GPU would be waited for
        return False
    few = bias[tuple(slice(None) if step else slice(1) for step in bias.stride())]
    return 8 * few.numel() <= gradient.numel() and bool(few.isfinite().all())


def _laid_out(gradient: Tensor, view: View) -> Tensor:
    """A gradient in the memory layout of the base that a view belongs to."""
    shape, strides = view[:2]
    like = torch.empty_strided(shape, strides, dtype=gradient.dtype, device=gradient.device)
    return like.copy_(gradient)


def at_view(gradient: Tensor, entry: Entry | Shift) -> Tensor:
    """The gradient of a view that was overwritten, out of the gradient of its base."""
    if entry.view is None:
        return gradient
    laid_out = _laid_out(gradient, entry.view)
    if laid_out.is_complex() and entry.real_view:
        laid_out = torch.view_as_real(laid_out)
    return laid_out.as_strided(entry.shape, entry.view[3], entry.view[2])


def _in_part(own: Handover) -> Callable[[Tensor | None], Tensor | None]:
    """From a gradient of the base to that of the part which the operation overwrote."""
    view, shape = own.view, own.shape
    assert view is not None
    assert shape is not None

    def part(gradient: Tensor | None) -> Tensor | None:
        if gradient is None:
            return None
        return _laid_out(gradient, view).as_strided(shape, view[3], view[2])

    return part


def _written(base: Tensor, part: Tensor | None, own: Handover) -> Tensor:
    """The base's gradient with that of the overwritten part in its place; None is zero."""
    assert own.view is not None
    assert own.shape is not None
    whole = _laid_out(base, own.view)
    place = whole.as_strided(own.shape, own.view[3], own.view[2])
    place.zero_() if part is None else place.copy_(part)
    return whole


def run(
    tape: Tape,
    output: Tensor,
    leaves: Sequence[Tensor],
    weights: Tensor,
    receive: Receive,
    *,
    keep_graph: bool = False,
    watching: Iterable[tuple[Any, Callable[..., None]]] = (),
    passing: Iterable[tuple[GradientEdge, Callable[[Tensor], None]]] = (),
) -> tuple[Tensor, ...]:
    """Propagate back from the explained scalars to the inputs.

    No gradient of a parameter is computed and no ``.grad`` is touched.

    Args:
        tape: the recorded forward.
        output: explained scalars, shape (B,).
        leaves: the inputs.
        weights: of each sample's scalar, shape (B,); ones for the explanation itself.
        receive: called with (place on the tape, entry, gradient at the entry's output, in the
            model's dtype) for every entry that the output depends on.
        keep_graph: leave the graph for another pass.
        watching: nodes, and what is called with the gradients below and above each of them.
        passing: edges, and what is called with the gradient that arrives there, before the terms
            of the operation that made it are received.

    Returns:
        The gradient of each input (zeros where the output does not depend on it).
    """

    def hook_for(place: int, entry: Entry) -> Callable[[tuple[Tensor | None, ...]], None]:
        def hook(gradients: tuple[Tensor | None, ...]) -> None:
            gradient = gradients[entry.slot]
            if gradient is not None:
                receive(place, entry, at_view(gradient.detach(), entry))

        return hook

    def relayout(memory_format: torch.memory_format) -> Callable[..., tuple[Any, ...]]:
        def hook(gradients: tuple[Tensor | None, ...]) -> tuple[Any, ...]:
            first = gradients[0]
            if first is None:
                return gradients
            return (first.contiguous(memory_format=memory_format), *gradients[1:])

        return hook

    def hand_on(own: Handover) -> Callable[..., tuple[Any, ...]]:
        def hook(below: Sequence[Tensor | None], above: Sequence[Tensor | None]) -> tuple[Any, ...]:
            part = (lambda g: g) if own.view is None else _in_part(own)
            given = [part(below[i]) if i == 0 else below[i] for i in own.places]
            reached = [None if s is None else _widened(part(above[s])) for s in own.slots]
            found = own.transpose(given, reached, *map(widen, own.held))
            handed = list(below)
            for i, g, plain in zip(own.places, found, given, strict=True):
                handed[i] = None if g is None or plain is None else g.to(plain.dtype)
                if own.view is not None and i == 0 and below[0] is not None:
                    handed[0] = _written(below[0], handed[0], own)
            if not keep_graph:
                own.held = ()
            return tuple(handed)

        return hook

    def at_edge(slot: int, reach: Callable[[Tensor], None]) -> Callable[..., None]:
        def hook(gradients: tuple[Tensor | None, ...]) -> None:
            gradient = gradients[slot]
            if gradient is not None:
                reach(gradient.detach())

        return hook

    handles: list[Any] = []
    try:
        for edge, reach in passing:
            handles.append(edge.node.register_prehook(at_edge(edge.output_nr, reach)))
        for handover in tape.handovers:
            handles.append(handover.node.register_hook(hand_on(handover)))
        for node, watch in watching:
            handles.append(node.register_hook(watch))
        for node, memory_format in tape.relayout:
            handles.append(node.register_prehook(relayout(memory_format)))
        for place, entry in enumerate(tape.entries):
            handles.append(entry.node.register_prehook(hook_for(place, entry)))
        with torch.inference_mode(False), torch.autocast(output.device.type, enabled=False):
            try:
                gradients = torch.autograd.grad(
                    output,
                    list(leaves),
                    grad_outputs=weights.to(output.dtype),
                    retain_graph=keep_graph,
                    allow_unused=True,
                )
            except RuntimeError as error:
                if "modified by an inplace operation" not in str(error):
                    raise
                raise ModelError(
                    "the model overwrites in-place a value that its gradient needs, so it has no "
                    f"gradient at all. Use the out-of-place operation. PyTorch says: {error}"
                ) from error
    finally:
        for handle in handles:
            handle.remove()
    return tuple(
        torch.zeros_like(leaf) if g is None else g.detach()
        for g, leaf in zip(gradients, leaves, strict=True)
    )


def _finite(gradients: Sequence[Tensor | None]) -> bool:
    return all(bool(g.isfinite().all()) for g in gradients if g is not None)


def local_gaps(
    steps: Sequence[Step], tape: Tape, output: Tensor, leaves: Sequence[Tensor]
) -> tuple[list[tuple[str, str, float]], float]:
    """Where the sum breaks: for each operation, how far its own terms are from balancing.

    For y = op(u) with bias b, back-propagation must carry <g, y> = sum <g_u, u> + <g, b>.

    Args:
        steps: arguments and outputs of every operation (a recorder with ``keep_steps``).
        tape: the tape of that recording.
        output: explained scalars, shape (B,).
        leaves: the inputs.

    Returns:
        (module, operation, relative gap), the largest gap first, infinite where the gradient ceases
        to be finite; and the largest sum of the
        absolute values of one operation's numbers, times their gradients: what rounding is
        relative to where they cancel.
    """
    sizes = [0.0]
    biases: dict[Any, float] = {}
    gaps: list[tuple[str, str, float]] = []

    def receive(place: int, entry: Entry, gradient: Tensor) -> None:
        value = product(widen(gradient), bias_of(entry), entry.bias.may_be_infinite)
        biases[entry.node] = biases.get(entry.node, 0.0) + float(value.sum(dtype=torch.float64))

    def inner(a: Tensor | None, b: Tensor | None) -> float:
        if a is None or b is None:
            return 0.0
        value = product(widen(a.detach()), widen(b), True)
        sizes.append(float(value.abs().sum(dtype=torch.float64)))
        return float(value.sum(dtype=torch.float64))

    def hook_for(step: Step) -> Callable[..., None]:
        def hook(inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None]) -> None:
            pairs = [(g, y) for g, y in zip(outputs, step.outputs, strict=False) if g is not None]
            if any(y is not None and g.shape != y.shape for g, y in pairs):
                return  # a view was overwritten: the node is its base's
            if _finite(outputs) and not _finite(inputs):
                gaps.append((step.module, step.op, math.inf))
                return
            above = sum(inner(g, y) for g, y in pairs)
            below = 0.0
            used: set[int] = set()
            for (node, nr), g in zip(step.node.next_functions, inputs, strict=False):
                for i, (u_node, u_nr, u) in enumerate(step.edges):
                    if i not in used and u_node is node and u_nr == nr:
                        used.add(i)
                        below += inner(g, u)
                        break
            b = biases.get(step.node, 0.0)
            scale = abs(above) + abs(below) + abs(b)
            if scale > 0:
                gaps.append((step.module, step.op, abs(above - below - b) / scale))

        return hook

    watching = [(step.node, hook_for(step)) for step in steps]
    run(tape, output, leaves, torch.ones_like(output), receive, watching=watching)
    return sorted(gaps, key=lambda gap: -gap[2]), max(sizes)

"""Which sample each number belongs to, asked of back-propagation where axes do not tell."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fullgrad._decisions import tracing
from fullgrad.engine import backward, samples
from fullgrad.engine.request import Request, Traced
from fullgrad.engine.tape import Entry
from fullgrad.engine.targets import SQUEEZED
from fullgrad.errors import GraphError, ModelError


@samples.repeatable()
def find_samples(request: Request, traced: Traced) -> tuple[dict[int, Tensor], list[Tensor]]:
    """Which sample each number of each term, and of each input, belongs to."""
    if tracing():
        raise GraphError(
            "which sample each number belongs to is asked of several backward passes, whose "
            "answers a graph does not hold."
        )
    base = samples.base_for(traced.output.dtype)
    output, leaves, batch = traced.output, traced.prepared.leaves, len(traced.output)
    plain: dict[int, Tensor] = {}
    digits: dict[int, list[Tensor]] = {}

    def keep(place: int, entry: Entry, gradient: Tensor) -> None:
        plain[place] = backward.widen(gradient)

    ones = torch.ones_like(output)
    inputs = backward.run(traced.tape, output, leaves, ones, keep, keep_graph=True)
    input_digits: list[list[Tensor]] = [[] for _ in leaves]

    def read(before: Tensor, after: Tensor, into: list[Tensor]) -> None:
        digit = samples.digits_of(before, after, output.dtype)
        if digit is None:
            raise _coupled(request, traced)
        into.append(digit)

    for number in range(samples.passes(batch, base)):
        weights = samples.weights(batch, number, output.detach())

        def compare(place: int, entry: Entry, gradient: Tensor) -> None:
            read(plain[place], backward.widen(gradient), digits.setdefault(place, []))

        again = backward.run(traced.tape, output, leaves, weights, compare, keep_graph=True)
        for before, after, into in zip(inputs, again, input_digits, strict=True):
            read(backward.widen(before), backward.widen(after), into)
    return (
        {place: samples.combine(d, base) for place, d in digits.items()},
        [samples.combine(d, base) for d in input_digits],
    )


def _coupled(request: Request, traced: Traced) -> ModelError:
    if traced.layouts.samples == 1:
        return ModelError(
            f"the input holds one sample, but the output counts {len(traced.output)}, which depend "
            f"on each other: {SQUEEZED}"
        )
    whole = ", or pass per_sample=False to explain the batch's sum"
    return ModelError(
        "the samples of the batch depend on each other (batch statistics, or an operation across "
        "the batch), so no sample has terms of its own. Explain one sample at a time, or use "
        f"evaluation mode{whole if request.takes_per_sample else ''}."
    )


def needs_labels(traced: Traced) -> bool:
    batch = len(traced.output)
    parts = [(e.axes, e.shape) for e in traced.tape.entries]
    parts += zip(traced.layouts.axes, (x.shape for x in traced.prepared.leaves), strict=True)
    unknown = [shape for axes, shape in parts if samples.along(axes, batch) is None]
    return not all(samples.leading(shape, batch) for shape in unknown)


def may_be_coupled(request: Request, model: nn.Module) -> bool:
    """Training-mode layers may mix samples, too little for the sums to show."""
    return request.mode == "as_is" and any(m.training for m in model.modules())

"""Baselines of the complete map, and the path from one to the input in steps that add up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor

from fullgrad.axes.layouts import Layouts, input_layouts
from fullgrad.engine._baseline import Way, in_place_of
from fullgrad.engine.inputs import baseline_like, check_baseline, prepare
from fullgrad.engine.pipeline import forward
from fullgrad.engine.request import Request
from fullgrad.engine.targets import Several, predicts
from fullgrad.errors import InputError, OptionError
from fullgrad.maps.complete_sink import LEFT_OUT, REFERENCE, Explained
from fullgrad.maps.selection import Terms

Steps: TypeAlias = "int | Literal['auto']"
MANY = 8  # steps, where one is not enough
_EXACT = 1e-3  # of the sum of the sizes of a map's numbers: rounding, and near ties

Baseline: TypeAlias = "float | Tensor | str | Sequence[Tensor | str] | None"


def zero_in_words(baseline: Baseline) -> str:
    """Where the input term is zero.

    Raises:
        ValueError: no number, tensor or sequence of tensors.
    """
    if baseline is None:
        return "zero of the input"
    for each in baseline if isinstance(baseline, (list, tuple)) else (baseline,):
        check_baseline(each, or_mean=True)
    if isinstance(baseline, str):
        return "the mean over positions of each sample and channel"
    if isinstance(baseline, (list, tuple)) and baseline and all(type(b) is str for b in baseline):
        return zero_in_words("mean")
    numbers = isinstance(baseline, (int, float))
    return f"{baseline:g} everywhere in the input" if numbers else "the given baseline"


def references(
    baseline: Baseline, start: int, count: int | None, leaves: Sequence[Tensor], layouts: Layouts
) -> list[Tensor]:
    """The reference of each explained input, in its shape.

    Args:
        baseline: as it was given, not None.
        start: the first of the explained samples, of a baseline that has all of them.
        count: of the samples of the whole call; None if it is not cut.
        leaves: the explained inputs.
        layouts: of them.

    Raises:
        InputError: a baseline that does not fit the inputs.
    """
    given = list(baseline) if isinstance(baseline, (list, tuple)) else [baseline] * len(leaves)
    if len(given) != len(leaves):
        raise InputError(f"{len(given)} baselines were given for {len(leaves)} inputs")
    found = []
    for i, (each, x) in enumerate(zip(given, leaves, strict=True)):
        axis = layouts.batch_axis(i)
        if isinstance(each, Tensor) and each.dim() == x.dim() > 0:
            own = _of_samples(each, x, axis, start, count)
            found.append(own.detach().to(x).expand_as(x).clone())
        else:
            found.append(baseline_like(cast("Any", each), x, layouts.positions(i)))
    return found


def _of_samples(baseline: Tensor, x: Tensor, axis: int, start: int, count: int | None) -> Tensor:
    """The rows of a baseline for some samples of the call.

    Raises:
        InputError: it has another shape, or rows for another number of samples.
    """
    own = x.shape[axis]
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    whole, one = ((*before, n, *after) for n in (own if count is None else count, 1))
    if baseline.shape == one:
        return baseline
    if baseline.shape == whole:
        return baseline.narrow(axis, start, own)
    raise InputError(
        f"a baseline must have shape {whole} or {one} for all samples, not {tuple(baseline.shape)}"
    )


def check_steps(steps: Steps, baseline: Baseline, terms: Terms) -> None:
    """Refuse steps that cannot be taken.

    Raises:
        ValueError: neither a positive whole number nor ``"auto"``.
        OptionError: several steps without a baseline, or of terms that are the same at each.
    """
    if steps != "auto" and (type(steps) is not int or steps < 1):
        raise ValueError(f"steps must be a positive whole number or 'auto', not {steps!r}")
    if steps == 1:
        return
    if baseline is None:
        raise OptionError(
            f"steps={steps!r} lead from a baseline to the input: give baseline='mean', a number or "
            "a tensor"
        )
    if terms != "input":
        raise OptionError(
            f"steps={steps!r} add up what changes on the way, and bias terms do not: give "
            "terms='input', or steps=1"
        )


def in_steps(
    request: Request, steps: Steps, explained: Callable[[Request], list[Explained]]
) -> list[Explained]:
    """The map of a request with a reference, for each target, in that many steps.

    Raises:
        FullGradError: as :func:`fullgrad.decompose`.
    """
    if steps == 1:
        return explained(request)
    request = replace(request, target=_fixed(request))
    if steps != "auto":
        return along(request, steps, explained)
    first = [_settled(each) for each in explained(request)]
    _, starts = _ends(request)
    there = forward(_plain(replace(request, inputs=in_place_of(request.inputs, starts))))
    enough = [_adds_up(e, f.output) for e, f in zip(first, there, strict=True)]
    if all(bool(each.all()) for each in enough):
        return first
    many = along(request, MANY, explained)
    return [_chosen(*each) for each in zip(enough, first, many, strict=True)]


def _adds_up(step: Explained, at_start: Tensor) -> Tensor:
    """Whether the map adds up to what changes between baseline and input, shape (B,).

    In half precision as far as its sums can tell.
    """
    maps = [m.flatten(1).double() for m in step.maps]
    total, size = sum(m.sum(1) for m in maps), sum(m.abs().sum(1) for m in maps)
    changes = step.output.double() - at_start.double()
    return torch.as_tensor((changes - total).abs() <= max(_EXACT, step.rounding) * size)


def _chosen(first: Tensor, a: Explained, b: Explained) -> Explained:
    """The first result for the samples that are named, the second for the others."""

    def pick(one: Tensor, other: Tensor) -> Tensor:
        return torch.where(first.view(-1, *[1] * (one.dim() - 1)), one, other)

    zero = torch.zeros_like(a.residual)
    names = dict.fromkeys((*b.stages, *a.stages))
    return replace(
        b,
        maps=tuple(pick(*pair) for pair in zip(a.maps, b.maps, strict=True)),
        stages={n: pick(a.stages.get(n, zero), b.stages.get(n, zero)) for n in names},
        residual=pick(a.residual, b.residual),
        layers=tuple(dict.fromkeys((*a.layers, *b.layers))),
        steps=pick(a.steps, b.steps),
    )


def _ends(request: Request) -> tuple[list[Tensor], list[Tensor]]:
    """The explained inputs, and their reference."""
    own = prepare(request.inputs)
    ends = [x.detach() for x in own.leaves]
    layouts = input_layouts([x.shape for x in ends], own.names, request.layout)
    assert request.reference is not None
    return ends, request.reference(ends, layouts)


def _plain(request: Request) -> Request:
    """The same forward pass, without what the map needs."""
    return replace(request, linearization="jacobian", reference=None, with_cuts=False)


def along(
    request: Request, steps: int, explained: Callable[[Request], list[Explained]]
) -> list[Explained]:
    """The maps of the steps from the baseline to the input, added, one for each target.

    Args:
        request: with a reference, and a target that does not depend on the point.
        steps: how many, of equal length.
        explained: what one request gives.

    Raises:
        FullGradError: as :func:`fullgrad.decompose`.
    """
    ends, starts = _ends(request)
    before, way = starts, Way(steps - 1)
    request = replace(request, way=way)
    found: list[Explained] = []
    for step in range(1, steps + 1):
        here = [a + (b - a) * (step / steps) for a, b in zip(starts, ends, strict=True)]
        here = ends if step == steps else here
        inputs = in_place_of(request.inputs, here)
        own = explained(replace(request, inputs=inputs, reference=_given(before)))
        found = [_added(a, b) for a, b in zip(found, own, strict=True)] if found else own
        before = here
        way.step()
    return [_settled(each) for each in found]


def _given(values: list[Tensor]) -> Callable[[Sequence[Tensor], Layouts], list[Tensor]]:
    return lambda leaves, layouts: values


def _fixed(request: Request) -> Any:
    """The target that the input itself has, for all points on the way to it."""
    if not predicts(request.target):
        return request.target
    targets = [selected.target for selected in forward(_plain(request))]
    several = not (request.target is None or len(targets) == 1)
    return Several([targets]) if several else targets[0]


def _settled(found: Explained) -> Explained:
    """What the baseline has of the output, bias terms included, which cancel between steps."""
    stages = dict(found.stages)
    if LEFT_OUT in stages:
        stages[REFERENCE] = stages[REFERENCE] + stages.pop(LEFT_OUT)
    return replace(found, stages=stages)


def _added(so_far: Explained, step: Explained) -> Explained:
    """One more step: its reference is the end of those before, whose output is counted there."""
    stages = dict(so_far.stages)
    for name, value in {**step.stages, REFERENCE: step.stages[REFERENCE] - so_far.output}.items():
        stages[name] = stages[name] + value if name in stages else value
    return Explained(
        maps=tuple(a + b for a, b in zip(so_far.maps, step.maps, strict=True)),
        stages=stages,
        output=step.output,
        residual=so_far.residual + step.residual,
        target=step.target,
        names=step.names,
        layers=tuple(dict.fromkeys((*so_far.layers, *step.layers))),
        steps=so_far.steps + step.steps,
    )

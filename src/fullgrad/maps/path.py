"""Baselines of the complete map, and the path from one to the input in steps that add up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

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
    numbers = isinstance(baseline, (int, float))
    return f"{baseline:g} everywhere in the input" if numbers else "the given baseline"


def references(
    baseline: Baseline, part: slice, leaves: Sequence[Tensor], layouts: Layouts
) -> list[Tensor]:
    """The reference of each explained input, in its shape.

    Args:
        baseline: as it was given, not None.
        part: the explained samples, from the first one on, of a baseline that has all of them.
        leaves: the explained inputs.
        layouts: of them.

    Raises:
        InputError: a baseline that does not fit the inputs.
    """
    given = list(baseline) if isinstance(baseline, (list, tuple)) else [baseline] * len(leaves)
    if len(given) != len(leaves):
        raise InputError(f"{len(given)} baselines were given for {len(leaves)} inputs")
    found = []
    own: Any
    for i, (each, x) in enumerate(zip(given, leaves, strict=True)):
        own = each
        if isinstance(each, Tensor) and each.dim() == x.dim() and len(each) > 1:
            own = each[part][: len(x)]
        found.append(baseline_like(own, x, layouts.positions(i)))
    return found


def check_steps(steps: int, baseline: Baseline, terms: Terms) -> None:
    """Refuse steps that cannot be taken.

    Raises:
        ValueError: not a positive whole number.
        OptionError: several steps without a baseline, or of terms that are the same at each.
    """
    if type(steps) is not int or steps < 1:
        raise ValueError(f"steps must be a positive whole number, not {steps!r}")
    if steps == 1:
        return
    if baseline is None:
        raise OptionError(
            f"steps={steps} lead from a baseline to the input: give baseline='mean', a number or a "
            "tensor"
        )
    if terms != "input":
        raise OptionError(
            f"steps={steps} add up what changes on the way, and bias terms do not: give "
            "terms='input', or steps=1"
        )


def along(
    request: Request, steps: int, explained: Callable[[Request], list[Explained]]
) -> list[Explained]:
    """The maps of the steps from the baseline to the input, added, one for each target.

    Args:
        request: with a reference.
        steps: how many, of equal length.
        explained: what one request gives.

    Raises:
        FullGradError: as :func:`fullgrad.decompose`.
    """
    leaves = prepare(request.inputs)
    ends = [x.detach() for x in leaves.leaves]
    layouts = input_layouts([x.shape for x in ends], leaves.names, request.layout)
    assert request.reference is not None
    starts = before = request.reference(ends, layouts)
    found: list[Explained] = []
    way = Way(steps - 1)
    request = replace(request, target=_fixed(request), way=way)
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
    plain = replace(request, linearization="jacobian", reference=None, with_cuts=False)
    targets = [selected.target for selected in forward(plain)]
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
    )

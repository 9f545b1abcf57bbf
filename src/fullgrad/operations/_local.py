"""The linear maps of one executed call, and maps that serve many operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from fullgrad.operations._origins import OriginOf
from fullgrad.operations.call import Bias, Call, dependents, tensors_in

Gradients: TypeAlias = "Sequence[Tensor | None]"

_NEAR = 2.0**-10  # of a number in half precision: points that near are moved apart


class Transpose(Protocol):
    """The transposed maps: from gradients at the outputs to one for each dependent argument."""

    def __call__(self, given: Gradients, above: Gradients, *held: Tensor) -> Gradients:
        """Hand gradients on.

        Args:
            given: what autograd hands to each dependent argument, in order: by the Jacobian.
            above: the gradients at the outputs.
            held: the tensors that the rule asked to hold.
        """


@dataclass(frozen=True, slots=True)
class Local:
    """The linear maps of one executed call.

    Args:
        biases: what they leave over, b = y - sum L u, of each output; none for zero.
        transpose: hands gradients on; None: as autograd does.
        held: tensors that ``transpose`` reads; they are copied should the model overwrite them.
    """

    biases: tuple[Bias, ...] = ()
    transpose: Transpose | None = None
    held: tuple[Tensor, ...] = ()


# From a call, and the origin of a value, to its maps; None for the Jacobian.
LocalRule: TypeAlias = Callable[[Call, OriginOf], "Local | None"]


# -- transposed maps that serve many operations -----------------------------------------------


def scaled(*factors: float | None) -> Transpose:
    """Hand on what autograd does, times a factor for each dependent argument; None: nothing."""

    def transpose(given: Gradients, above: Gradients, *held: Tensor) -> Gradients:
        return [
            None if g is None or factor is None else g if factor == 1 else g * factor
            for g, factor in zip(given, factors, strict=True)
        ]

    return transpose


def each_dependent(
    call: Call, factors: Mapping[int, float | None], others: float | None = 1.0
) -> Transpose:
    """Hand on what autograd does, times a factor for the arguments at some places.

    Args:
        call: the operation.
        factors: by the place of the argument; None hands nothing on.
        others: of all other arguments.
    """
    listed = [*call.args, *call.kwargs.values()]
    own = [
        factors.get(i, others)
        for i, v in enumerate(listed)
        for t in tensors_in([v])
        if call.depends(t)
    ]
    return scaled(*own)


def of_factors(call: Call, places: Sequence[int], origin_of: OriginOf) -> Transpose | None:
    """The maps of a product: a gate is constant, and two activations have a half each.

    Args:
        call: the operation.
        places: of its arguments that are multiplied; all others are added.
        origin_of: where a value comes from.

    Returns:
        None if at most one factor depends on the input, or only gates do: the Jacobian.
    """
    live = {i: origin_of(call.args[i]) for i in places if call.depends(call.args[i])}
    gates = {i for i, origin in live.items() if origin is not None and origin.is_gate}
    if len(gates) == len(live):  # as a fused attention over gates: its weights are the gate
        gates = {i for i in gates if (origin := live[i]) is not None and origin.made == "weights"}
        if not gates:
            return None
    if len(live) < 2 or len(gates) == len(live):
        return None
    rest = 1 / (len(live) - len(gates))
    return each_dependent(call, {i: None if i in gates else rest for i in live})


def product(*places: int) -> LocalRule:
    """Make the rule of a product of the arguments at these places, without anything added."""

    def rule(call: Call, origin_of: OriginOf) -> Local | None:
        transpose = of_factors(call, places, origin_of)
        return None if transpose is None else Local((), transpose)

    return rule


def degree(k: float) -> LocalRule:
    """Make the rule of an operation of degree k > 0 in its first argument: J/k leaves nothing."""

    def rule(call: Call, origin_of: OriginOf) -> Local | None:
        return Local((), scaled(1 / k)) if depends_on_first_alone(call) else None

    return rule


def depends_on_first_alone(call: Call) -> bool:
    """Whether no other argument depends on the input."""
    return len(dependents(call)) == 1 and call.depends(call.args[0])


def secant(zero: float = 0.0, slope: float = 0.0) -> LocalRule:
    """Make the rule of an element-wise g: the slope (g(u) - g(0)) / u, which leaves g(0).

    Args:
        zero: g(0).
        slope: g'(0), which stands for the quotient where it would lose its digits; where g(0) is
            zero it loses none, and the derivative stands at u = 0.
    """
    return lambda call, origin_of: secant_of(call, zero, slope)


def secant_of(call: Call, zero: float, slope: float) -> Local | None:
    """The secant of one call; see :func:`secant`."""
    u, y = call.args[0], call.outputs[0]
    if not depends_on_first_alone(call) or y.is_complex() or u.dtype != y.dtype:
        return None
    limits = torch.finfo(y.dtype)
    smallest = limits.eps**0.5 if zero else limits.tiny
    held = (u.detach(), call.output)

    def transpose(given: Gradients, above: Gradients, *held: Tensor) -> Gradients:
        gradient, (u, y) = above[0], held
        if gradient is None or given[0] is None:
            return given
        near = gradient * slope if zero else given[0]
        quotient = (y - zero) / u if zero else y / u
        return [torch.where(u.abs() <= smallest, near, quotient.mul_(gradient))]

    def left(u: Tensor, y: Tensor) -> Tensor:
        near = torch.where(u.abs() <= smallest, y - slope * u, zero)
        return torch.where(torch.isinf(u), y, near)  # a masked score

    biases = (Bias("implicit", left, held, samplewise=True),) if zero else ()
    return Local(biases, transpose, held)


def of_numbers(call: Call) -> bool:
    """Whether each real number of the output comes of one of the first argument, and no other."""
    u, y = call.args[0], call.outputs[0]
    alike = u.shape == y.shape and u.dtype == y.dtype and not y.is_complex()
    return alike and depends_on_first_alone(call)


def quotient_of(call: Call, value: Tensor, result: Tensor) -> Local:
    """The difference quotient of an element-wise call between two points, exact at both.

    Where the points are so near that it loses its digits, the slope is 0: what does not change
    hands nothing on. In half precision that would be so for points some percent apart, so there
    both are computed again in float64, and equal points moved apart.

    Args:
        call: of one argument that depends on the input.
        value: its argument on the baseline.
        result: what it returned there.
    """
    u, y = call.args[0].detach(), call.output
    if torch.finfo(u.dtype).bits <= 16:
        slope = _slope_of_half(call, value)
    else:
        up, across = y - result, u - value
        least = torch.finfo(u.dtype).eps ** 0.5 * torch.maximum(u.abs(), value.abs())
        apart = (across.abs() > least) & torch.isfinite(across) & torch.isfinite(up)
        slope = torch.where(apart, up / across, 0.0)

    def transpose(given: Gradients, above: Gradients, *held: Tensor) -> Gradients:
        gradient = above[0]
        return [None if gradient is None or given[0] is None else gradient * held[0]]

    def left(slope: Tensor, u: Tensor, y: Tensor) -> Tensor:
        return torch.where(slope == 0, y, y - slope * u)

    held = (slope, u, y)
    return Local((Bias("implicit", left, held, samplewise=True),), transpose, held)


def _slope_of_half(call: Call, value: Tensor) -> Tensor:
    """The difference quotient of numbers in half precision, computed in float64.

    Points nearer than a thousandth, which is less than the spacing of most of their numbers, are
    moved apart by that much: away from zero below it and toward it above, so that none crosses it.
    """

    def wide(v: Any) -> Any:
        return v.detach().double() if isinstance(v, Tensor) and v.is_floating_point() else v

    rest, named = [wide(v) for v in call.args[1:]], {k: wide(v) for k, v in call.kwargs.items()}

    def computed(at: Tensor) -> Tensor:
        found = call.func(at.clone(), *rest, **named)
        made: Tensor = found[0] if isinstance(found, (tuple, list)) else found
        return made

    u, there = wide(call.args[0]), wide(value)
    least = (u.abs() * _NEAR).clamp_(min=_NEAR**3)
    there = torch.where((u - there).abs() < least, u - least, there)
    slope = (computed(u) - computed(there)) / (u - there)
    return torch.where(torch.isfinite(slope), slope, 0.0).to(value.dtype)

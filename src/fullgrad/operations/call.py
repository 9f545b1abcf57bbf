"""One executed operation (:class:`Call`), and what a bias rule answers (:class:`Bias`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

Kind: TypeAlias = Literal["explicit", "implicit", "both"]


@dataclass(frozen=True, slots=True)
class Bias:
    """A bias b of one output, not yet computed: ``compute(*held)``.

    Args:
        kind: ``explicit`` (a constant the model adds), ``implicit`` (what a non-linearity leaves
            over), or ``both``.
        compute: from ``held`` to b, of any shape that broadcasts to the output's.
        held: the tensors the computation reads; they are copied should the model overwrite them.
        output: which output of the operation this is the bias of.
        may_be_infinite: b may hold infinities (an attention mask) where the gradient is zero.
        samplewise: a slice of b along its first axis is computed from the same slices of those
            held tensors that have b's number of axes and its first size, and from the others.
    """

    kind: Kind
    compute: Callable[..., Tensor]
    held: tuple[Tensor, ...] = ()
    output: int = 0
    may_be_infinite: bool = False
    samplewise: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One executed operation, as its bias rule sees it.

    ``args`` are those before execution, except that an in-place operation's first argument is a
    copy of what it was if the rule asked for it (``reads_input``) and must not be read otherwise.
    ``sample_axes`` are the axes of the first output that count samples; None if not known.
    """

    func: Any
    name: str
    names: tuple[str, ...]
    defaults: tuple[Any, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Any, ...]
    depends: Callable[[Any], bool]
    in_place: bool = False
    sample_axes: tuple[int, ...] | None = None

    def get(self, name: str, default: Any = None) -> Any:
        """The argument of that name in the operation's schema, or ``default`` if it has none."""
        if name in self.kwargs:
            return self.kwargs[name]
        if name not in self.names:
            return default
        place = self.names.index(name)
        return self.args[place] if place < len(self.args) else self.defaults[place]

    @property
    def output(self) -> Tensor:
        """The first output, outside the autograd graph."""
        return self.outputs[0].detach()  # type: ignore[no-any-return]


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among arguments, those in lists as well."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)


def dependents(call: Call) -> list[Tensor]:
    """The tensor arguments that depend on the input, in order."""
    return [t for t in tensors_in((*call.args, *call.kwargs.values())) if call.depends(t)]


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where a tensor stood among the arguments."""

    place: int


class Template:
    """Arguments of a call without their tensors, into which others can be put.

    Args:
        call: the call.
    """

    def __init__(self, call: Call) -> None:
        self.tensors: list[Tensor] = []
        self.varies: list[bool] = []

        def strip(value: Any) -> Any:
            if isinstance(value, Tensor):
                self.varies.append(call.depends(value))
                self.tensors.append(value.detach())
                return _Slot(len(self.tensors) - 1)
            if isinstance(value, (list, tuple)):
                return type(value)(map(strip, value))
            return value

        self._args = strip(tuple(call.args))
        self._kwargs = {k: strip(v) for k, v in call.kwargs.items()}

    def filled(self, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments with these values in place of the tensors."""

        def fill(value: Any) -> Any:
            if isinstance(value, _Slot):
                return values[value.place]
            if isinstance(value, (list, tuple)):
                return type(value)(map(fill, value))
            return value

        return fill(self._args), {k: fill(v) for k, v in self._kwargs.items()}


def held_call(call: Call) -> tuple[tuple[Tensor, ...], Callable[[Tensor, Sequence[Tensor]], Call]]:
    """The tensors of a call outside the graph, and a function that puts them back.

    Returns:
        The tensors; and from the first output and such tensors to the call with them.
    """
    template = Template(call)

    def again(output: Tensor, values: Sequence[Tensor]) -> Call:
        args, kwargs = template.filled(values)
        varying = {id(v) for v, varies in zip(values, template.varies, strict=True) if varies}
        return replace(
            call, args=args, kwargs=kwargs, outputs=(output,), depends=lambda v: id(v) in varying
        )

    return tuple(template.tensors), again


# A rule answers with the biases of the outputs that have one (all others are zero), or None for
# "not this call": the forward-mode fallback then takes it.
BiasRule: TypeAlias = Callable[[Call], "tuple[Bias, ...] | None"]

NO_BIAS: tuple[Bias, ...] = ()


def no_bias(call: Call) -> tuple[Bias, ...]:
    """The rule of an operation that is linear in all its float arguments jointly.

    Args:
        call: any.

    Returns:
        No bias: y - sum_i J_i u_i is zero.
    """
    return NO_BIAS


def scaled_output(call: Call, factor: float) -> tuple[Bias, ...]:
    """The bias ``factor`` times the output.

    By Euler's theorem an operation of degree k leaves (1 - k) y.

    Args:
        call: the executed operation.
        factor: 1 - k.

    Returns:
        The bias of the first output; none if ``factor`` is zero.
    """
    if factor == 0:
        return NO_BIAS
    return (Bias("implicit", lambda y: factor * y, (call.output,), samplewise=True),)


def explicit(
    value: Tensor, factor: Any, shape: torch.Size, may_be_infinite: bool = True
) -> tuple[Bias, ...]:
    """The bias ``factor * value``, a constant that the model adds.

    Args:
        value: broadcasts to the output.
        factor: a number.
        shape: of the output.
        may_be_infinite: see :class:`Bias`.

    Returns:
        The bias of the first output.
    """
    return (
        Bias(
            "explicit",
            lambda c: (c if factor == 1 else factor * c).expand(shape),
            (value,),
            may_be_infinite=may_be_infinite,
        ),
    )

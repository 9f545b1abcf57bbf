"""What a rule sees (:class:`Call`), what it answers (:class:`Bias`), and the table of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
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
    """One executed operation.

    ``args`` are those before execution, except that an in-place operation's first argument is a
    copy of what it was if the rule asked for it (``Rule.reads_input``) and must not be read
    otherwise.
    """

    func: Any
    names: tuple[str, ...]
    defaults: tuple[Any, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Any, ...]
    depends: Callable[[Any], bool]
    in_place: bool = False

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


# A rule answers with the biases of the outputs that have one (all others are zero), or None for
# "not by me": the general path then takes the call.
RuleFunction: TypeAlias = Callable[[Call], tuple[Bias, ...] | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule and what the recorder must prepare for it."""

    function: RuleFunction
    family: str
    reads_input: bool = field(default=False)
    autograd_keeps_input: bool = field(default=False)


_RULES: dict[str, Rule] = {}

# Called when a rule is registered, by those that keep what they looked up.
on_change: list[Callable[[], None]] = []

NO_BIAS: tuple[Bias, ...] = ()


def register(
    names: str | Iterable[str],
    function: RuleFunction,
    *,
    family: str,
    reads_input: bool = False,
    autograd_keeps_input: bool = False,
) -> None:
    """Register the bias rule of operations.

    Args:
        names: operation names as PyTorch's dispatcher knows them, with or without a trailing
            underscore (``"aten::relu"`` or ``"relu"``; another namespace needs its prefix).
        function: from the executed :class:`Call` to the biases of its outputs: an empty tuple
            says that the operation has none, ``None`` that the rule does not cover this call.
        family: the algebraic class, for listings.
        reads_input: the rule reads arguments that an in-place variant overwrites.
        autograd_keeps_input: of the in-place variant, autograd itself keeps the first argument as
            it was (``grad_fn._saved_self``), so that no copy is needed.

    Raises:
        ValueError: an operation has a rule already.
    """
    for name in [names] if isinstance(names, str) else names:
        key = name if "::" in name else f"aten::{name}"
        if key in _RULES:
            raise ValueError(f"{key} has a bias rule already")
        _RULES[key] = Rule(function, family, reads_input, autograd_keeps_input)
    for notify in on_change:
        notify()


def rule_for(schema_name: str) -> Rule | None:
    """The rule for an operation; an in-place variant shares its functional twin's rule."""
    rule = _RULES.get(schema_name)
    if rule is None and schema_name.endswith("_"):
        rule = _RULES.get(schema_name[:-1])
    return rule


def registered() -> dict[str, Rule]:
    """All rules by operation name."""
    return dict(_RULES)


def expand(value: Tensor, shape: torch.Size) -> Tensor:
    """A constant at the shape of the output it is added to."""
    return value.expand(shape)

"""Local linearizations: which linear maps stand for an operation in the sum.

For y = op(u1, ..., uk) take any linear maps L_i, which may depend on the values of this call, set
b = y - sum_i L_i u_i, and hand gradients on by the transposed maps. The terms then sum to the
output whatever the maps are. The Jacobian is one choice; ``balanced`` is another, which leaves
little to the implicit biases (docs/linearization.md).

A rule gives the action of the maps forward, from which b comes, and transposed. None of the two is
computed from the other, so that the sum can fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from torch import Tensor

from fullgrad.errors import ModelError
from fullgrad.operations._local import Gradients, Local
from fullgrad.operations.call import Bias, Call, held_call
from fullgrad.operations.registry import check_known


@dataclass(frozen=True, slots=True)
class Rule:
    """The linear maps of an operation, as a user states them.

    Args:
        apply: from the executed call (its tensors outside the graph) to the sum of L_i u_i over
            the arguments that depend on the input, of the first output's shape.
        transpose: from the call and the gradient at the first output to one gradient for each
            tensor argument that depends on the input, in order; None is zero.

    Example:
        >>> import torch, fullgrad
        >>> half = fullgrad.Rule(lambda call: call.args[0] / 2, lambda call, g: [g / 2])
        >>> chosen = fullgrad.Linearization(operations={"silu": half})
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.SiLU())
        >>> d = fullgrad.decompose(model, torch.randn(3, 4), 0, linearization=chosen)
        >>> bool((d.relative_residual < 1e-5).all())
        True
    """

    apply: Callable[[Call], Tensor]
    transpose: Callable[[Call, Tensor], Gradients]

    def local(self, call: Call) -> Local:
        """The maps of one call.

        Args:
            call: whose first output alone counts.
        """
        held, again = held_call(call)

        def bias(y: Tensor, *values: Tensor) -> Tensor:
            return y - self.apply(again(y, values))

        def transpose(given: Gradients, above: Gradients, *values: Tensor) -> Gradients:
            if above[0] is None:
                return [None] * len(given)
            found = self.transpose(again(values[0], values[1:]), above[0])
            if not isinstance(found, (list, tuple)) or len(found) != len(given):
                raise ModelError(
                    f"the rule for {call.name}: transpose must return a list with one gradient for "
                    f"each of its {len(given)} arguments that depend on the input, None for zero"
                )
            for g, own in zip(found, given, strict=True):
                if g is not None and own is not None and g.shape != own.shape:
                    raise ModelError(
                        f"the rule for {call.name}: transpose returned a gradient of shape "
                        f"{tuple(g.shape)} for an argument of shape {tuple(own.shape)}"
                    )
            return list(found)

        values = (call.output, *held)
        return Local((Bias("implicit", bias, values),), transpose, values)


Named = Literal["jacobian", "balanced", "difference", "quotient"]
Choice: TypeAlias = "Named | Rule"
NAMES: tuple[Named, ...] = ("jacobian", "balanced")  # of every call
QUOTIENTS: tuple[Named, ...] = ("difference", "quotient")  # of element-wise operations
_KNOWN: tuple[Named, ...] = (*NAMES, *QUOTIENTS)
_POSSIBLE = f"{', '.join(map(repr, _KNOWN))} or a Linearization"


@dataclass(frozen=True)
class Linearization:
    """Which linear maps stand for which operation.

    The module's choice counts before that of the operation, this before that of its algebraic
    class, this before ``base``. Of several modules the innermost counts.

    Args:
        base: ``"jacobian"``, ``"balanced"`` or, where the call has a baseline, ``"difference"``
            or ``"quotient"`` (balanced or Jacobian, but with difference quotients between input
            and baseline for element-wise operations), where nothing else is said.
        operations: by the name of the operation as PyTorch's dispatcher knows it, without a
            trailing underscore: ``"silu"``, ``"mylib::blur"``.
        families: by algebraic class: ``"element-wise"``, ``"normalization"``, ...
        modules: by module path: ``"layer4"`` is all of it, ``""`` the whole model.

    Raises:
        ValueError: a choice, an operation or a class that there is not.

    Example:
        >>> import fullgrad
        >>> chosen = fullgrad.Linearization("balanced", modules={"head": "jacobian"})
    """

    base: Named = "jacobian"
    operations: Mapping[str, Choice] = field(default_factory=dict)
    families: Mapping[str, Choice] = field(default_factory=dict)
    modules: Mapping[str, Choice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.base not in _KNOWN:
            raise ValueError(f"linearization must be {_POSSIBLE}, not {self.base!r}")
        for name, choices in (
            ("operations", self.operations),
            ("families", self.families),
            ("modules", self.modules),
        ):
            if not isinstance(choices, Mapping):
                raise ValueError(f"{name} must be a mapping, not {choices!r}")  # noqa: TRY004
            for key, choice in choices.items():
                if choice not in _KNOWN and not isinstance(choice, Rule):
                    raise ValueError(
                        f"{name}[{key!r}] must be {', '.join(map(repr, _KNOWN))} or a "
                        f"fullgrad.Rule, not {choice!r}"
                    )
        check_known(self.operations, self.families)

    def choice(self, operation: str, family: str, module: str) -> Choice:
        """The choice for one executed operation.

        Args:
            operation: its name with namespace, ``"aten::silu"``.
            family: its algebraic class.
            module: the path of the module that ran it.
        """
        path: str | None = module
        while path is not None:
            if path in self.modules:
                return self.modules[path]
            path = path.rpartition(".")[0] if path else None
        for name in (operation, operation.removeprefix("aten::")):
            if name in self.operations:
                return self.operations[name]
        return self.families.get(family, self.base)

    @property
    def _every(self) -> tuple[Choice, ...]:
        own = (*self.operations.values(), *self.families.values(), *self.modules.values())
        return (self.base, *own)

    @property
    def is_jacobian(self) -> bool:
        """Whether it is the Jacobian everywhere."""
        return all(choice == "jacobian" for choice in self._every)

    @property
    def needs_baseline(self) -> bool:
        """Whether it compares with a baseline somewhere."""
        return any(choice in QUOTIENTS for choice in self._every)

    def __str__(self) -> str:
        """The name, and how many choices differ from it."""
        own = len(self.operations) + len(self.families) + len(self.modules)
        return (
            self.base if not own else f"{self.base} with {own} choice{'s' * (own > 1)} of its own"
        )


JACOBIAN = Linearization()


def linearization_of(given: Named | Linearization) -> Linearization:
    """The linearization of an option.

    Raises:
        ValueError: it is not one.
    """
    if isinstance(given, Linearization):
        return given
    if not isinstance(given, str):
        raise ValueError(  # noqa: TRY004
            f"linearization must be {_POSSIBLE}, not {given!r}"
        )
    return JACOBIAN if given == "jacobian" else Linearization(given)

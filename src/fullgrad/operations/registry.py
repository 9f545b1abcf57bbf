"""The table of operations: what the library knows of each one stands in one entry."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from fullgrad._compat import composite, own_autograd, schema_of
from fullgrad.operations._local import LocalRule
from fullgrad.operations._origins import OriginRule
from fullgrad.operations.call import BiasRule, Call
from fullgrad.operations.propagation import AxesRule, elementwise, windowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What the library knows of one operation; in-place variants share it.

    Args:
        name: with its namespace, without a trailing underscore (``"aten::relu"``).
        family: the algebraic class, for listings.
        bias: from an executed call to its biases; None takes the forward-mode fallback.
        axes: from the axes of its arguments to those of its outputs; None loses the places.
        reads_input: the bias rule reads arguments that an in-place variant overwrites.
        autograd_keeps_input: of the in-place variant, autograd itself keeps the first argument as
            it was, so that no copy is needed.
        statistics: arguments that it overwrites in training without saying so in its schema.
        gradient_in_layout: its CPU kernel is given a gradient in the memory format of the input,
            because it is wrong for others.
        view: its output is a view, whose autograd node is made again when the base is modified.
        reads_shape: it reads the shape and type of its arguments, not their values.
        piecewise_constant: its derivative is zero wherever it exists, so it may have no gradient.
        detaches: it takes a value out of the autograd graph.
        addends: of what only adds two arguments: each of them, and the number that multiplies it.
        equivalent: the same function in operations that have a forward mode.
        balanced: from a call to its maps in the balanced linearization; None is the Jacobian.
        origin: from the origins of its arguments to that of its outputs.
        activation: whether it is a ReLU, another activation function, or neither.
    """

    name: str
    family: str = "unknown"
    bias: BiasRule | None = None
    axes: AxesRule | None = None
    reads_input: bool = False
    autograd_keeps_input: bool = False
    statistics: tuple[str, ...] = ()
    gradient_in_layout: bool = False
    view: bool = False
    reads_shape: bool = False
    piecewise_constant: bool = False
    detaches: bool = False
    addends: Callable[[Call], tuple[tuple[Any, Any], tuple[Any, Any]]] | None = None
    equivalent: Callable[..., Any] | None = None
    balanced: LocalRule | None = None
    origin: OriginRule | None = None
    activation: Literal["relu", "other"] | None = None

    @property
    def of_numbers(self) -> bool:
        """Whether it makes each number of its output of one number of its first argument."""
        kind = self.family == "element-wise" or self.activation is not None
        return kind and self.axes is elementwise

    @property
    def label(self) -> str:
        """The name as messages show it: PyTorch's own operations without their namespace."""
        return self.name.removeprefix("aten::")


@dataclass(frozen=True, slots=True)
class Overload:
    """An operation as the dispatcher calls it.

    Args:
        entry: what is known of the operation.
        label: the name as messages show it, with the underscore of an in-place variant.
        names: of the arguments.
        defaults: of the arguments, None where there is none.
        writes: which arguments the schema says are overwritten.
        statistics: which arguments are overwritten in training without the schema saying so.
        own_autograd: it is no operation of PyTorch's, and its gradient is registered for it.
    """

    entry: Operation
    label: str
    names: tuple[str, ...]
    defaults: tuple[Any, ...]
    writes: tuple[int, ...]
    statistics: tuple[int, ...]
    own_autograd: bool


_ENTRIES: dict[str, Operation] = {}
_OVERLOADS: dict[Any, Overload] = {}


def _names(names: str | Iterable[str]) -> list[str]:
    listed = names.split() if isinstance(names, str) else names
    return [n if "::" in n else f"aten::{n}" for n in listed]


def put(
    names: str | Iterable[str],
    bias: BiasRule | None = None,
    axes: AxesRule | None = None,
    **facts: Any,
) -> None:
    """Enter operations into the table, or add what their entries leave open.

    Args:
        names: as :func:`register` takes them, or several in one string.
        bias: the bias rule.
        axes: the axes rule.
        facts: the other fields of :class:`Operation`.

    Raises:
        ValueError: an operation has such a rule already.
    """
    for name in _names(names):
        entry = _ENTRIES.get(name, Operation(name=name))
        for kind, old, new in (("a bias", entry.bias, bias), ("an axes", entry.axes, axes)):
            if old is not None and new is not None:
                raise ValueError(f"{name} has {kind} rule already")
        _ENTRIES[name] = replace(entry, bias=bias or entry.bias, axes=axes or entry.axes, **facts)
    _OVERLOADS.clear()


def register(
    names: str | Iterable[str],
    bias: BiasRule | None = None,
    *,
    axes: AxesRule | None = None,
    family: str = "custom",
    reads_input: bool = False,
    autograd_keeps_input: bool = False,
    function: BiasRule | None = None,
) -> None:
    """Tell the library what it needs to know of operations: their bias and their axes.

    What an operation's entry has already stays; only what it leaves open can be given.

    Args:
        names: operation names as PyTorch's dispatcher knows them, with or without a trailing
            underscore (``"aten::relu"`` or ``"relu"``; another namespace needs its prefix).
        bias: from the executed :class:`Call` to the biases of its outputs: an empty tuple says
            that the operation has none, ``None`` that the rule does not cover this call. Without
            a rule the bias comes from forward-mode differentiation.
        axes: a rule of :mod:`fullgrad.operations.propagation`, or a function like them. Without
            a rule the places of the outputs are unknown, and a map that needs them is refused.
        family: the algebraic class, for listings.
        reads_input: the bias rule reads arguments that an in-place variant overwrites.
        autograd_keeps_input: of the in-place variant, autograd itself keeps the first argument as
            it was (``grad_fn._saved_self``), so that no copy is needed.
        function: the old name of ``bias``.

    Raises:
        ValueError: an operation has such a rule already, or an argument does not fit.

    Example:
        >>> from fullgrad.operations import no_bias, propagation, register
        >>> register("mylib::blur", no_bias, axes=propagation.windowed(2))
    """
    if function is not None:
        warnings.warn("function= is now bias=", DeprecationWarning, stacklevel=2)
        bias = function if bias is None else bias
    if not isinstance(names, Iterable):
        raise ValueError(f"names must be the name of an operation, or several, not {names!r}")  # noqa: TRY004
    if not isinstance(family, str):
        raise ValueError(f"family must be a word, not {family!r}")  # noqa: TRY004
    for argument, flag in (
        ("reads_input", reads_input),
        ("autograd_keeps_input", autograd_keeps_input),
    ):
        if flag not in (True, False):
            raise ValueError(f"{argument} must be True or False, not {flag!r}")
    listed = [names] if isinstance(names, str) else list(names)
    for name in listed:
        if not isinstance(name, str) or not name.replace("::", "", 1).isidentifier():
            raise ValueError(
                f"names: {name!r} is not the name of an operation, like 'mylib::blur' (without "
                "an overload's '.default')"
            )
    if not listed or (bias is None and axes is None):
        raise ValueError("nothing to register: give names, and bias or axes or both")
    rules: dict[str, Any] = {"bias": bias, "axes": axes}
    for argument, rule in rules.items():
        if rule is not None and not callable(rule):
            raise ValueError(f"{argument}: {rule!r} is not a function; see fullgrad.operations")
    if rules["axes"] is windowed:
        raise ValueError("axes: windowed needs the number of axes it slides over, as windowed(2)")
    known: dict[str, Any] = {}
    if bias is not None:
        known = {"reads_input": reads_input, "autograd_keeps_input": autograd_keeps_input}
    for name in _names(listed):
        if bias is not None or name not in _ENTRIES:
            known["family"] = family
        put(name.removesuffix("_"), bias, axes, **known)


def entry_for(name: str) -> Operation:
    """What is known of an operation.

    Args:
        name: with its namespace; an in-place variant shares its functional twin's entry.

    Returns:
        The entry; one that knows nothing if there is none.
    """
    entry = _ENTRIES.get(name)
    if entry is None:
        plain = name.removesuffix("_")
        entry = _ENTRIES.get(plain) or Operation(name=plain)
    return entry


def registered() -> dict[str, Operation]:
    """All entries by operation name."""
    return dict(_ENTRIES)


def check_known(operations: Iterable[str], families: Iterable[str]) -> None:
    """Refuse unknown names of operations and algebraic classes.

    Raises:
        ValueError: naming it, and for classes those that there are.
    """
    for name in operations:
        whole = _names([name])[0]
        namespace, _, plain = whole.partition("::")
        if whole in _ENTRIES:
            continue
        if plain.endswith("_"):
            raise ValueError(f"operations: {name!r} shares the entry of {name[:-1]!r}: name that")
        if composite(whole):
            raise ValueError(
                f"operations: {name!r} is taken apart before it runs: name what it is made of "
                "(BiasTerm.op tells), as in 'native_layer_norm' or '_softmax'"
            )
        if not hasattr(getattr(torch.ops, namespace), plain):
            raise ValueError(
                f"operations: PyTorch has no operation {name!r} (as in 'silu' or "
                "'mylib::blur', without '.default' or a trailing underscore)"
            )
    known = sorted({entry.family for entry in _ENTRIES.values()})
    for family in families:
        if family not in known:
            raise ValueError(f"families: there is no {family!r}, but {', '.join(known)}")


def overload(func: Any) -> Overload:
    """Look up an operation of the dispatcher's; the answer is kept.

    Args:
        func: as a dispatch mode is given it.
    """
    found = _OVERLOADS.get(func)
    if found is not None:
        return found
    schema = schema_of(func)
    entry = entry_for(schema.name)
    names = tuple(a.name for a in schema.arguments)
    found = _OVERLOADS[func] = Overload(
        entry,
        schema.name.removeprefix("aten::"),
        names,
        tuple(a.default_value for a in schema.arguments),
        tuple(
            i
            for i, a in enumerate(schema.arguments)
            if a.alias_info is not None and a.alias_info.is_write
        ),
        tuple(names.index(n) for n in entry.statistics if n in names),
        own_autograd(func),
    )
    return found

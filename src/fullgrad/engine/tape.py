"""What a recorded forward leaves behind: operations, their autograd nodes, and their biases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fullgrad._compat import base_of
from fullgrad._decisions import decided
from fullgrad.axes.algebra import Axes
from fullgrad.axes.broadcasting import Bindings
from fullgrad.errors import UnsupportedOperationError
from fullgrad.operations import Bias, Call
from fullgrad.operations._local import Transpose
from fullgrad.operations.fallback import GeneralCall

View: TypeAlias = "tuple[torch.Size, tuple[int, ...], int, tuple[int, ...]]"


@dataclass(eq=False, slots=True)
class Entry:
    """One executed operation that depends on the input, and the bias of one of its outputs."""

    module: str
    op: str
    node: Any
    slot: int
    output: int
    shape: torch.Size
    bias: Bias | GeneralCall
    held: tuple[Tensor, ...]
    axes: Axes | None
    view: View | None = None
    real_view: bool = False

    def release(self) -> None:
        """Let go of what the bias is computed from, so that it is freed with the graph."""
        bias = self.bias
        assert isinstance(bias, Bias)
        self.bias = Bias(bias.kind, itself, (), bias.output, bias.may_be_infinite)
        self.held = ()

    def protect(self, storage: int) -> None:
        """Copy what this entry reads from a storage that is about to be overwritten."""
        self.held = _copied(self.held, storage)


@dataclass(eq=False, slots=True)
class Handover:
    """An executed operation whose gradients are handed on by other maps than the Jacobian.

    Args:
        node: of the operation.
        places: where the node hands on what belongs to each argument that depends on the input.
        slots: which of the node's outputs each output of the operation is.
        transpose: the transposed maps.
        held: the tensors that they read.
        view: where the operation wrote into its node's tensor; None: all of it.
        shape: of what it wrote there.
    """

    node: Any
    places: tuple[int, ...]
    slots: tuple[int | None, ...]
    transpose: Transpose
    held: tuple[Tensor, ...]
    view: View | None = None
    shape: torch.Size | None = None

    def protect(self, storage: int) -> None:
        """Copy what the maps read from a storage that is about to be overwritten."""
        self.held = _copied(self.held, storage)


def _copied(held: tuple[Tensor, ...], storage: int) -> tuple[Tensor, ...]:
    return tuple(h.clone() if h.untyped_storage().data_ptr() == storage else h for h in held)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Shift:
    """An executed operation that adds a detached value, times a number, to one of the graph.

    Args:
        where: the module in which the value left the graph.
        node: of the operation.
        slot: which of the node's outputs its output is.
        shape: of its output.
        view: where the operation wrote into its node's tensor; None: all of it.
        axes: of its output.
        storage: the memory of the value.
        kind: the type of its numbers.
        offset: of its first number in that memory.
        strides: of the value, broadcast to the output's shape.
        factor: the number.
        dtype: of the output.
        largest: magnitude of both, in each sample or in all.
    """

    where: str
    node: Any
    slot: int
    shape: torch.Size
    view: View | None
    axes: Axes | None
    storage: int
    kind: torch.dtype
    offset: int
    strides: tuple[int, ...]
    factor: float
    dtype: torch.dtype
    largest: Tensor
    real_view: bool = False


@dataclass(eq=False, slots=True)
class Step:
    """An operation's arguments and outputs, kept only to locate a failing local sum."""

    module: str
    op: str
    node: Any
    edges: tuple[tuple[Any, int, Tensor], ...]
    outputs: tuple[Tensor | None, ...]


@dataclass(eq=False)
class Tape:
    """What a recorded forward leaves behind, in order of execution."""

    entries: list[Entry] = field(default_factory=list)
    handovers: list[Handover] = field(default_factory=list)
    nodes: dict[Any, str] = field(default_factory=dict)
    shifts: list[Shift] = field(default_factory=list)
    relayout: list[tuple[Any, torch.memory_format]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    blocked: dict[str, None] = field(default_factory=dict)
    dtypes: set[torch.dtype] = field(default_factory=set)
    bindings: Bindings = field(default_factory=Bindings)
    fast_path: bool = False  # whether padding would take PyTorch's fused encoder without gradients


def resolve_general(tape: Tape) -> list[tuple[str, str]]:
    """Compute the biases of the calls that no rule covers, and drop those that are zero.

    Returns:
        (module, operation) of every call whose bias the forward-mode fallback computed.

    Raises:
        UnsupportedOperationError: listing every operation without a forward-mode derivative.
    """
    unsupported: dict[tuple[str, str], None] = {}
    taken: dict[int, tuple[str, str]] = {}
    answers: dict[int, tuple[Tensor | None, ...]] = {}
    kept: list[Entry] = []
    for entry in tape.entries:
        general = entry.bias
        if isinstance(general, Bias):
            kept.append(entry)
            continue
        taken[id(general)] = (entry.module, entry.op)
        if id(general) not in answers:
            try:
                answers[id(general)] = general.biases(entry.held)
            except (NotImplementedError, RuntimeError):
                unsupported[entry.module, entry.op] = None
                answers[id(general)] = ()
        answer = answers[id(general)]
        b = answer[entry.output] if entry.output < len(answer) else None
        if b is not None and decided(b.any()):
            entry.bias = Bias("implicit", itself, (b,), may_be_infinite=True)
            entry.held = (b,)
            kept.append(entry)
    if unsupported:
        listed = "\n".join(f"  {op} in {module or 'the model'}" for module, op in unsupported)
        raise UnsupportedOperationError(
            "no exact bias is known for these operations: they have neither a rule nor a "
            f"forward-mode derivative\n{listed}\nReplace them by operations that have one, or "
            "give their rule with fullgrad.operations.register."
        )
    tape.entries = kept
    return list(taken.values())


def itself(b: Tensor) -> Tensor:
    """A bias that is known already."""
    return b


# -- memory -----------------------------------------------------------------------------------


def memory_layout(t: Tensor) -> torch.memory_format:
    """The memory format that a tensor's strides follow."""
    if not t.is_contiguous():
        if t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last):
            return torch.channels_last
        if t.dim() == 5 and t.is_contiguous(memory_format=torch.channels_last_3d):
            return torch.channels_last_3d
    return torch.contiguous_format


def geometry(t: Tensor) -> tuple[int, torch.Size, tuple[int, ...]]:
    """Where a view lies in its base's memory."""
    return int(t.storage_offset()), t.shape, t.stride()


def overwritten_base(call: Call, output: Tensor) -> Tensor | None:
    """The base of a view that the operation overwrote, whose history is then its base's."""
    base = base_of(output) if call.in_place else None
    return base if base is not None and base.requires_grad and base.grad_fn is not None else None


def overwritten_view(call: Call, output: Tensor) -> View | None:
    """Where an overwritten view lies in its base: shape and strides of the base, offset, strides.

    Returns:
        None if the operation overwrote no view.
    """
    base = overwritten_base(call, output)
    if base is None:
        return None
    units = 2 if base.is_complex() and not output.is_complex() else 1
    offset = output.storage_offset() - units * base.storage_offset()
    return base.shape, base.stride(), int(offset), output.stride()


def constant_rest(written: Any, depends: Callable[[Any], bool]) -> Tensor | None:
    """What stays constant when an activation is written into part of a constant."""
    base = base_of(written)
    if base is None or not base.is_floating_point() or depends(base):
        return None
    rest = base.detach().clone(memory_format=torch.preserve_format)
    if rest.stride() != base.stride():
        rest = torch.empty_strided(
            base.shape, base.stride(), dtype=base.dtype, device=base.device
        ).copy_(base.detach())
    offset = written.storage_offset() - base.storage_offset()
    rest.as_strided(written.shape, written.stride(), offset).zero_()
    return rest


def rest_entry(module: str, op: str, node: Any, rest: Tensor, axes: Axes | None) -> Entry:
    """The bias that such a constant is, in a tensor of these axes."""
    bias = Bias("explicit", itself, (rest,), may_be_infinite=True)
    return Entry(module, op, node, 0, 0, rest.shape, bias, (rest,), axes)

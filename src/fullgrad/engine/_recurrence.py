"""Recurrent layers, all steps of a direction at once.

Unrolled by PyTorch, every step of an LSTM is ten recorded operations. Here one function runs the
steps in a tight loop beside the recorder and back through time by hand. What its inner operations
leave over depends on values that are known after the loop, so each bias is computed for all steps
together. It enters as an addend: a tensor of zeros, added to what the inner operation makes. The
gradient of an addend is the gradient of the inner value, and its node is where the term is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from fullgrad._compat import ordinary, outside_modes_but_traced, recurrent_function, saves_plainly
from fullgrad._decisions import decided
from fullgrad.axes.algebra import Axes, as_steps, fresh, with_groups
from fullgrad.axes.reading import Reading
from fullgrad.engine.recorder import Recorder
from fullgrad.engine.tape import Entry, itself
from fullgrad.operations import Bias
from fullgrad.operations.cells import CELLS, Cell, Course, Inner, Weights

_pack = recurrent_function("_pack_padded_sequence")
_unpack = recurrent_function("_pad_packed_sequence")


class _Addends(torch.autograd.Function):
    """Zeros that are added to inner values; what reaches them goes no further."""

    @staticmethod
    def forward(ctx: Any, inner: Sequence[Inner], source: Tensor) -> tuple[Tensor, ...]:
        return tuple(source.new_zeros(()).expand(i.bias.shape) for i in inner)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[None, None]:
        return None, None


class _Through(torch.autograd.Function):
    """The outputs of a cell that has run, and its way back through time."""

    @staticmethod
    def forward(
        ctx: Any,
        cell: Cell,
        outputs: tuple[Tensor, ...],
        kept: list[int],
        packing: _Packing | None,
        *sources: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.cell, ctx.kept, ctx.packing = cell, kept, packing
        ctx.save_for_backward(*cell.weights.listed())  # autograd refuses them if overwritten
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [None if g is None else _sorted(g, ctx.packing) for g in gradients]
        (first, *starts), inner = ctx.cell.back(ctx.saved_tensors, *given)
        found = [_unsorted(t, ctx.packing) for t in (first, *(inner[k] for k in ctx.kept))]
        return None, None, None, None, found[0], *starts, *found[1:]


@dataclass(frozen=True, slots=True)
class _Packing:
    """Sequences of several lengths in one block of (T, B, ...).

    Args:
        sizes: how many samples each step has.
        index: of each packed row, its place in the flattened block.
        last: of each sample of the block, the place of its last step.
        order: the samples of the block from the longest to the shortest; None if they are so.
    """

    sizes: tuple[int, ...]
    index: Tensor
    last: Tensor
    order: Tensor | None

    @classmethod
    def of(cls, batch_sizes: Tensor, device: torch.device, order: Tensor | None = None) -> _Packing:
        sizes = tuple(batch_sizes.tolist())
        batch = sizes[0]
        there = torch.arange(batch) < batch_sizes.unsqueeze(1)
        samples = torch.arange(batch) if order is None else order.cpu()
        places = torch.arange(len(sizes)).unsqueeze(1) * batch + samples
        last = ((there.sum(0) - 1) * batch)[samples.argsort()] + torch.arange(batch)
        return cls(sizes, places[there].to(device), last.to(device), order)

    def block(self, data: Tensor) -> Tensor:
        """Packed rows as a block; what is past a sequence's end holds anything."""
        steps, batch = len(self.sizes), self.sizes[0]
        rows = torch.zeros(steps * batch, dtype=torch.long, device=data.device)
        rows[self.index] = torch.arange(len(data), device=data.device)
        return data.index_select(0, rows).view(steps, batch, *data.shape[1:])

    def packed(self, block: Tensor) -> Tensor:
        """The rows of a block that count."""
        return block.flatten(0, 1).index_select(0, self.index)


def _sorted(block: Tensor, packing: _Packing | None) -> Tensor:
    """A block with its longest sequences first."""
    order = None if packing is None else packing.order
    return block if order is None else block.index_select(1, order)


def _unsorted(block: Tensor, packing: _Packing | None) -> Tensor:
    order = None if packing is None else packing.order
    return block if order is None else block.index_select(1, order.argsort())


class _Reordered(NamedTuple):
    """From what a tensor was made by a permutation of one axis."""

    source: Tensor
    node: Any
    dim: int
    order: Tensor


class Recurrence(TorchFunctionMode):
    """Runs recurrent layers as one function for each layer and direction, while it is active.

    Unrolled by PyTorch as before: layers on a sequence that does not depend on the input, with
    dropout, over padded positions beside others, in half precision, with weights that depend on
    the input or are not plain tensors, under autocast, checkpointing or function transforms.

    Args:
        recorder: of the forward in progress.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder
        self._blocks: dict[Any, tuple[Tensor, _Packing]] = {}  # by the node of the packed rows
        self._reordered: dict[Any, _Reordered] = {}  # by node

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a recurrent layer, or anything else as it is."""
        ours = None if kwargs else _CALLS.get(func)
        if ours is not None and torch.is_grad_enabled() and self._recorder.depends(args[0]):
            self._recorder.settle()
            answer = ours(self, *args)
            if answer is not NotImplemented:
                return answer
        return func(*args, **(kwargs or {}))

    # -- packing, a mere rearrangement --------------------------------------------------------

    def _reorder(self, x: Tensor, dim: int, index: Tensor) -> Tensor:
        """``index_select``, which sorts sequences by length, and puts them back."""
        if index.dim() != 1 or index.dtype != torch.long:
            return x.index_select(dim, index)
        dim %= x.dim()
        places = torch.arange(x.shape[dim], device=index.device)
        known = self._reordered.get(x.grad_fn)
        if known is not None and known.dim == dim and known.source.grad_fn is known.node:
            if torch.equal(known.order[index], places):
                return known.source.clone()
        out = x.index_select(dim, index)
        if torch.equal(index.sort().values, places):
            self._reordered[out.grad_fn] = _Reordered(x, x.grad_fn, dim, index)
        return out

    def _packed(self, x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        sizes = _pack(torch.zeros(x.shape[:2]), lengths, batch_first)[1]
        known, order = self._reordered.get(x.grad_fn), None
        if (
            known is not None
            and known.dim == 1 - batch_first
            and known.source.grad_fn is known.node
        ):
            x, order = known.source, known.order
        packing = _Packing.of(sizes, x.device, order)
        block = x.transpose(0, 1) if batch_first else x
        return self._remember(block[: len(packing.sizes)], packing), sizes

    def _unpacked(
        self, data: Tensor, sizes: Tensor, batch_first: bool, padding: float, total: int
    ) -> Any:
        block, packing = self._block_of(data, sizes)
        steps, batch = block.shape[:2]
        _, lengths = _unpack(torch.zeros(len(data)), sizes, batch_first, 0.0, total)
        there = (torch.arange(steps).unsqueeze(1) < lengths).to(data.device)
        there = _unsorted(there, packing)
        there = there.view(steps, batch, *[1] * (block.dim() - 2))
        whole = torch.where(there, block, padding) if padding else block * there
        if total > steps:
            whole = F.pad(whole, [0, 0] * (block.dim() - 1) + [0, total - steps], value=padding)
        if batch_first:
            whole = whole.transpose(0, 1)
        if packing.order is not None:
            whole = self._reorder(whole, 1 - batch_first, packing.order)
        return whole, lengths

    def _remember(self, block: Tensor, packing: _Packing) -> Tensor:
        data = packing.packed(block)
        self._blocks[data.grad_fn] = block, packing
        return data

    def _block_of(self, data: Tensor, sizes: Tensor) -> tuple[Tensor, _Packing]:
        known = self._blocks.get(data.grad_fn)
        if known is not None:
            return known
        packing = _Packing.of(sizes, data.device)
        return packing.block(data), packing

    # -- layers -------------------------------------------------------------------------------

    def _layer(self, *args: Any, cell: type[Cell]) -> Any:
        """A layer's call: ``(input, state, weights, ...)``, packed with ``batch_sizes`` second."""
        packed = isinstance(args[3], (tuple, list))
        x, (state, weights, biases, layers, dropout, train, bidirectional, *first) = (
            args[0],
            args[1 + packed :],
        )
        states = tuple(state) if isinstance(state, (tuple, list)) else (state,)
        if (dropout and train) or not self._understands(x, states, weights):
            return NotImplemented
        packing, batch_first = None, bool(first and first[0])
        if packed:
            x, packing = self._block_of(x, args[1])
        elif batch_first:
            x = x.transpose(0, 1)
        if self._has_gaps_beside_steps(x):
            return NotImplemented
        directions = 1 + bidirectional
        each = len(weights) // (layers * directions)
        last: list[list[Tensor]] = []
        for layer in range(layers):
            outputs = []
            for direction in range(directions):
                k = layer * directions + direction
                own = weights[k * each : (k + 1) * each]
                start = tuple(s[k] for s in states)
                y, ends = self._direction(cell, x, start, own, biases, bool(direction), packing)
                outputs.append(y)
                last.append(ends)
            x = torch.cat(outputs, 2) if bidirectional else outputs[0]
        ends = [torch.stack(e) for e in zip(*last, strict=True)]
        if packing is not None:
            if packing.order is not None:
                ends = [self._reorder(e, 1, packing.order) for e in ends]
            return self._remember(x, packing), *ends
        return x.transpose(0, 1) if batch_first else x, *ends

    def _understands(self, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]) -> bool:
        return (
            x.dtype in (torch.float32, torch.float64)
            and all(ordinary(t) and t.dtype == x.dtype for t in (x, *states, *weights))
            and not any(map(self._recorder.depends, weights))
            and not torch.is_autocast_enabled(x.device.type)
            and saves_plainly()
            and x.numel() > 0
        )

    def _has_gaps_beside_steps(self, x: Tensor) -> bool:
        """Whether padding and positions of other axes make it impossible to tell steps apart."""
        axes = self._recorder.axes_of(x)
        if axes is None:
            return False
        there = [c for c in axes.coordinates if c is not None]
        gaps = not all(c.everywhere for c in there)
        return gaps and any(a not in axes.groups[0] for c in there for a in c.atoms)

    def _direction(
        self,
        cell: type[Cell],
        x: Tensor,
        start: tuple[Tensor, ...],
        weights: Sequence[Tensor],
        biases: bool,
        reverse: bool,
        packing: _Packing | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """One layer in one direction: its output, and the states that it ends in."""
        recorder, (steps, batch) = self._recorder, x.shape[:2]
        projected = F.linear(x, weights[0], weights[2] if biases else None)
        recorder.meet([*start, *weights])
        plain = [w.detach() for w in weights[1:]]
        rest = plain[1 + 2 * biases :]
        sizes = None if packing is None else packing.sizes
        course = Course(steps, batch, reverse, sizes, x.device)
        own = Weights(plain[0], plain[2] if biases else None, rest[0] if rest else None)
        constant = tuple(not recorder.depends(s) for s in start)
        with outside_modes_but_traced():
            sequence = _sorted(projected.detach(), packing)
            ran = cell(sequence, tuple(s.detach() for s in start), constant, own, course)
            states, inner = ran.run()
            states = tuple(_unsorted(s, packing) for s in states)
            kept = [k for k, i in enumerate(inner) if decided(i.bias.any())]
            inner = tuple(replace(inner[k], bias=_unsorted(inner[k].bias, packing)) for k in kept)
            addends = _Addends.apply(inner, projected) if inner else ()
            outputs = _Through.apply(ran, states, kept, packing, projected, *start, *addends)
        if inner:
            self._put(inner, addends, projected)
        sources = [(t, t.detach()) for t in (projected, *start)]
        sources += [(a, i.bias) for a, i in zip(addends, inner, strict=True)]
        axes = [self._axes(projected, o.shape[2]) for o in outputs]
        recorder.adopt(cell.__name__.lower(), outputs, axes, sources)
        return outputs[0], [self._end(o, reverse, packing) for o in outputs]

    def _put(self, inner: Sequence[Inner], addends: Sequence[Tensor], like: Tensor) -> None:
        """Put the biases of inner values on the tape, each of all steps."""
        recorder = self._recorder
        module = recorder.adopt("add", addends)
        for slot, (i, addend) in enumerate(zip(inner, addends, strict=True)):
            axes = self._axes(like, addend.shape[2])
            recorder.tape.entries.append(
                Entry(
                    module,
                    i.op,
                    addend.grad_fn,
                    slot,
                    slot,
                    addend.shape,
                    Bias(i.kind, itself, (i.bias,)),
                    (i.bias,),
                    None if axes is None else as_steps(axes, 0),
                )
            )

    def _axes(self, like: Tensor, width: int) -> Axes | None:
        """The axes of a block with that many units, given those of what the steps are given."""
        axes = self._recorder.axes_of(like)
        if axes is not None:
            self._recorder.tape.bindings.readings.append(Reading(axes, (0,), (0,)))
        if axes is None or any(a.batch for a in axes.groups[0]):
            return None
        return with_groups(axes, [*axes.groups[:2], fresh(width)])

    def _end(self, states: Tensor, reverse: bool, packing: _Packing | None) -> Tensor:
        """What the last step leaves: of each sample its own."""
        if reverse or packing is None:
            return states[0 if reverse else -1]
        axes = self._recorder.axes_of(states)
        last = states.flatten(0, 1).index_select(0, packing.last)
        self._recorder.place(last, axes and with_groups(axes, axes.groups[1:]))  # at no one step
        return last


_CALLS: dict[Any, Callable[..., Any]] = {
    torch.Tensor.index_select: Recurrence._reorder,
    _pack: Recurrence._packed,
    _unpack: Recurrence._unpacked,
    **{recurrent_function(n): partial(Recurrence._layer, cell=c) for n, c in CELLS.items()},
}

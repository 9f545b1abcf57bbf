"""The attention matrices of a forward pass, found below autograd and proved to be what they seem.

Any model is asked to compute attention by its plain kernel, so that fused
``scaled_dot_product_attention``, ``nn.MultiheadAttention`` and attention written out all come down
to a softmax that multiplies values. Nothing of the model is patched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.attention import SDPBackend, sdpa_kernel

from fullgrad._compat import DispatchMode, memory_of
from fullgrad.axes.algebra import Axes, with_groups
from fullgrad.axes.coordinates import Atom, Group
from fullgrad.axes.placement import Placement, placement_of
from fullgrad.errors import MethodError
from fullgrad.methods.activations import Recording
from fullgrad.operations.registry import overload

_SOFTMAX = ("_softmax", "_safe_softmax")
_PRODUCTS = ("bmm", "mm", "baddbmm", "addmm")
_SAME_NUMBERS = ("clone", "_to_copy")
_ELSE = "use another method, as method='grad_cam' or method='input_x_gradient'"


@dataclass(slots=True, eq=False)
class _Softmax:
    """A softmax that ran, and the values that it multiplied."""

    path: str
    value: Tensor
    dim: int
    axes: Axes | None = None
    values: Axes | None = None
    values_known: bool = False
    uses: int = 0
    crossed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class AttentionMatrix:
    """Self-attention of all tokens of one layer.

    Args:
        path: of the module that ran it.
        weights: shape (B, heads, queries, keys), outside the graph.
        gradient: of the explained scalars at the weights, of their shape.
        placement: where an array of shape (B, tokens) lies on the input's grid.
    """

    path: str
    weights: Tensor
    gradient: Tensor
    placement: Placement


class AttentionRecord(DispatchMode):
    """Notes every softmax on the way from the input, and the products that it enters.

    Args:
        recording: of the forward pass beside which this mode is active.
    """

    def __init__(self, recording: Recording) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recording, self._recorder = recording, recording.recorder
        self._found: list[_Softmax] = []
        self._by_memory: dict[int, _Softmax] = {}
        self._kept: list[Tensor] = []  # so that their memory is not used again
        self._products: list[tuple[str, Tensor]] = []
        self._fused: list[str] = []

    @contextmanager
    def active(self) -> Iterator[AttentionRecord]:
        """Record what runs inside, by plain kernels."""
        with sdpa_kernel(SDPBackend.MATH), self:
            yield self

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        operation = overload(func)
        name = operation.label
        depends = self._recorder.depends
        if name in _PRODUCTS:
            two = args[-2:] if name in ("bmm", "mm") else args[1:3]
            used = self._enter(two)
            out = func(*args, **(kwargs or {}))
            if not used and all(map(depends, two)):
                self._products.append((self._recorder.path.current(), out))
            return out
        out = func(*args, **(kwargs or {}))
        if operation.entry.family == "attention" and depends(args[0]):
            self._fused.append(self._recorder.path.current())
        if name in _SOFTMAX and depends(args[0]) and args[0].dim() > 1:
            found = _Softmax(self._recorder.path.current(), out, args[1] % out.dim())
            self._found.append(found)
            self._remember(out, found)
        elif name in _SAME_NUMBERS and (source := self._source(args[0])) is not None:
            self._remember(out, source)
        return out

    def _source(self, value: Any) -> _Softmax | None:
        memory = memory_of(value) if isinstance(value, Tensor) else None
        return None if memory is None else self._by_memory.get(memory)

    def _remember(self, value: Tensor, source: _Softmax) -> None:
        memory = memory_of(value)
        if memory is not None:
            self._by_memory[memory] = source
            self._kept.append(value)

    def _enter(self, two: tuple[Any, ...]) -> bool:
        """Note a product that a softmax enters."""
        for k, value in enumerate(two):
            source, other = self._source(value), two[1 - k]
            if source is None or not self._recorder.depends(other):
                continue
            mine, axes = self._recorder.axes_of(value), self._recorder.axes_of(other)
            source.axes = source.axes or self._recorder.axes_of(source.value)
            source.uses += 1
            source.values_known = axes is not None
            # Rows of the first factor, or columns of the second, are the queries.
            queries, tokens = ((-2, -2), (-1, -1))[k]
            source.values = None if axes is None else _along(axes, tokens)
            rows = source.axes and source.axes.groups[-2]
            if mine is not None and rows is not None:
                source.crossed = mine.groups[queries] != rows
            return True
        return False

    def matrices(self, output: Tensor) -> list[AttentionMatrix]:
        """The attention of all layers, from the first to the last.

        Args:
            output: the explained scalars.

        Raises:
            MethodError: the model's attention is not softmax over all tokens of the grid, one
                layer after the other; names the module.
        """
        method = self._recording.method
        if self._fused:
            self._refuse(self._fused[0], "calls a fused kernel that does not tell its weights")
        edges = [get_gradient_edge(s.value) for s in self._found]
        given = torch.autograd.grad(output.sum(), edges, allow_unused=True) if edges else ()
        live = [
            (s, e, g) for s, e, g in zip(self._found, edges, given, strict=True) if g is not None
        ]
        live = [f for f in live if f[0].uses or self._may_attend(f[0])]
        if not live:
            raise MethodError(
                f"{method} found no attention in the model: no softmax multiplies values on the "
                f"way to the explained output; {_ELSE}"
            )
        matrices = [self._matrix(s, g) for s, _, g in live]
        first = matrices[0]
        for m in matrices[1:]:
            if _key(m) != _key(first):
                self._refuse(
                    m.path,
                    f"attends over other tokens ({m.weights.shape[-1]}) than {first.path} "
                    f"({first.weights.shape[-1]})",
                )
        self._in_a_row(output, [(s.path, e) for s, e, _ in live])
        return matrices

    def _may_attend(self, s: _Softmax) -> bool:
        """Whether a softmax that multiplies no values is one over positions, or might be."""
        axes = self._recording.known(self._recorder.axes_of(s.value))
        if axes is None:
            return s.value.dim() > 2
        s.axes = axes
        return axes.placed

    def _matrix(self, s: _Softmax, gradient: Tensor) -> AttentionMatrix:
        recording, shape = self._recording, s.value.shape
        axes = recording.known(s.axes)
        values = recording.known(s.values)
        if not s.uses:
            self._refuse(s.path, "changes its attention before it multiplies the values")
        if s.uses > 1:
            self._refuse(s.path, "multiplies its attention with values more than once")
        if axes is None or not s.values_known:
            self._refuse_unknown(s)
        if s.dim != s.value.dim() - 1 or s.crossed:
            self._refuse(s.path, "has a softmax that does not run over the keys of its product")
        if shape[-1] != shape[-2]:
            self._refuse(
                s.path, f"attends from {shape[-2]} over {shape[-1]} tokens (cross-attention)"
            )
        rows = axes.groups[-2]
        if any(axes.depends(g) for g in (*axes.groups[:-2], axes.groups[-1])):
            self._refuse(s.path, f"attends within windows (of {shape[-1]} tokens)")
        queries = self._tokens(axes, rows, s.path)
        keys = self._tokens(values, values.groups[-1], s.path) if values is not None else None
        if keys is None or _tokens_key(queries) != _tokens_key(keys):
            self._refuse(s.path, "attends from some tokens over others")
        before = [a for g in axes.groups[:-2] for a in g]
        weights, at = s.value.detach(), _batch(before)
        sizes = [a.size for a in before]
        weights, gradient = (
            (t.reshape(*sizes, *shape[-2:]).movedim(at, 0) if before else t[None]).reshape(
                recording.batch, -1, *shape[-2:]
            )
            for t in (weights, gradient)
        )
        return AttentionMatrix(s.path, weights, gradient, queries)

    def _tokens(self, axes: Axes, tokens: Group, path: str) -> Placement:
        """Where an array of shape (B, tokens) lies."""
        batch = tuple(a for g in axes.groups for a in g if a.batch)
        try:
            found = placement_of(with_groups(axes, [batch, tokens]), self._recording.batch)
        except ValueError:
            found = None
        if found is None or max(found.extents) < 2:
            self._refuse(path, "attends from what has no place in the input's grid")
        if found.by_sample:
            self._refuse(path, "attends over tokens that differ from sample to sample (pruned)")
        counted = [n for i, n in enumerate(found.sizes) if i != found.batch]
        if len(counted) != len(found.positions):
            self._refuse(path, "attends over other things than positions")
        return found

    def _in_a_row(self, output: Tensor, layers: list[tuple[str, GradientEdge]]) -> None:
        """Refuse attention beside attention, and products of activations outside attention."""
        nodes = {e.node: path for path, e in layers}
        reached = _behind([output.grad_fn], stop=set(nodes))
        for path, out in self._products:
            if out.grad_fn in reached:
                self._refuse(path, "multiplies two activations outside softmax attention")
        for (_, before), (path, e) in pairwise(layers):
            if before.node not in _behind([e.node], stop={before.node}):
                self._refuse(path, "attends beside another layer, not behind it")

    def _refuse_unknown(self, s: _Softmax) -> NoReturn:
        shape, recording = s.value.shape, self._recording
        stated = recording.example(s.path, (recording.batch, shape[-2], 2))
        way = f"state what goes into it, as in {stated}, or {_ELSE}" if stated else _ELSE
        raise MethodError(
            f"{recording.method}: it is not known which tokens {s.path or 'the model'} attends "
            f"over (weights of shape {tuple(shape)}); {way}"
        )

    def _refuse(self, path: str, what: str) -> NoReturn:
        raise MethodError(
            f"{self._recording.method} needs self-attention over all tokens of the input's grid: "
            f"{path or 'the model'} {what}; {_ELSE}"
        )


def _along(axes: Axes, dim: int) -> Axes:
    """The axes with one of them last."""
    groups = list(axes.groups)
    last = groups.pop(dim)
    return Axes((*groups, last), axes.coordinates)


def _batch(atoms: list[Atom]) -> int:
    return next((i for i, a in enumerate(atoms) if a.batch), 0)


def _tokens_key(p: Placement) -> tuple[Any, ...]:
    """Equal for tokens that lie at the same places, in the same order."""
    count = int(np.prod([n for i, n in enumerate(p.sizes) if i != p.batch]))
    places = np.arange(count) if p.places is None else p.places
    return count, tuple(c.key for c in p.cells), places.astype(np.int64).tobytes()


def _key(m: AttentionMatrix) -> tuple[Any, ...]:
    return _tokens_key(m.placement)


def _behind(nodes: list[Any], stop: set[Any]) -> set[Any]:
    """The nodes that lead to some nodes, not looking behind those that stop the search."""
    seen: set[Any] = set()
    stack = list(nodes)
    while stack:
        for m, _ in stack.pop().next_functions:
            if m is not None and m not in seen:
                seen.add(m)
                if m not in stop:
                    stack.append(m)
    return seen

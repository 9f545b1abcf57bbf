"""From a traced explanation to a torch.export program that holds the model's weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx

from fullgrad.errors import GraphError
from fullgrad.interop.compiling.call import Slot
from fullgrad.interop.compiling.trace import Trace
from fullgrad.interop.exporting.backward import table


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A torch.export program, and the call it was made of.

    Args:
        exported: from ``inputs`` to ``outputs``.
        example: what it was traced with.
        inputs: names of the inputs.
        outputs: names of the outputs: ``logits``, a map for each explained input, ``residual``.
    """

    exported: ExportedProgram
    example: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def program(
    traced: Trace, state: Sequence[Tensor], tensors: Sequence[Tensor], rows: Tensor, forward: bool
) -> Program:
    """Bind the weights, and export.

    Args:
        traced: with the logits.
        state: what the model holds.
        tensors: of the example call.
        rows: the example's target.
        forward: backward operators are written in forward ones.

    Raises:
        GraphError: PyTorch cannot export it.
    """
    graph = traced.graph
    if forward:
        known = table()
        written = torch.func.functionalize(_Rewriting(graph, known).run)
        with torch.no_grad():
            graph = make_fx(written, decomposition_table=known)(*state, *tensors, rows)
    example = tuple(t.detach() for t in tensors)
    if traced.rest:
        example = (*example, rows[:, 0] if len(traced.rest) == 1 else rows)
    alone = _Alone(graph, traced, state, len(rows)).eval()
    with torch.no_grad(), quiet():  # a .pt2 file holds what it was exported with: not the user's
        try:
            exported = torch.export.export(alone, tuple(torch.zeros_like(t) for t in example))
        except Exception as error:  # it raises what it likes
            first = str(error).strip().splitlines() or [type(error).__name__]
            raise GraphError(
                f"torch.export cannot hold the graph: {first[0].rstrip('.')}. Use "
                "fullgrad.compile, which runs it in this process."
            ) from error
    for node in exported.graph.nodes:  # where in which source file it was traced
        node.meta.pop("stack_trace", None)
    call = traced.arguments
    explained = _names(call.inputs, "input")
    names = [*explained, *_names(call.extra, "argument"), *_names(call.keywords, "keyword")]
    maps = ["map"]
    if traced.maps > 1:
        maps = [
            f"map_{n}" for n in (explained if len(explained) == traced.maps else range(traced.maps))
        ]
    outputs = ("logits", *maps, "residual")
    target = ["target"] if traced.rest else []
    return Program(exported, example, (*_untaken(names, outputs), *target), outputs)


class _Rewriting(fx.Interpreter):
    """Runs a graph, and lays out in memory what rewritten operations give as the graph expects."""

    def __init__(self, graph: fx.GraphModule, known: Mapping[Any, Any]) -> None:
        super().__init__(graph)
        self._known = known

    def run_node(self, n: fx.Node) -> Any:
        """Run an operation."""
        found = super().run_node(n)
        if n.target not in self._known:
            return found
        expected = n.meta["val"]
        if isinstance(found, Tensor):
            return _laid_out(found, expected)
        return tuple(
            t if t is None else _laid_out(t, e) for t, e in zip(found, expected, strict=True)
        )


def _laid_out(t: Tensor, like: Tensor) -> Tensor:
    """The same numbers with the axes in another one's order in memory."""
    if t.stride() == like.stride():
        return t
    order = sorted(range(t.dim()), key=lambda axis: (-like.stride()[axis], axis))
    return t.permute(order).contiguous().permute([order.index(axis) for axis in range(t.dim())])


@contextmanager
def quiet() -> Iterator[None]:
    """PyTorch's exporters warn of their own deprecated parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _names(value: Any, name: str) -> list[str]:
    """A name for each tensor in a part of the call's arguments, in order."""
    if isinstance(value, Slot):
        return [name]
    parts: Iterable[tuple[str, Any]] = ()
    if isinstance(value, Mapping):
        parts = ((str(key), part) for key, part in value.items())
    elif type(value) in (list, tuple):
        parts = ((f"{name}_{place}", part) for place, part in enumerate(value))
    return [found for own, part in parts for found in _names(part, own)]


def _untaken(names: Iterable[str], outputs: Iterable[str]) -> list[str]:
    """The same names, with an underscore where a file has another thing of that name."""
    taken, own = {"target", *outputs}, []
    for name in names:
        while name in taken:
            name += "_"
        taken.add(name)
        own.append(name)
    return own


class _Alone(nn.Module):
    """The graph with its weights: what it gives, and NaN where it does not hold."""

    def __init__(
        self, graph: fx.GraphModule, traced: Trace, state: Sequence[Tensor], batch: int
    ) -> None:
        super().__init__()
        self.explanation: fx.GraphModule = graph
        self._maps, self._rest, self._batch = traced.maps, traced.rest, batch
        self.sizes: Tensor
        self._state = [f"state_{i}" for i in range(len(state))]
        for name, t in zip(self._state, state, strict=True):
            self.register_buffer(name, t.detach())
        device = state[0].device if state else torch.device("cpu")
        self.register_buffer("answers", torch.tensor(traced.answers, device=device))
        self.register_buffer("sizes", torch.tensor(traced.rest, dtype=torch.long, device=device))

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        tensors, rows = given, self.sizes.new_zeros(self._batch, 0)
        known = torch.ones_like(rows.sum(1), dtype=torch.bool)
        if self._rest:  # a place that the output does not have would be a number of another sample
            tensors, rows = given[:-1], given[-1].reshape(self._batch, len(self._rest))
            lowest = -1 if len(self._rest) == 1 else 0
            known = ((rows >= lowest) & (rows < self.sizes)).all(1)
            rows = torch.where(known[:, None], rows, 0)
        found = self.explanation(*(getattr(self, name) for name in self._state), *tensors, rows)
        maps, (_, residual, _, checks, logits) = found[: self._maps], found[self._maps :]
        holds = (checks == self.answers).all() & known
        proved = (torch.where(_like(holds, t), t, torch.nan) for t in (*maps, residual))
        *shown, rest = proved
        return logits, *shown, rest


def _like(holds: Tensor, t: Tensor) -> Tensor:
    return holds.reshape(-1, *(1 for _ in t.shape[1:]))

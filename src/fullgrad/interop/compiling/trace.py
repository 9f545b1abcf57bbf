"""One explanation as a flat graph of tensor operations.

The eager call itself is traced: recorded forward, backward pass, reductions and the map. What it
asks of numbers on the way is an output of the graph, compared after every run with the answer that
the graph was built upon (:mod:`fullgrad._decisions`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from fullgrad._compat import in_graph, values_only
from fullgrad._decisions import Decisions, noting_decisions
from fullgrad.engine.module_path import ModulePath
from fullgrad.engine.targets import main_tensor
from fullgrad.engine.wrappers import unwrap
from fullgrad.errors import GraphError
from fullgrad.interop.compiling._model import state_of as state_of  # noqa: PLC0414
from fullgrad.interop.compiling._simplify import refuse_unholdable, simplified
from fullgrad.interop.compiling.call import Arguments, Explaining, Found, rows_for

# While it traces, PyTorch replaces how modules are called in the whole process.
_one_at_a_time = threading.Lock()
_VALUES = frozenset(values_only())


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """An explanation as a graph.

    Args:
        graph: from ``(*state, *tensors, rows)`` to ``(*maps, output, residual, index, checks)``:
            ``tensors`` are those of the call, in order, ``rows`` is the target,
            integers of shape (B, axes of the output beside the batch), -1 for the class with the
            highest output. There is a map for each explained input; ``index`` is the explained
            class, shape (B,), -1 where the output has no classes; ``checks`` holds a truth value
            for each question that the call asks of numbers.
        state: the names of the tensors that the model holds, in order; see :func:`state_of`.
        arguments: of the call, without its tensors.
        maps: how many there are.
        answers: what the checks were when the graph was made, and must be for it to hold.
        proofs: which of them are true in every call that raises no error.
        rest: the shape of the model's output beside the batch.
    """

    graph: fx.GraphModule
    state: tuple[str, ...]
    arguments: Arguments
    maps: int
    answers: tuple[bool, ...]
    proofs: tuple[bool, ...]
    rest: tuple[int, ...]


def trace(
    model: nn.Module,
    inputs: Any,
    target: Any = None,
    *,
    explaining: Explaining | None = None,
    additional_forward_args: Any = None,
    forward_kwargs: Any = None,
) -> Trace:
    """Trace one explanation, after an eager one of the same call.

    Args:
        model: as for :func:`fullgrad.saliency`.
        inputs: an example; the graph is for its shapes, strides, types and device.
        target: an example, indices or None; any other may be given to the graph.
        explaining: method and options; None for FullGrad.
        additional_forward_args: see :func:`fullgrad.decompose`.
        forward_kwargs: see :func:`fullgrad.decompose`.

    Raises:
        GraphError: a graph cannot hold the call; names what in it.
        FullGradError: as the eager call.

    Example:
        >>> import torch
        >>> from fullgrad.interop.compiling.trace import state_of, trace
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten())
        >>> x = torch.rand(1, 3, 8, 8)
        >>> traced = trace(model, x, 0)
        >>> rows = torch.tensor([[5]])
        >>> heat, output, residual, index, checks = traced.graph(*state_of(model).values(), x, rows)
        >>> checks.tolist() == list(traced.answers), bool(output[0] == model(x)[0, 5])
        (True, True)
    """
    explaining = explaining or Explaining()
    arguments, tensors = Arguments.of(inputs, additional_forward_args, forward_kwargs)
    found = explaining.eager(model, arguments, tensors, target)
    rows = rows_for(target, found, explaining)
    return traced(model, arguments, tensors, rows, found, explaining)


def traced(
    model: nn.Module,
    arguments: Arguments,
    tensors: Sequence[Tensor],
    rows: Tensor,
    found: Found,
    explaining: Explaining,
    *,
    with_logits: bool = False,
) -> Trace:
    """As :func:`trace`, of a call that was made eagerly before.

    Args:
        model: as for :func:`fullgrad.saliency`.
        arguments: of the call.
        tensors: that belong to them.
        rows: the target, as the graph takes it.
        found: what the eager call gave.
        explaining: method and options.
        with_logits: the graph returns the model's whole output as well, last.

    Raises:
        GraphError: a graph cannot hold the call; names what in it.
    """
    model = unwrap(model)
    state = state_of(model)
    noted = Decisions()

    def call(*given: Tensor) -> tuple[Tensor, ...]:
        nonlocal noted
        chosen = _Chosen(given[-1])
        with noting_decisions() as noted, _Unread(model):
            one = explaining.eager(model, arguments, given[len(state) : -1], chosen)
        checks = torch.stack([c.to(one.output.device) for c in noted.conditions])
        logits = chosen.logits if with_logits else ()
        return (*one.maps, one.output, one.residual, chosen.index, checks, *logits)

    # Objects of its own: a graph knows its inputs by identity, and one may be given twice.
    own = [t.detach() for t in tensors]
    plain = torch.autograd.set_multithreading_enabled(False)  # the mode that traces is a thread's
    torch.clear_autocast_cache()  # it may hold casts of weights, made outside the graph
    try:
        with _one_at_a_time, torch.inference_mode(False), plain:
            graph = make_fx(call)(*state.values(), *own, rows.detach())
        refuse_unholdable(graph, [*state, *(["an input"] * len(own)), "the target"])
    except GraphError as error:
        raise GraphError(f"{error} Explain it eagerly: {explaining.words}") from error
    finally:
        torch.clear_autocast_cache()
    answers, proofs = tuple(noted.answers), tuple(noted.proofs)
    maps = len(found.maps)
    return Trace(simplified(graph), tuple(state), arguments, maps, answers, proofs, found.rest)


class _Chosen:
    """The target that a graph is given: the numbers of the output in these rows."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows
        self.index = torch.full_like(rows.sum(1), -1)
        self.logits: tuple[Tensor, ...] = ()

    def __call__(self, output: Any) -> Tensor:
        tensor, _ = main_tensor(output)
        self.logits = (tensor.detach(),)
        if tensor.dim() < 2:
            return tensor.reshape(-1)
        rows = self._rows
        if tensor.dim() == 2:
            rows = torch.where(rows < 0, tensor.detach().argmax(1, keepdim=True), rows)
            self.index = rows[:, 0]
        place = torch.arange(len(tensor), device=tensor.device)
        for size, column in zip(tensor.shape[1:], rows.unbind(1), strict=True):
            place = place * size + column
        return tensor.take(place)  # the axes of a gathered number would depend on the target


class _Unread(TorchFunctionMode):
    """Refuses to read numbers of the graph into Python, where they would be constants."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._path = ModulePath(model)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _VALUES and any(isinstance(a, Tensor) and in_graph(a) for a in args):
            where = self._path.current() or "the model"
            raise GraphError(
                f"{where} reads numbers of a tensor into Python ({func.__name__}), and what it "
                "makes of them would stay the same in every call of the graph."
            )
        return func(*args, **(kwargs or {}))

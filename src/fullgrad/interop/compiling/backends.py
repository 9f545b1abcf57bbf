"""How a graph is run: as it is, compiled, or replayed by the GPU without Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, fx

from fullgrad._compat import inductor_compiled
from fullgrad.errors import GraphError, OptionError
from fullgrad.interop.compiling._on_gpu import settled_on

Mode: TypeAlias = Literal["graph", "cudagraphs", "inductor"]
MODES: tuple[str, ...] = get_args(Mode)
_WARM_UP = 2

Run: TypeAlias = Callable[..., Sequence[Tensor]]


def check_mode(mode: str, tensors: Sequence[Tensor]) -> None:
    """Refuse a mode that is unknown, or that the device lacks.

    Args:
        mode: any.
        tensors: of the model and of the call.

    Raises:
        OptionError: names the modes that work.
    """
    if mode not in MODES:
        raise OptionError(f"mode must be one of {', '.join(map(repr, MODES))}, not {mode!r}")
    devices = {t.device for t in tensors}
    if mode == "cudagraphs" and not (len(devices) == 1 and all(d.type == "cuda" for d in devices)):
        raise OptionError(
            "mode='cudagraphs' replays what a GPU was given, so the model and all inputs must be "
            "on one GPU (device 'cuda'). Elsewhere use mode='graph' or mode='inductor'"
        )


def runner(graph: fx.GraphModule, tensors: Sequence[Tensor], mode: Mode, fixed: int) -> Run:
    """Make a graph ready to run.

    Args:
        graph: from tensors to a tuple of tensors; it is for these tensors' shapes.
        tensors: its inputs.
        mode: see :func:`fullgrad.compile`.
        fixed: how many of the first inputs stay where they are from call to call (parameters). A
            replayed graph reads them in place, and is recorded again where one has moved.

    Returns:
        The graph as a function of its inputs. What it returns is the caller's.

    Raises:
        GraphError: the graph cannot be compiled or recorded.
    """
    with plain():
        own = [t.detach() for t in tensors]
        if mode == "cudagraphs":
            return _Replayed(settled_on(graph, own[-1].device), fixed)
        if mode == "inductor":
            try:
                return inductor_compiled(graph, own)
            except Exception as error:
                raise GraphError(
                    f"Inductor cannot compile the graph: {error}. Run it uncompiled: mode='graph'"
                ) from error
        return graph


def plain() -> ExitStack:
    """No gradients, no inference tensors and no automatic casts inside: the graph has its own."""
    stack = ExitStack()
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.no_grad())
    for kind in ("cpu", *_accelerator()):
        if torch.is_autocast_enabled(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
    return stack


def _accelerator() -> list[str]:
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return [] if found is None else [found.type]


class _Replayed:
    """A function of tensors on a GPU, recorded in its first call and replayed in the others.

    The recording reads the first inputs (parameters) where they lie, and the others from buffers of
    its own, into which each call copies. Results are copied out, so that the next call leaves them
    as they are.
    """

    def __init__(self, run: Run, fixed: int) -> None:
        self._run, self._fixed = run, fixed
        self._places: list[int] = []
        self._read: Sequence[Tensor] = ()
        self._given: Sequence[Tensor] = ()
        self._results: Sequence[Tensor] = ()
        self._graph: Any = None

    def __call__(self, *tensors: Tensor) -> Sequence[Tensor]:
        fixed, given = tensors[: self._fixed], tensors[self._fixed :]
        with torch.cuda.device(given[0].device):
            places = [t.data_ptr() for t in fixed]
            if self._graph is None or places != self._places:
                self._record(fixed, given)
                self._places = places
            for own, t in zip(self._given, given, strict=True):
                own.copy_(t)
            self._graph.replay()
            return [t.clone() for t in self._results]

    def _record(self, fixed: Sequence[Tensor], given: Sequence[Tensor]) -> None:
        self._graph, self._results = None, ()  # their memory is free before more is taken
        # Views of the storage, which keep the memory alive that the recording reads.
        self._read = [t.detach() for t in fixed]
        self._given = [t.clone(memory_format=torch.preserve_format) for t in given]
        inputs = (*self._read, *self._given)
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        graph = torch.cuda.CUDAGraph()
        try:
            stream.wait_stream(current)
            with torch.cuda.stream(stream):  # libraries are set up, kernels chosen
                for _ in range(_WARM_UP):
                    self._run(*inputs)
            current.wait_stream(stream)
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._results = tuple(self._run(*inputs))
        except Exception as error:
            raise GraphError(
                f"the GPU cannot record the graph ({error}). Run it without: mode='graph'"
            ) from error
        self._graph = graph

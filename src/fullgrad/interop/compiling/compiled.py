"""``fullgrad.compile``: a model's explanation as one compiled graph."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor, nn

from fullgrad._options import takes_options
from fullgrad.axes.layouts import ActivationLayouts, InputLayout
from fullgrad.axes.spread import MassPlacement
from fullgrad.engine.inputs import Inputs
from fullgrad.engine.request import Detached
from fullgrad.engine.wrappers import unwrap
from fullgrad.errors import GraphError
from fullgrad.interop.compiling._model import Watched, described
from fullgrad.interop.compiling._settings import settings
from fullgrad.interop.compiling.backends import Mode, Run, check_mode, plain, runner
from fullgrad.interop.compiling.call import Arguments, Explaining, Found, rows_for
from fullgrad.interop.compiling.comparing import accepted, apart, unexplained
from fullgrad.interop.compiling.trace import Trace, traced
from fullgrad.maps.aggregation import Psi
from fullgrad.maps.saliency import packed
from fullgrad.maps.selection import Terms
from fullgrad.operations.linearization import Linearization, Named

if TYPE_CHECKING:
    from typing_extensions import Unpack

_COURSES = 8  # graphs for calls that differ in nothing but what their numbers decide


class GraphOptions(TypedDict, total=False):
    """The options of :func:`compile` that are those of the eager call."""

    psi: Psi
    placement: MassPlacement
    terms: Terms
    detached: Detached
    tolerance: float | None
    layout: InputLayout
    activation_layouts: ActivationLayouts | None
    linearization: Named | Linearization


@dataclass(frozen=True, slots=True, eq=False)
class CompiledMap:
    """What a compiled call gives, its sum proved.

    Args:
        map: shape (B, 1, *positions) in the form of the inputs, as the eager call's.
        output: the explained scalars, shape (B,).
        residual: output minus all terms, shape (B,), float64.
        target: class index of each sample, shape (B,); None where the output has no classes.
    """

    map: Any
    output: Tensor
    residual: Tensor
    target: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class _Graph:
    """A graph that is ready to run, with what it took to make it."""

    trace: Trace
    run: Run
    like: Found  # without its maps: what a target is compared with
    seconds: float


class Compiled:
    """A compiled explanation; see :func:`compile`, which makes it."""

    def __init__(self, model: nn.Module, explaining: Explaining, mode: Mode) -> None:
        self._given, self._model = model, unwrap(model)
        self._explaining, self._mode = explaining, mode
        self._watched = Watched(self._model)
        self._graphs: dict[Any, list[_Graph]] = {}
        self._lock = threading.Lock()
        self._kept: list[Any] = []

    @property
    def seconds(self) -> tuple[float, ...]:
        """What each graph that is held took to trace and compile, in seconds."""
        return tuple(g.seconds for graphs in self._graphs.values() for g in graphs)

    def __call__(
        self,
        inputs: Inputs,
        target: Any = None,
        *,
        additional_forward_args: Any = None,
        forward_kwargs: Mapping[str, Any] | None = None,
    ) -> CompiledMap:
        """Explain a batch.

        Args:
            inputs: as the eager call takes them.
            target: a class index, one for each sample, a tuple of indices into a dense output or a
                list of them; None for the class with the highest output.
            additional_forward_args: see :func:`fullgrad.decompose`.
            forward_kwargs: see :func:`fullgrad.decompose`.

        Raises:
            TargetError: any other target.
            GraphError: a graph cannot hold the call.
            FullGradError: as the eager call.
        """
        arguments, tensors = Arguments.of(inputs, additional_forward_args, forward_kwargs)
        with self._lock:
            found = self._call(arguments, tensors, target)
        index = found.index
        classes = index is not None and len(found.rest) == 1
        return CompiledMap(
            packed(found.maps, inputs), found.output, found.residual, index if classes else None
        )

    def verify(
        self,
        inputs: Inputs,
        target: Any = None,
        *,
        tolerance: float | None = None,
        additional_forward_args: Any = None,
        forward_kwargs: Mapping[str, Any] | None = None,
    ) -> float:
        """Compare with the eager call: the way to see what no guard sees.

        Args:
            inputs: see :meth:`__call__`.
            target: see :meth:`__call__`.
            tolerance: the largest accepted difference, relative to the largest number of a sample's
                map; None for ten times that of the sum. A map that jumps eagerly too, where only
                rounding changes, is accepted up to three times as far (a ReLU at zero).
            additional_forward_args: see :func:`fullgrad.decompose`.
            forward_kwargs: see :func:`fullgrad.decompose`.

        Returns:
            The largest relative difference between the maps, or between the outputs.

        Raises:
            GraphError: it is larger than the tolerance.
        """
        arguments, tensors = Arguments.of(inputs, additional_forward_args, forward_kwargs)
        eager = self._explaining.eager(self._given, arguments, tensors, target)
        with self._lock:
            found = self._call(arguments, tensors, target)
        most = accepted(eager) if tolerance is None else tolerance
        gap, same = self._compared(found, eager, arguments, tensors, target, most)
        if not same:
            raise GraphError(
                f"the compiled call differs from the eager one by {gap:.1e}, more than "
                f"{most:.0e}. Something has changed that is not watched: compile the model "
                f"again, or explain it eagerly: {self._explaining.words}"
            )
        return gap

    def _call(self, arguments: Arguments, tensors: list[Tensor], target: Any) -> Found:
        tensors = [t.detach() if _dense(t) else t.detach().contiguous() for t in tensors]
        if self._watched.changed():
            self._graphs.clear()
        kept: list[Any] = []
        state = self._watched.state
        check_mode(self._mode, [*state, *tensors])
        key = (
            described([arguments.inputs, arguments.extra, arguments.keywords], kept),
            described(tensors),
            settings([*tensors, *state[:1]]),
        )
        graphs = self._graphs.get(key)
        if graphs is None:
            self._kept += kept
            graphs = self._graphs.setdefault(key, [])
        unproved = False
        for graph in graphs:
            rows = rows_for(target, graph.like, self._explaining)
            found, checks = _ran(graph, [*state, *tensors, rows])
            if checks == graph.trace.answers:
                return found
            unproved = unproved or _same_course(graph.trace, checks)
        return self._otherwise(graphs, arguments, tensors, target, unproved)

    def _otherwise(
        self,
        graphs: list[_Graph],
        arguments: Arguments,
        tensors: list[Tensor],
        target: Any,
        unproved: bool,
    ) -> Found:
        """A call for which no graph holds: its eager result, and a graph for others like it."""
        eager = self._explaining.eager(self._given, arguments, tensors, target)
        if unproved:
            warnings.warn(
                "the sum of this call's terms does not hold in the compiled graph, but does "
                "eagerly: this result is the eager one",
                UserWarning,
                stacklevel=4,
            )
            return eager
        if len(graphs) >= _COURSES:
            raise GraphError(
                f"what the numbers of the input decide differs from call to call: {_COURSES} "
                f"graphs do not hold it. {self._way_out}"
            )
        start = time.perf_counter()
        rows = rows_for(target, eager, self._explaining)
        trace = traced(self._given, arguments, tensors, rows, eager, self._explaining)
        if not all(a for a, proof in zip(trace.answers, trace.proofs, strict=True) if proof):
            raise GraphError(
                "the sum of the terms holds only where it is judged by the sizes of their numbers. "
                f"{self._way_out}"
            )
        given = [*self._watched.state, *tensors, rows]
        run = runner(trace.graph, given, self._mode, len(self._watched.state))
        like = replace(eager, maps=())
        found, checks = _ran(_Graph(trace, run, like, 0.0), given)
        most = accepted(eager)
        gap, same = self._compared(found, eager, arguments, tensors, target, most)
        if checks != trace.answers or not same:
            raise GraphError(
                f"the graph in mode {self._mode!r} does not repeat the eager call: "
                f"relative difference {gap:.1e}. {self._way_out}"
            )
        graphs.append(_Graph(trace, run, like, time.perf_counter() - start))
        return found

    def _compared(
        self,
        found: Found,
        eager: Found,
        arguments: Arguments,
        tensors: list[Tensor],
        target: Any,
        most: float,
    ) -> tuple[float, bool]:
        """The largest relative difference, and whether it is accepted."""
        gaps, outputs = apart(found, eager)
        if eager.index is not None and len(eager.rest) == 1:
            target = eager.index.tolist()

        def explain(near: Sequence[Tensor]) -> Found:
            return self._explaining.eager(self._given, arguments, near, target)

        bad = not outputs <= most or bool(unexplained(gaps, most, explain, tensors, eager).any())
        return max(float(gaps.max()), outputs), not bad

    @property
    def _way_out(self) -> str:
        return f"Explain it eagerly: {self._explaining.words}"


def _dense(t: Tensor) -> bool:
    """Whether a copy has the same strides."""
    return t.is_contiguous() or torch.empty_like(t, device="meta").stride() == t.stride()


def _same_course(trace: Trace, checks: tuple[bool, ...]) -> bool:
    """Whether numbers decided as in a trace, so that only what is proved fails."""
    return all(c == a for c, a, p in zip(checks, trace.answers, trace.proofs, strict=True) if not p)


def _ran(graph: _Graph, given: Sequence[Tensor]) -> tuple[Found, tuple[bool, ...]]:
    """What a graph gives, and its checks."""
    with plain():
        *maps, output, residual, index, checks = graph.run(*given)
    known, *held = torch.cat([(index >= 0).all().reshape(1), checks]).tolist()
    classes = index if known and len(graph.trace.rest) == 1 else None
    return Found(tuple(maps), output, residual, classes, graph.trace.rest), tuple(held)


@takes_options("compile", GraphOptions)
def compile(
    model: nn.Module,
    example_inputs: Inputs,
    target: Any = None,
    *,
    method: str = "fullgrad",
    mode: Mode = "graph",
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    **options: Unpack[GraphOptions],
) -> Compiled:
    """Turn a model's explanation into one graph, which runs without Python for each operation.

    The example is explained once eagerly, once while it is traced, and once by the graph, whose
    result must equal the eager one. A later call runs the graph alone. What the eager call checks
    (finite inputs, terms that sum to the output) the graph computes as well, and every call looks
    at it: where a check fails, the call is made eagerly, with its error.

    **What is watched.** A call makes another graph, which takes as long as the first, if something
    has changed in: shape, strides, dtype or device of an input; other arguments; the modules of the
    model (those in a plain list too), their classes, hooks and ``forward``; attributes, of the
    classes too, that are numbers, strings, tensors or containers of those, and which object any
    other attribute is; shape, strides, dtype or device of
    a parameter or buffer; autocast; precision, kernels and defaults of the process
    (``torch.backends``, ``torch.set_float32_matmul_precision``, default dtype and device). Numbers
    of parameters and buffers are read in every call, so that steps of an optimizer,
    ``load_state_dict(assign=True)`` and a replaced ``Parameter`` are followed. As in an eager call,
    the model is explained in evaluation mode, whatever its training flags.

    **What is not.** Global variables, closures, and what is changed inside an object that is no
    container. Code in ``forward`` and in hooks runs while a graph is made, not in later calls.
    :meth:`Compiled.verify` compares with the eager call.

    Args:
        model: see :func:`fullgrad.decompose`.
        example_inputs: see :func:`fullgrad.decompose`; the graph is for its shapes.
        target: of the example. Later calls may have any other.
        method: ``"fullgrad"`` or ``"simple_fullgrad"`` (of :func:`fullgrad.saliency`),
            ``"complete_fullgrad"`` or ``"balanced_fullgrad"`` (of :func:`fullgrad.complete_map`),
            or ``"balanced_input"``.
        mode: ``"graph"`` runs PyTorch's operations one after the other, without a compiler;
            ``"cudagraphs"`` records them on the GPU once and replays them, which takes the CPU out
            of the call (NVIDIA or AMD GPU only); ``"inductor"`` compiles them, in minutes.
        additional_forward_args: of the example; see :func:`fullgrad.decompose`.
        forward_kwargs: of the example; see :func:`fullgrad.decompose`.
        **options: ``psi`` (the first two methods), ``placement`` (the others), ``terms``,
            ``detached``, ``tolerance``, ``layout``, ``activation_layouts`` and ``linearization``,
            as in the eager call.

    Returns:
        A callable; see :class:`Compiled`.

    Raises:
        OptionError: an unknown method, mode or option, or a mode that the device lacks.
        GraphError: a graph cannot hold the call; names what in it.
        FullGradError: as the eager call.

    Example:
        >>> import torch, fullgrad
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten())
        >>> compiled = fullgrad.compile(model, torch.rand(2, 3, 8, 8))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> heat = compiled(x, target=[5, 7]).map
        >>> bool((heat == fullgrad.saliency(model, x, [5, 7])).all())
        True
    """
    explaining = Explaining(method, options)
    compiled = Compiled(model, explaining, mode)
    compiled(
        example_inputs,
        target,
        additional_forward_args=additional_forward_args,
        forward_kwargs=forward_kwargs,
    )
    return compiled

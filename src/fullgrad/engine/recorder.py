"""The recorded forward: every operation that autograd sees, with its bias, on a tape.

A dispatch mode sees each operation once, below autograd: one operation, one autograd node. The
node is how gradients find their bias again, by execution and not by position. Whether a tensor
depends on the input is asked of the autograd graph, so parameters keep their ``requires_grad``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fullgrad._compat import (
    FAST_PATH_CHECK,
    DispatchMode,
    base_of,
    memory_of,
    node_was_registered,
    saved_input,
    saves_plainly,
    storage_id,
)
from fullgrad._decisions import decided
from fullgrad.axes.algebra import Axes
from fullgrad.axes.layouts import Layouts, StatedLayouts
from fullgrad.engine import refusals
from fullgrad.engine._baseline import Baseline
from fullgrad.engine._detached import Dependence, Detached
from fullgrad.engine._known_axes import KnownAxes
from fullgrad.engine._linearizer import Linearizer, Source
from fullgrad.engine._pending import Pending, edges_of, with_first
from fullgrad.engine._shifts import shift_of, shifted_by
from fullgrad.engine.module_path import ModulePath
from fullgrad.engine.tape import (
    Entry,
    Handover,
    Step,
    Tape,
    constant_rest,
    memory_layout,
    overwritten_base,
    overwritten_view,
    rest_entry,
)
from fullgrad.operations import Bias, Call
from fullgrad.operations.call import NO_BIAS, tensors_in
from fullgrad.operations.fallback import GeneralCall
from fullgrad.operations.linearization import JACOBIAN, Linearization
from fullgrad.operations.registry import Operation, Overload, overload


class Recorder(DispatchMode):
    """Records a forward pass onto a :class:`Tape` while it is active in this thread.

    Args:
        roots: autograd nodes of the tensors that the model is given.
        path: the module under execution.
        on_write: called with each tensor that is about to be overwritten.
        keep_steps: also keep every operation's arguments and outputs (for diagnosis).
        allow_detached: take detached values as constants instead of refusing them.
        layouts: of the given tensors; None for the usual ones.
        stated: layouts of activations that cannot be followed.
        linearization: which linear maps stand for the operations.
        baseline: values on a baseline, noted or read.
    """

    def __init__(
        self,
        roots: Sequence[Any],
        path: ModulePath,
        on_write: Callable[[Tensor], None],
        *,
        layouts: Layouts | None = None,
        stated: StatedLayouts | None = None,
        keep_steps: bool = False,
        allow_detached: bool = False,
        linearization: Linearization = JACOBIAN,
        baseline: Baseline | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tape = Tape()
        self.roots = frozenset(roots)
        self.path = path
        self._on_write = on_write
        self._keep_steps = keep_steps
        self._allow_detached = allow_detached
        self.dependence = Dependence(self.roots)
        self.depends = self.dependence.of
        self._pending: Pending | None = None
        self._unproved: list[Pending] = []
        self._readers: dict[int, list[Entry | Handover]] = {}
        self.detached = Detached(self.dependence)
        self._places = KnownAxes(roots, layouts, stated)
        self._linearizer: Linearizer | None = None
        if not linearization.is_jacobian:
            given = (self.tape, self.depends, self._places.samples == 1, baseline)
            self._linearizer = Linearizer(linearization, *given)
        self._axes_of = self._places.of

    # -- recording --------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one operation and put it on the tape if it depends on the input."""
        kwargs = kwargs or {}
        if self._pending is not None or self._unproved:
            self.settle()
        operation = overload(func)
        if types:
            refusals.refuse_wrapped([*args, *kwargs.values()], self.path, operation.label)
        depends = any(map(self.depends, args)) or any(map(self.depends, kwargs.values()))
        if depends:
            refusals.refuse_sparse(args, self.path, operation.label)
        unchanged: list[tuple[Tensor, Tensor]] = []
        if operation.writes:
            for i in operation.writes:
                written = args[i] if i < len(args) else kwargs.get(operation.names[i])
                unchanged += self._before_write(written, operation, depends)
        if operation.statistics:
            self._before_statistics(operation, args)
        if not depends or operation.entry.detaches or not torch.is_grad_enabled():
            out = func(*args, **kwargs)
            for written, before in unchanged:
                if not decided((written.detach() == before).all(), proof=True):
                    raise refusals.outside_the_graph(self.path.current(), operation.label)
            if depends or self.detached:
                self._after_cut(operation, depends, args, kwargs, out)
            if depends and operation.own_autograd:
                call = self._call(func, operation, args, kwargs, out, self.depends)
                path, sources = self.path.current(), self._sources(args, kwargs)
                self._unproved.append(Pending(operation, call, args, path, sources=sources))
            return out
        if operation.writes:
            return self._overwriting(func, operation, args, kwargs)
        out = func(*args, **kwargs)
        if func is FAST_PATH_CHECK:
            self.tape.fast_path = self.tape.fast_path or bool(out and not decided(args[1].all()))
        call = self._call(func, operation, args, kwargs, out, self.depends)
        refusals.refuse_sparse(call.outputs, self.path, operation.label)
        edges = edges_of(args, self.depends) if self._keep_steps else ()
        path, sources = self.path.current(), self._sources(args, kwargs)
        self._note(Pending(operation, call, args, path, edges, sources=sources))
        return out

    def _sources(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Source, ...]:
        return self._linearizer.sources(args, kwargs) if self._linearizer else ()

    def _call(
        self,
        func: Any,
        operation: Overload,
        args: tuple[Any, ...],
        kwargs: Any,
        out: Any,
        depends: Callable[[Any], bool],
        in_place: bool = False,
    ) -> Call:
        outputs = tuple(out) if isinstance(out, (tuple, list)) else (out,)
        names, defaults, label = operation.names, operation.defaults, operation.label
        return Call(func, label, names, defaults, args, kwargs, outputs, depends, in_place)

    def _overwriting(
        self, func: Any, operation: Overload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run an operation that writes, after keeping what its rule will ask for."""
        in_place = 0 in operation.writes
        before, saved, rest, entry = args, False, None, operation.entry
        if in_place:
            # A constant that is overwritten is a bias; an input is what the rule may read.
            first_depends = self.depends(args[0])
            reads = entry.reads_input or self._own_rule(entry, self.path.current())
            if entry.bias is None or reads or not first_depends:
                saved = (
                    entry.autograd_keeps_input
                    and first_depends
                    and base_of(args[0]) is None
                    and saves_plainly()
                )
                if not saved:
                    before = (args[0].detach().clone(), *args[1:])
            rest = constant_rest(args[0], self.depends)
            first = before[0]
            answers: Callable[[Any], bool] = lambda v: (  # noqa: E731
                first_depends if v is first else self.depends(v)
            )
        else:
            answers = self.depends
        known = {id(t): self._axes_of(t) for t in tensors_in(args)}
        base = base_of(args[0]) if in_place else None
        if base is not None:
            known[id(base)] = self._axes_of(base)
        if in_place:
            known[id(before[0])] = known[id(args[0])]
        edges = edges_of(args, self.depends) if self._keep_steps else ()
        sources = self._sources(args, kwargs)
        out = func(*args, **kwargs)
        call = self._call(func, operation, before, kwargs, out, answers, in_place)
        path = self.path.current()
        self._note(Pending(operation, call, args, path, edges, known, rest, saved, sources))
        return out

    def _note(self, pending: Pending) -> None:
        entry, call = pending.operation.entry, pending.call
        if self.detached and not (self._allow_detached or self._own_rule(entry, pending.module)):
            pending = pending._replace(shifted=shifted_by(entry, call, self.detached))
        if pending.shifted is None:
            self.meet([*pending.args, *call.kwargs.values()])
        self._pending = pending

    def _own_rule(self, entry: Operation, module: str) -> bool:
        """Whether the user's linear maps stand for an operation."""
        return self._linearizer is not None and self._linearizer.has_rule(entry, module)

    def meet(self, values: Sequence[Any]) -> None:
        """Note values that left the graph, and meet it again."""
        if self.detached:
            where = self.detached.where(values)
            if where is not None and not self._allow_detached:
                self.tape.blocked[where] = None

    def axes_of(self, value: Tensor) -> Axes | None:
        """The axes of a value of the graph, None if they are not known."""
        self.settle()
        return self._axes_of(value)

    def place(self, value: Tensor, axes: Axes | None) -> None:
        """Note the axes of a value that no recorded operation made."""
        self.settle()
        self._places.note(value.grad_fn, value.output_nr, axes)

    def adopt(
        self,
        op: str,
        outputs: Sequence[Tensor],
        axes: Sequence[Axes | None] = (),
        sources: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> str:
        """Put the node of an autograd function of the library's own on the tape.

        Args:
            op: a name for it.
            outputs: of the function.
            axes: of the outputs.
            sources: what it was computed from, each with its value.

        Returns:
            The path of the module under execution.
        """
        module, node = self.path.current(), outputs[0].grad_fn
        self.dependence.add(node)
        self.tape.nodes[node] = module
        self.tape.dtypes.update(o.dtype for o in outputs)
        for k, a in enumerate(axes):
            self._places.note(node, k, a)
        if self._keep_steps and sources:
            edges = [(t.grad_fn, t.output_nr, v) for t, v in sources if self.depends(t)]
            kept = tuple(o.detach().clone() for o in outputs)
            self.tape.steps.append(Step(module, op, node, tuple(edges), kept))
        return module

    def settle(self) -> None:
        """Put what ran on the tape, now that autograd has given it a node."""
        if self._unproved and torch.is_grad_enabled():
            unproved, self._unproved = self._unproved, []
            for pending in unproved:
                nodes = [o.grad_fn for o in pending.call.outputs if isinstance(o, Tensor)]
                made = [n for n in nodes if n is not None]
                if made and all(node_was_registered(n, pending.call.func) for n in made):
                    self._put(pending)
        if self._pending is not None:
            last, self._pending = self._pending, None
            self._put(last)

    def _put(self, pending: Pending) -> None:
        operation, call, module = pending.operation, pending.call, pending.module
        edges, rest, tape = pending.edges, pending.rest, self.tape
        differentiable = [isinstance(o, Tensor) and o.requires_grad for o in call.outputs]
        if not any(differentiable):
            if not (operation.entry.reads_shape or operation.entry.piecewise_constant):
                where = f"{module} ({operation.label})" if module else f"({operation.label})"
                for o in call.outputs:
                    if isinstance(o, Tensor) and o.is_floating_point():
                        self.detached.mark(o, where)
            return
        nodes: list[Any] = []
        for o, has_gradient in zip(call.outputs, differentiable, strict=True):
            node = None
            if has_gradient:
                # Asking an overwritten view for its node would wait for autograd, which waits here.
                base = overwritten_base(call, o)
                node = o.grad_fn if base is None else base.grad_fn
                self.dependence.add(node)
                tape.nodes[node] = module
                tape.dtypes.add(o.dtype)
            nodes.append(node)
        axes = self._places.after(
            operation.entry.axes, call, module, pending.axes_before, nodes, tape.bindings
        )
        if pending.saved:
            call = with_first(call, saved_input(nodes[0]))
        if operation.entry.gradient_in_layout and call.outputs[0].device.type == "cpu":
            tape.relayout.append((nodes[0], memory_layout(call.args[0])))
        if edges:
            kept = (o.detach().clone() if isinstance(o, Tensor) else None for o in call.outputs)
            tape.steps.append(Step(module, operation.label, nodes[0], edges, tuple(kept)))
        if rest is not None and nodes[0] is not None and decided(rest.any()):
            whole = self._places.whole(nodes[0], rest.shape)
            tape.entries.append(rest_entry(module, operation.label, nodes[0], rest, whole))
        biases, rule = None, operation.entry.bias
        if pending.shifted is not None:
            tape.shifts.append(shift_of(pending.shifted, call, nodes[0], axes[0]))
            biases = None if self._keep_steps else NO_BIAS  # local sums hold with the constant
        elif self._linearizer is not None:
            handed = len(tape.handovers)
            given = (operation, call, module, nodes, pending.sources, axes[0])
            biases = self._linearizer.biases(*given)
            for handover in tape.handovers[handed:]:
                self._remember(handover)
        if biases is None and rule is not None:
            biases = rule(call)
        if biases is None:
            general = GeneralCall(call)
            for slot, has_gradient in enumerate(differentiable):
                if has_gradient:
                    self._append(operation, call, module, nodes, slot, general, axes)
            return
        for bias in biases:
            if differentiable[bias.output]:
                self._append(operation, call, module, nodes, bias.output, bias, axes)

    def _append(
        self,
        operation: Overload,
        call: Call,
        module: str,
        nodes: list[Any],
        slot: int,
        bias: Bias | GeneralCall,
        axes: Sequence[Axes | None],
    ) -> None:
        out = call.outputs[slot]
        view = overwritten_view(call, out)
        entry = Entry(
            module,
            operation.label,
            nodes[slot],
            out.output_nr if view is None else 0,
            slot,
            out.shape,
            bias,
            bias.held,
            axes[slot],
            view,
            view is not None and not out.is_complex(),
        )
        self.tape.entries.append(entry)
        self._remember(entry)

    def _remember(self, reader: Entry | Handover) -> None:
        """Note what it reads, so that it is copied before a write."""
        for h in reader.held:
            self._readers.setdefault(h.untyped_storage().data_ptr(), []).append(reader)

    # -- writes and values outside the graph ------------------------------------------------

    def _before_write(
        self, written: Any, operation: Overload, depends: bool
    ) -> list[tuple[Tensor, Tensor]]:
        """Prepare for a write.

        Returns:
            Values of the graph that are written outside it, and copies of them: right only if
            nothing changes (a clamp of what is within its limits).
        """
        unchanged = []
        for t in tensors_in([written]):
            if depends and not torch.is_grad_enabled() and t.requires_grad and self.depends(t):
                unchanged.append((t, t.detach().clone()))
            if self.detached.aliases(t) and not self.depends(t):
                raise refusals.through_a_view(self.path.current(), operation.label)
            self._on_write(t)
            for s in self.tape.shifts:
                if s.storage == storage_id(t):
                    self.tape.blocked[s.where] = None
            memory = memory_of(t)
            if memory is not None:
                for entry in self._readers.pop(memory, ()):
                    entry.protect(memory)
        return unchanged

    def _before_statistics(self, operation: Overload, args: tuple[Any, ...]) -> None:
        if args[operation.names.index("training")]:
            for place in operation.statistics:
                if place < len(args) and args[place] is not None:
                    self._on_write(args[place])

    def _after_cut(
        self, operation: Overload, depends: bool, args: Any, kwargs: Any, out: Any
    ) -> None:
        """Remember float values that depend on the input but not through autograd."""
        if operation.entry.reads_shape:
            return
        where = self.path.current() if depends else self.detached.where([*args, *kwargs.values()])
        if where is not None:
            self.detached.follow(where, args, out, bool(operation.writes))


@contextmanager
def recording(recorder: Recorder) -> Iterator[Recorder]:
    """Record what runs inside, with gradients on and outside inference mode."""
    with torch.inference_mode(False), torch.enable_grad():
        with recorder:
            yield recorder
        recorder.settle()

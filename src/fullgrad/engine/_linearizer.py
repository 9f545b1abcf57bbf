"""The linear maps that a call chose, beside the recorder: their biases, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from fullgrad._compat import base_of
from fullgrad.axes.algebra import Axes, has_batch
from fullgrad.engine._baseline import Baseline
from fullgrad.engine.tape import Handover, Tape, geometry, overwritten_base, overwritten_view
from fullgrad.errors import ModelError
from fullgrad.operations import Bias, Call
from fullgrad.operations._local import of_numbers, quotient_of
from fullgrad.operations._origins import Origin, mixed
from fullgrad.operations.call import dependents, tensors_in
from fullgrad.operations.linearization import QUOTIENTS, Linearization, Rule
from fullgrad.operations.registry import Operation, Overload


class Source(NamedTuple):
    """An argument: an autograd node, the number of its output, and where the value comes from."""

    node: Any
    number: int
    origin: Origin | None


def check_modules(linearization: Linearization, model: nn.Module) -> None:
    """Refuse a choice for a module that the model does not have.

    Raises:
        ValueError: naming it.
    """
    known = {name for name, _ in model.named_modules()} if linearization.modules else ()
    for path in linearization.modules:
        if path not in known:
            raise ValueError(f"linearization: the model has no module {path!r}")


class Linearizer:
    """Chooses each operation's linear maps while a forward pass is recorded.

    Args:
        linearization: the choice.
        tape: where the way back is noted.
        depends: whether a value depends on the input.
        single: whether there is one sample.
        baseline: values on a baseline, noted or read; None without one.
    """

    def __init__(
        self,
        linearization: Linearization,
        tape: Tape,
        depends: Callable[[Any], bool],
        single: bool,
        baseline: Baseline | None = None,
    ) -> None:
        self._single = single
        self._baseline = baseline
        self._linearization = linearization
        self._tape = tape
        self._depends = depends
        # By node and number of the output; of overwritten views by their place in the base.
        self._origins: dict[tuple[Any, ...], Origin] = {}

    def sources(self, args: Iterable[Any], kwargs: dict[str, Any]) -> tuple[Source, ...]:
        """The arguments that depend on the input, in order, before the operation runs."""
        found = []
        for t in tensors_in((*args, *kwargs.values())):
            if self._depends(t):
                origin = self._origins.get((t.grad_fn, t.output_nr))
                if origin is None and (base := base_of(t)) is not None:
                    origin = self._origins.get((base.grad_fn, *geometry(t)))
                found.append(Source(t.grad_fn, t.output_nr, origin))
        return tuple(found)

    def has_rule(self, entry: Operation, module: str) -> bool:
        """Whether a rule of the user's stands for an operation: it reads the input as it was."""
        choice = self._linearization.choice(entry.name, entry.family, module)
        return isinstance(choice, Rule) or (choice in QUOTIENTS and entry.of_numbers)

    def biases(
        self,
        operation: Overload,
        call: Call,
        module: str,
        nodes: Sequence[Any],
        sources: Sequence[Source],
        axes: Axes | None,
    ) -> tuple[Bias, ...] | None:
        """What the maps of a call leave over, its way back noted; None: the Jacobian.

        Args:
            operation: what is known of it.
            call: as executed, its first argument as it was.
            module: that ran it.
            nodes: of the outputs, None for those without a gradient.
            sources: of the arguments that depend on the input.
            axes: of the first output.

        Raises:
            ModelError: a user's rule for an operation whose node cannot be followed.
        """
        entry = operation.entry
        counting = tuple(d for d, g in enumerate(axes.groups) if has_batch(g)) if axes else ()
        if counting or self._single:
            call = replace(call, sample_axes=counting)
        given = dependents(call)
        by_id = {id(v): s.origin for v, s in zip(given, sources, strict=True)}

        def origin_of(value: Any) -> Origin | None:
            return by_id.get(id(value))

        self._note_origin(entry, call, nodes, origin_of)
        choice = self._linearization.choice(entry.name, entry.family, module)
        if isinstance(choice, Rule):
            local = choice.local(call)
        elif choice in QUOTIENTS and entry.of_numbers and of_numbers(call):
            if self._baseline is None:
                return None
            value, result = call.args[0].detach(), call.output
            if self._baseline.filling:
                self._baseline.note(entry.name, value, result)
                return None
            local = quotient_of(call, *self._baseline.take(entry.name, value, result))
        elif choice not in ("jacobian", "quotient") and entry.balanced is not None:
            found = entry.balanced(call, origin_of)
            if found is None:
                return None
            local = found
        else:
            return None
        if local.transpose is None:
            return local.biases
        out = call.outputs[0]
        view, base = overwritten_view(call, out), overwritten_base(call, out)
        places = _places(nodes[0], sources, view is not None and call.depends(call.args[0]))
        complex_part = base is not None and (base.is_complex() or out.is_complex())
        if places is None or complex_part:
            if isinstance(choice, Rule):
                raise ModelError(
                    f"the rule for {entry.label} cannot be applied in {module or 'the model'}, "
                    "whose autograd node hands on gradients in another way. Use another operation, "
                    f"or linearization=Linearization(modules={{{module!r}: 'jacobian'}})"
                )
            return None
        slots = tuple(
            None if n is None else 0 if view else o.output_nr
            for n, o in zip(nodes, call.outputs, strict=True)
        )
        shape = None if view is None else out.shape
        handover = Handover(nodes[0], places, slots, local.transpose, local.held, view, shape)
        self._tape.handovers.append(handover)
        return local.biases

    def _note_origin(
        self,
        entry: Operation,
        call: Call,
        nodes: Sequence[Any],
        origin_of: Callable[[Any], Origin | None],
    ) -> None:
        linear = entry.family == "linear"
        rule = entry.origin or (mixed if linear or entry.family == "affine" else None)
        origin = None if rule is None else rule(call, origin_of)
        if origin is None:
            return
        outputs = zip(nodes, call.outputs, strict=True)
        for node, out in outputs if linear else [next(outputs)]:
            if node is None:
                continue
            whole = overwritten_base(call, out) is None
            self._origins[(node, out.output_nr) if whole else (node, *geometry(out))] = origin


def _places(node: Any, sources: Sequence[Source], into_first: bool) -> tuple[int, ...] | None:
    """Where a node hands gradients to these sources, each place once; None if it does not.

    Args:
        node: of the operation.
        sources: its arguments that depend on the input.
        into_first: the first one is a view that was overwritten: the node is its base's.
    """
    edges = list(enumerate(node.next_functions))
    found = []
    if into_first:
        found.append(edges.pop(0)[0])
        sources = sources[1:]
    for source, number, _ in sources:
        for i, (position, (target, nr)) in enumerate(edges):
            if target is source and nr == number:
                found.append(position)
                del edges[i]
                break
        else:
            return None
    return tuple(found)

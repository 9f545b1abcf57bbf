"""The axes of every value of the graph, from operation to operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from fullgrad._compat import base_of, passes_hooks
from fullgrad.axes.algebra import Axes, fresh
from fullgrad.axes.broadcasting import Bindings
from fullgrad.axes.layouts import (
    Layouts,
    Reach,
    StatedLayouts,
    input_layouts,
    reach_of,
    reach_together,
)
from fullgrad.axes.regions import after_writing
from fullgrad.engine.tape import geometry, overwritten_base
from fullgrad.operations import Call
from fullgrad.operations.call import tensors_in
from fullgrad.operations.propagation import AxesRule, Propagation, axes_after


class KnownAxes:
    """What is known of the axes of the values under way.

    Args:
        roots: autograd nodes of the inputs.
        layouts: of the inputs; None for the usual ones.
        stated: layouts of activations that cannot be followed.
    """

    def __init__(
        self, roots: Sequence[Any], layouts: Layouts | None, stated: StatedLayouts | None
    ) -> None:
        if layouts is None:
            shapes = [root.next_functions[0][0].variable.shape for root in roots]
            layouts = input_layouts(shapes, [""] * len(shapes), None)
        # By node and number of the output; of overwritten views by the base's node and their place.
        self._known: dict[tuple[Any, ...], Axes] = {
            (r, 0): a for r, a in zip(roots, layouts.axes, strict=True)
        }
        # Of values whose axes are not known, what of the inputs they may read; for stated layouts.
        self._reached: dict[tuple[Any, int], Reach] = {}
        self._rank, self.samples = layouts.rank, layouts.samples
        self._stated = stated

    def of(self, value: Any) -> Axes | None:
        """The axes of a value, None if they are not known or it is not in the graph."""
        if not isinstance(value, Tensor) or not value.requires_grad:
            return None
        axes = self._known.get((value.grad_fn, value.output_nr))
        if axes is None:
            axes = self._known.get(_source(value))
        if axes is None and (base := base_of(value)) is not None:
            axes = self._known.get((base.grad_fn, *geometry(value)))
        return axes if axes is not None and axes.shape == value.shape else None

    def whole(self, node: Any, shape: tuple[int, ...]) -> Axes | None:
        """The axes of a tensor of which a node overwrote a part."""
        axes = self._known.get((node, 0))
        return axes if axes is not None and axes.shape == shape else None

    def note(self, node: Any, number: int, axes: Axes | None) -> None:
        """Note the axes of a node's output."""
        if axes is not None:
            self._known[node, number] = axes

    def after(
        self,
        rule: AxesRule | None,
        call: Call,
        module: str,
        before: Mapping[int, Axes | None] | None,
        nodes: Sequence[Any],
        bindings: Bindings,
    ) -> Sequence[Axes | None]:
        """Note the axes of an operation's outputs.

        Args:
            rule: of the operation.
            call: the operation.
            module: that ran it.
            before: axes of the arguments by ``id``, should the operation have overwritten one.
            nodes: of the outputs, None for those without a gradient.
            bindings: what the recording learns on its way.
        """
        axes_of = self.of if before is None else lambda v: before.get(id(v))
        found = axes_after(rule, Propagation(call, axes_of, bindings, self._rank))
        if self._stated is not None and self._stated.activations:
            found = self._with_stated(self._stated, call, module, nodes, found, axes_of)
        if any(a is None for a in found):
            nowhere = _nowhere(call, axes_of)
            found = [
                nowhere(out) if a is None else a for out, a in zip(call.outputs, found, strict=True)
            ]
        for node, out, axes in zip(nodes, call.outputs, found, strict=True):
            if node is None or axes is None:
                continue
            base = overwritten_base(call, out)
            if base is None:
                self._known[node, out.output_nr] = axes
                continue
            self.note(node, 0, after_writing((before or {}).get(id(base)), base, out, axes))
            view = (node, *geometry(out))
            self._known[view] = axes
        return found

    def _with_stated(
        self,
        stated: StatedLayouts,
        call: Call,
        module: str,
        nodes: Sequence[Any],
        found: Sequence[Axes | None],
        axes_of: Callable[[Any], Axes | None],
    ) -> Sequence[Axes | None]:
        """The axes of outputs, the stated ones where none are known."""
        lost = [n is not None and a is None for n, a in zip(nodes, found, strict=True)]
        if not any(lost):
            return found
        reaches = []
        for t in tensors_in((*call.args, *call.kwargs.values())):
            if call.depends(t):
                axes = axes_of(t)
                known = self._reached.get(_source(t), ())
                reaches.append(known if axes is None else reach_of(axes))
        reach = reach_together(reaches)
        answer = list(found)
        for i, out in enumerate(call.outputs):
            if lost[i]:
                answer[i] = stated.axes_for(module, out.shape, reach)
                if overwritten_base(call, out) is None:
                    self._reached[nodes[i], out.output_nr] = reach
        return answer


def _source(value: Tensor) -> tuple[Any, int]:
    """The node that made a value, ahead of those that its modules' backward hooks pass through."""
    node: Any = value.grad_fn
    number = value.output_nr
    while passes_hooks(node):
        node, number = node.next_functions[number]
    return node, number


def _nowhere(call: Call, axes_of: Callable[[Any], Axes | None]) -> Callable[[Any], Axes | None]:
    """Axes of outputs of which nothing is known but that what they are made of has no place."""
    sources = [
        axes_of(t) for t in tensors_in((*call.args, *call.kwargs.values())) if call.depends(t)
    ]
    placeless = sources and all(a and a.coordinates and not a.placed for a in sources)
    count = len(sources[0].coordinates) if placeless and sources[0] is not None else 0

    def answer(out: Any) -> Axes | None:
        if not placeless or not isinstance(out, Tensor):
            return None
        return Axes(tuple(fresh(n) for n in out.shape), (None,) * count)

    return answer

"""Which layer a method reads if none is named: the last one that still has a grid.

The last module that returns positions is not always it. In a vision transformer whose head reads
the class token alone, the last block's tokens of the image have no gradient. So the layer is the
last *single cut* (every path from the input to the output runs through its output) whose positions
have a gradient: the residual stream, not what attention makes of it on the way. Where a network
has no such cut (branches that meet behind their pools), it is the last output with both, if that
is laid out as a convolution's; otherwise a layer must be named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fullgrad.axes.placement import Placement, arranged
from fullgrad.errors import MethodError
from fullgrad.methods.activations import Activation, Recording, gradients


def default_layer(recording: Recording, target: Any) -> tuple[str, int]:
    """Choose the layer.

    Where several modules end with the same tensor, it is the outermost of them. The model itself
    is left out.

    Args:
        recording: not run yet.
        target: as :func:`fullgrad.engine.targets.select` takes it.

    Returns:
        The path of a module, and which of its calls.

    Raises:
        MethodError: no module returns positions, or it is not known whether one does.
    """
    noted: list[Activation] = []
    for path, module in recording.model.named_modules():
        if path:
            module.register_forward_hook(recording.noted(noted, path))  # the lender removes it
    output = recording.run(target)
    found = _outermost(noted)
    cuts = single_cuts(output.grad_fn, found, recording.recorder.roots)
    whole = [a for a, cut in zip(found, cuts, strict=True) if cut]
    chosen = _last(recording, output, whole)
    if chosen is None:
        chosen = _last(recording, output, found)
        if chosen is not None and not _as_convolved(recording, chosen):
            raise MethodError(
                f"{recording.method} found no layer by itself: the network runs through no single "
                f"one with positions, and the last that has some, {chosen.path}, is not laid out "
                "as a convolution's: give layer="
            )
    if chosen is not None:
        return chosen.path, chosen.call
    raise MethodError(
        f"{recording.method} found no module whose output has channels and positions of the "
        "input's grid: give layer="
    )


def _outermost(noted: Sequence[Activation]) -> list[Activation]:
    """The last of the activations that are one tensor; what ends later stays behind."""
    last = {(a.edge.node, a.edge.output_nr): i for i, a in enumerate(noted)}
    return [a for i, a in enumerate(noted) if last[a.edge.node, a.edge.output_nr] == i]


def _last(recording: Recording, output: Tensor, found: Sequence[Activation]) -> Activation | None:
    """The last activation whose positions have a gradient; where none have, the last one."""
    last: Activation | None = None
    for a, g in reversed(list(zip(found, gradients(output, found), strict=True))):
        if g is None:
            continue
        placement = recording.place(a) if bool(g.any()) or a.axes is not None else None
        if not recording.is_grid(a, placement):
            continue
        last = last or a
        if _has_gradient(g, placement):
            return a
    return last


def _as_convolved(recording: Recording, a: Activation) -> bool:
    """Whether the axes are samples, channels, and one for each axis of the input's grid."""
    axes = recording.known(a.axes)
    if axes is None or len(axes.groups) != len(recording.grid.sizes) + 2:
        return False
    return all(map(axes.depends, axes.groups[2:])) and not any(map(axes.depends, axes.groups[:2]))


def _has_gradient(gradient: Tensor, placement: Placement | None) -> bool:
    return placement is not None and bool(arranged(gradient, placement)[0].any())


def single_cuts(node: Any, found: Sequence[Activation], roots: frozenset[Any]) -> list[bool]:
    """Whether every path from the inputs to the output runs through an activation.

    Paths are counted, in whole numbers: those to the output times those from the inputs.

    Args:
        node: the output's node.
        found: activations of the graph.
        roots: the nodes of the inputs.
    """
    order = _from_inputs(node, roots)
    below: dict[Any, int] = {}
    for n in order:  # paths from the inputs to a node
        below[n] = 1 if n in roots else sum(below.get(m, 0) for m, _ in n.next_functions if m)
    above: dict[Any, int] = {node: 1}  # from a node to the output
    through: dict[tuple[Any, int], int] = {(node, 0): 1}
    for n in reversed(order):
        if n in roots:
            continue
        for m, number in n.next_functions:
            if m is not None:
                above[m] = above.get(m, 0) + above.get(n, 0)
                through[m, number] = through.get((m, number), 0) + above.get(n, 0)
    edges = [(a.edge.node, a.edge.output_nr) for a in found]
    return [through.get(e, 0) * below.get(e[0], 0) == below[node] for e in edges]


def _from_inputs(node: Any, roots: frozenset[Any]) -> list[Any]:
    """The nodes that lead to the output, each behind those that it reads."""
    order: list[Any] = []
    seen = {node}
    stack = [(node, iter(() if node in roots else node.next_functions))]
    while stack:
        n, rest = stack[-1]
        for m, _ in rest:
            if m is not None and m not in seen:
                seen.add(m)
                stack.append((m, iter(() if m in roots else m.next_functions)))
                break
        else:
            order.append(n)
            stack.pop()
    return order

"""What a traced graph may not hold, and what it need not hold."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fullgrad._compat import (
    OpOverload,
    aliases_of,
    asks_for_shapes,
    names_of_arguments,
    returns_tensors,
)
from fullgrad.errors import GraphError

_ALIASES = (torch.ops.aten.alias.default, torch.ops.aten.detach.default)


def _operations(graph: fx.Graph) -> list[fx.Node]:
    return [n for n in graph.nodes if isinstance(n.target, OpOverload)]


def refuse_unholdable(module: fx.GraphModule, names: Sequence[str]) -> None:
    """Refuse graphs that do not repeat what the call did.

    Args:
        module: the graph.
        names: of its inputs.

    Raises:
        GraphError: an operation draws random numbers, writes into an input, has an output whose
            shape depends on numbers, or returns numbers.
    """
    inputs = [n for n in module.graph.nodes if n.op == "placeholder"]
    named = dict(zip(inputs, names, strict=True))
    for node in _operations(module.graph):
        operation: Any = node.target
        name = operation.name().removeprefix("aten::").split(".")[0]
        if torch.Tag.nondeterministic_seeded in operation.tags and _draws(node):
            raise GraphError(f"{name} draws random numbers, others in a graph than eagerly.")
        by_mask = operation is torch.ops.aten.index.Tensor and _by_mask(node)
        dynamic = torch.Tag.dynamic_output_shape in operation.tags
        if by_mask or (dynamic and operation is not torch.ops.aten.index.Tensor):
            raise GraphError(f"the shape of what {name} returns depends on numbers.")
        if not returns_tensors(operation) and not asks_for_shapes(operation):
            raise GraphError(
                f"{name} reads numbers of a tensor into Python, and what the model makes of them "
                "would stay the same in every call of the graph."
            )
        for root in _written(node):
            if root in named:
                raise GraphError(f"the model writes into {named[root]} while it runs.")


def _draws(node: fx.Node) -> bool:
    """Whether an operation that can draw random numbers does; not attention without dropout."""
    operation: Any = node.target
    for place, (name, default) in enumerate(names_of_arguments(operation)):
        if name == "dropout_p":
            given = node.kwargs.get("dropout_p", default)
            return bool(node.args[place] if place < len(node.args) else given)
    return True


def _by_mask(node: fx.Node) -> bool:
    listed: Any = node.args[1]
    return any(i is not None and i.meta["val"].dtype in (torch.bool, torch.uint8) for i in listed)


def _written(node: fx.Node) -> list[fx.Node]:
    """The roots of what an operation writes into."""
    given = [_given(node, place) for place in aliases_of(node.target)[0]]
    tensors = [t for each in given for t in (each if isinstance(each, Sequence) else [each])]
    return [_root(t) for t in tensors if isinstance(t, fx.Node)]


def _given(node: fx.Node, place: int) -> Any:
    """An operation's argument, by position or by keyword (``out=``)."""
    name, _ = names_of_arguments(node.target)[place]
    return node.args[place] if place < len(node.args) else node.kwargs.get(name)


def _root(node: fx.Node) -> fx.Node:
    """The node whose memory a node's output is a view of: itself if it is no view."""
    while True:
        made = node.args[0] if node.target is operator.getitem else node
        if not isinstance(made, fx.Node) or not isinstance(made.target, OpOverload):
            return node
        written, is_view = aliases_of(made.target)
        source = _given(made, written[0] if written else 0) if is_view else None
        if not isinstance(source, fx.Node):
            return node
        node = source


def simplified(module: fx.GraphModule) -> fx.GraphModule:
    """The same graph without aliases and unused operations, constants computed.

    Views become reshapes, but of what is written into: a compiler may expect a result in another
    memory layout than it has, in which no view is possible (PyTorch does so for the gradient of a
    layer norm that is given a permuted one).

    Args:
        module: is changed.
    """
    graph = module.graph
    for node in _operations(graph):
        if node.target in _ALIASES:
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
            graph.erase_node(node)
    written = {root for node in _operations(graph) for root in _written(node)}
    for node in _operations(graph):
        if node.target is torch.ops.aten.view.default and _root(node) not in written:
            node.target = torch.ops.aten.reshape.default
    fold(module)
    graph.eliminate_dead_code()
    module.recompile()
    for name in _unused(module):
        delattr(module, name)
    return module


def fold(module: fx.GraphModule, most: int = 0) -> None:
    """Compute what is made of constants alone, unless it is written into.

    Args:
        module: is changed.
        most: what is made of nothing (``arange``, ``full``) counts as a constant up to so many
            numbers.
    """
    written = {root for node in _operations(module.graph) for root in _written(node)}
    constants = {n: getattr(module, n.target) for n in module.graph.nodes if n.op == "get_attr"}
    for node in _operations(module.graph):
        needed = node.all_input_nodes
        if not (needed or _made_small(node, most)) or _root(node) in written:
            continue
        if not all(n in constants for n in needed):
            continue
        known: dict[Any, Any] = constants
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
        value = node.target(*args, **kwargs)  # type: ignore[operator]
        if not isinstance(value, Tensor):
            continue
        name = f"_folded_{node.name}"
        module.register_buffer(name, value.detach(), persistent=False)
        with module.graph.inserting_before(node):
            constant = module.graph.get_attr(name)
        constant.meta.update(node.meta)
        node.replace_all_uses_with(constant)
        constants[constant] = value
        module.graph.erase_node(node)


def _made_small(node: fx.Node, most: int) -> bool:
    """Whether a node makes at most so many known numbers of nothing."""
    value = node.meta.get("val")
    known = "empty" not in str(node.target)  # whose numbers are arbitrary
    return known and isinstance(value, Tensor) and value.numel() <= most


def _unused(module: fx.GraphModule) -> list[str]:
    used = {n.target for n in module.graph.nodes if n.op == "get_attr"}
    return [
        n
        for n in [*module._buffers, *module.__dict__]
        if n.startswith(("_folded_", "_tensor_constant")) and n not in used
    ]

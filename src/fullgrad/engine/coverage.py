"""The proof that the recording missed nothing between the inputs and the output."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

from torch import Tensor

from fullgrad._compat import is_python_function, passes_hooks
from fullgrad.engine.recorder import Recorder
from fullgrad.engine.tape import Tape
from fullgrad.errors import BlockedGradientError, ModelError, UnsupportedOperationError
from fullgrad.operations.registry import registered


def refuse_blocked(recorder: Recorder, output: Any, allow_detached: bool) -> None:
    """Raise if a value that depends on the input reaches the output outside the graph.

    Raises:
        BlockedGradientError: naming the modules, and the way out.
    """
    blocked = dict(recorder.tape.blocked)
    where = recorder.detached.where(output)
    if where is not None and not recorder.depends(output):
        raise BlockedGradientError(
            f"values that depend on the input leave the autograd graph in {_name(where)}, and "
            "nothing of the output comes back to it: there is a no_grad (or inference_mode, "
            "detach, or an operation without a derivative) in that module or around it. Remove it; "
            "where forward is decorated with @torch.no_grad(), the decorator must go."
        )
    if where is not None and not allow_detached:
        blocked[where] = None
    refuse_used(blocked)


def refuse_used(blocked: Collection[str]) -> None:
    """Raise if there are modules in which values left the graph that are used again.

    Raises:
        BlockedGradientError: naming the modules, and the way out.
    """
    if blocked:
        names = ", ".join(map(_name, blocked))
        raise BlockedGradientError(
            f"values that depend on the input leave the autograd graph in {names} (no_grad, "
            "detach, or an operation without a derivative) and are used again. Remove that, or "
            "pass detached='constant' to count such values as biases."
        )


def _name(module: str) -> str:
    return repr(module) if module else "the model itself"


def unrecorded_nodes(tape: Tape, recorder: Recorder, output: Tensor) -> list[str]:
    """Autograd nodes between output and input that no recorded operation made, and where they are.

    Raises:
        UnsupportedOperationError: an operation between them has no derivative.
    """
    missing: dict[str, None] = {}
    seen: set[Any] = set()
    stack = [(output.grad_fn, "the output")]
    while stack:
        node, behind = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if not recorder.dependence.of_node(node):
            continue
        name = node.name()
        if "NotImplemented" in name:
            raise _without_derivative(tape, node)
        recorded = tape.nodes.get(node)
        if recorded is None and node not in recorder.roots and not _is_identity(node, name):
            missing[f"{name} between {_made_by(tape, recorder, node)} and {behind}"] = None
        behind = behind if recorded is None else _where(recorded)
        stack.extend((n, behind) for n, _ in node.next_functions)
    return list(missing)


def _made_by(tape: Tape, recorder: Recorder, node: Any) -> str:
    """The module that made what an autograd node takes."""
    while node not in tape.nodes:
        if node in recorder.roots:
            return "the input"
        given = [n for n, _ in node.next_functions if n is not None]
        node = next(n for n in given if recorder.dependence.of_node(n))
    return _where(tape.nodes[node])


def _where(module: str) -> str:
    return module or "the model itself"


def _without_derivative(tape: Tape, node: Any) -> UnsupportedOperationError:
    op = next((e.op for e in tape.entries if e.node is node), "an operation")
    return UnsupportedOperationError(
        f"{op} in {tape.nodes.get(node) or 'the model'} has no derivative, so nothing that the "
        "input does before it can be explained. Use an operation that has one (for a quantized "
        "model: the model as it was before)."
    )


@functools.cache
def _view_nodes() -> frozenset[str]:
    """The names of the nodes of views: ``slice`` makes SliceBackward."""
    views = [e.label for e in registered().values() if e.view]
    return frozenset("".join(w.capitalize() for w in v.split("_")) + "Backward" for v in views)


def _is_identity(node: Any, name: str) -> bool:
    """Nodes that no operation made and that have no bias.

    Autograd makes a view's node again when its base has been modified; views are linear. A module's
    full backward hooks pass through a function of PyTorch's that changes nothing.
    """
    if is_python_function(node):
        return passes_hooks(node)
    return name.rstrip("0123456789") in _view_nodes()


def model_error_for(missing: list[str]) -> ModelError:
    """The error for operations that autograd ran but the recorder did not see."""
    return ModelError(
        f"custom autograd functions cannot be explained: {', '.join(missing)}. Their forward "
        "runs outside autograd, so their bias is unknown. Use the plain PyTorch operations "
        "instead (for activation checkpointing: use_reentrant=False; for scripted functions: "
        "the Python original), or make an operator with torch.library and give its bias with "
        "fullgrad.operations.register."
    )

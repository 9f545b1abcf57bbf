"""A graph that a GPU can record: no constants on the CPU, which would be copied in each run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from fullgrad._compat import OpOverload, aliases_of
from fullgrad.errors import GraphError
from fullgrad.interop.compiling._simplify import fold

# Makers whose numbers are computed once, if there are at most as many as this.
_MOST = 1 << 20


def settled_on(module: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """The graph with all constants on a device.

    A recording allows no copy between CPU and GPU. So what is made on the CPU (numbers that became
    tensors, tables of places) is computed once, and lies on the GPU from then on.

    Args:
        module: is changed.
        device: of the graph's inputs.

    Raises:
        GraphError: an operation on numbers of the call runs on another device.
    """
    fold(module, most=_MOST)
    for name in {n.target for n in module.graph.nodes if n.op == "get_attr"}:
        constant: Tensor = getattr(module, name)
        if constant.device != device:
            setattr(module, name, constant.to(device))
    for node in module.graph.nodes:
        if not isinstance(node.target, OpOverload):
            continue
        made = _place(node)
        if made is not None and made != device:
            if node.all_input_nodes:
                name = node.target.name().removeprefix("aten::").split(".")[0]
                raise GraphError(
                    f"{name} runs on {made} within a model on {device}, so the GPU cannot record "
                    "the graph. Run it without: mode='graph'"
                )
            node.kwargs = {**node.kwargs, "device": device}
    module.recompile()
    return module


def _place(node: fx.Node) -> torch.device | None:
    """The device of what a node returns; None for several tensors, or one written into."""
    value: Any = node.meta.get("val")
    if not isinstance(value, Tensor) or aliases_of(node.target)[0]:
        return None
    given = node.kwargs.get("device")
    return value.device if given is None else torch.device(given)  # type: ignore[arg-type]

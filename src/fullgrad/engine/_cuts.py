"""Layers that the whole sum passes through: where it can be stopped, and is the output again.

The gradient at a layer's output times that output, and the bias terms behind it, sum to the
explained output wherever nothing goes around the layer. Outputs of modules are noted in the
forward pass; which of them are such layers is proved by the sum in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from fullgrad.axes.algebra import Axes


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """What a module returned.

    Args:
        module: its path.
        axes: what the axes of its output hold; None if that is not known.
        edge: where the gradient arrives.
        value: the numbers, outside the graph.
        version: of the memory, which changes when it is overwritten.
        reference: what the module returned on the baseline; None without one.
    """

    module: str
    axes: Axes | None
    edge: GradientEdge
    value: Tensor
    version: int
    reference: Tensor | None = None

    @property
    def overwritten(self) -> bool:
        """Whether the numbers are no longer those that the module returned."""
        return self.value._version != self.version


@contextmanager
def noted(
    model: nn.Module, depends: Callable[[Any], bool], axes_of: Callable[[Tensor], Axes | None]
) -> Iterator[list[Cut]]:
    """Note what each module returns while the model runs, the same tensor once.

    Args:
        model: gets forward hooks for that time.
        depends: whether a value depends on the input.
        axes_of: what the axes of such a value hold.

    Yields:
        The list, which fills.
    """
    found: dict[tuple[Any, int], Cut] = {}
    kept: list[Cut] = []

    def hook_for(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not isinstance(output, Tensor) or output.grad_fn is None:
                return
            if not output.is_floating_point() or not depends(output):
                return
            edge = get_gradient_edge(output)
            key = (edge.node, edge.output_nr)
            if key not in found:
                value = output.detach()
                cut = Cut(path, axes_of(output), edge, value, value._version)
                found[key] = cut
                kept.append(cut)

        return hook

    handles = [m.register_forward_hook(hook_for(path)) for path, m in model.named_modules() if path]
    try:
        with torch.inference_mode(False):
            yield kept
    finally:
        for handle in handles:
            handle.remove()

"""Activations of a recorded forward, what their axes hold, and their maps on the input's grid.

Methods that read a layer need to know which axes of its output are positions and which channels.
That is followed from operation to operation (:mod:`fullgrad.axes`), not guessed from shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from fullgrad.axes.algebra import Axes
from fullgrad.axes.broadcasting import resolved
from fullgrad.axes.layouts import (
    ActivationLayouts,
    Grid,
    InputLayout,
    StatedLayouts,
    example_layout,
    input_layouts,
)
from fullgrad.axes.placement import Placement, arranged, placement_of
from fullgrad.engine.inputs import failures_named, prepare
from fullgrad.engine.model_state import plain_recurrence
from fullgrad.engine.module_path import ModulePath
from fullgrad.engine.recorder import Recorder, recording
from fullgrad.engine.targets import select
from fullgrad.engine.wrappers import recurrent
from fullgrad.errors import MethodError
from fullgrad.maps.aggregation import upsample

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True, slots=True, eq=False)
class Activation:
    """One tensor that a module was given or returned.

    Args:
        path: of the module.
        shape: of the tensor.
        axes: what they hold, None if that is not known.
        edge: where its gradient arrives, also after the tensor was overwritten.
        value: the numbers, outside the graph; None where they were not asked for.
        call: how many calls of the module went before.
    """

    path: str
    shape: torch.Size
    axes: Axes | None
    edge: GradientEdge
    value: Tensor | None = None
    call: int = 0


class Recording:
    """One forward pass of a lent model, with the axes of every activation.

    Args:
        method: that needs it, for messages.
        model: the user's model, lent.
        inputs: one tensor, which becomes a leaf.
        extra: additional arguments of the model.
        layout: of the inputs.
        activation_layouts: of activations that cannot be followed.

    Raises:
        LayoutError: a layout that does not fit.
    """

    def __init__(
        self,
        method: str,
        model: nn.Module,
        inputs: Tensor,
        extra: Any,
        layout: InputLayout,
        activation_layouts: ActivationLayouts | None,
    ) -> None:
        self.method, self.model = method, model
        self._prepared = prepare(inputs, extra)
        self.leaf = self._prepared.leaves[0]
        shapes = [x.shape for x in self._prepared.leaves]
        self._layouts = input_layouts(shapes, self._prepared.names, layout)
        self._stated = StatedLayouts(activation_layouts or {}, self._layouts)
        self.recorder = Recorder(
            self._prepared.roots,
            ModulePath(model),
            _let_it,  # whoever lends the model watches what is overwritten
            allow_detached=True,
            layouts=self._layouts,
            stated=self._stated,
        )
        self.batch = len(inputs)

    @property
    def grid(self) -> Grid:
        """The input's grid."""
        return self._layouts.grids[0]

    def run(self, target: Any, beside: AbstractContextManager[Any] | None = None) -> Tensor:
        """Run the model.

        Args:
            target: as :func:`fullgrad.engine.targets.select` takes it.
            beside: entered while the model runs.

        Returns:
            The explained scalars, shape (B,), inside the graph.

        Raises:
            MethodError: they do not depend on the input.
        """
        with (
            plain_recurrence.held(recurrent(self.model)),
            recording(self.recorder),
            beside or nullcontext(),
        ):
            with failures_named(self.leaf):
                result = self.model(*self._prepared.args)
            output = select(result, target, self._layouts.samples).output
        self._stated.check_used()
        if not self.recorder.depends(output):
            raise MethodError(
                f"{self.method} does not apply to the model: its output does not depend on the "
                "input through autograd"
            )
        return output

    def noted(
        self, found: list[Activation], path: str, *, values: bool = False, given: bool = False
    ) -> Callable[..., None]:
        """A forward hook that notes the tensor that a module returns.

        Args:
            found: where it is noted.
            path: of the module.
            values: also keep the numbers.
            given: note what the module is given instead.
        """
        calls = 0

        def note(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal calls
            call, calls = calls, calls + 1
            value = _first_tensor(args if given else output)
            if value is None or not self.recorder.depends(value):
                return
            axes = self.recorder.axes_of(value)
            if axes is None:
                axes = self._stated.axes_for(path, value.shape)
            kept = value.detach().clone() if values else None
            found.append(Activation(path, value.shape, axes, get_gradient_edge(value), kept, call))

        return note

    def known(self, axes: Axes | None) -> Axes | None:
        """Axes with what operations behind them told."""
        return None if axes is None else resolved(axes, self.recorder.tape.bindings)

    def place(self, activation: Activation) -> Placement | None:
        """Where an activation's numbers lie on the input's grid; None if they have no place.

        Raises:
            MethodError: that is not known.
        """
        return self.placed(activation.path, activation.shape, activation.axes)

    def placed(self, path: str, shape: Sequence[int], axes: Axes | None) -> Placement | None:
        """As :meth:`place`, of anything in a module that has a shape and axes."""
        axes = self.known(axes)
        if axes is None and len(shape) in (1, 2) and shape[0] == self.batch:
            return None  # a dense layer's
        try:
            if axes is not None:
                return placement_of(axes, self.batch)
        except ValueError:
            pass
        stated = self.example(path, shape)
        state = f"State it, as in {stated} (it covers the whole input), or use" if stated else "Use"
        raise MethodError(
            f"{self.method}: it is not known which axes of {path or 'the model'} (shape "
            f"{tuple(shape)}) are positions of the input. {state} a method that reads no layer, as "
            "method='input_gradient'"
        )

    def example(self, path: str, shape: Sequence[int]) -> str | None:
        """How a layout with positions may be stated, for messages; None if none fits."""
        fits = example_layout(shape, self.batch, [self.grid])
        if fits is None or not set(fits).intersection(self.grid.letters):
            return None
        return f"activation_layouts={{{path!r}: {fits!r}}}"

    def is_grid(self, activation: Activation, placement: Placement | None) -> bool:
        """Whether an activation has positions and channels, with nothing pooled or flattened."""
        axes = self.known(activation.axes)
        if placement is None or axes is None or len(axes.groups) < 3 or max(placement.extents) < 2:
            return False
        return all(c is not None and c.pooled != "mean" for c in axes.coordinates)


def _let_it(written: Tensor) -> None:
    pass


def _first_tensor(value: Any) -> Tensor | None:
    """A tensor, or the first one of a tuple, list or dict."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        return next((v for v in value if isinstance(v, Tensor) and v.is_floating_point()), None)
    return None


def gradients(output: Tensor, found: Sequence[Activation]) -> list[Tensor | None]:
    """The gradients of the explained scalars at activations; None where none arrives."""
    if not found:
        return []
    edges = [a.edge for a in found]
    return list(torch.autograd.grad(output.sum(), edges, retain_graph=True, allow_unused=True))


def stretched(maps: Tensor, placement: Placement, size: Sequence[int]) -> Tensor:
    """A layer's map at the input's size.

    Cells that cover the input evenly are stretched over it, as Grad-CAM's authors do (corners not
    aligned); others are drawn where they lie.

    Args:
        maps: shape (B, 1, *extents).
        placement: of the layer.
        size: of the input's grid.
    """
    if any(c.weights is not None for c in placement.cells):
        return upsample(maps, size, placement.cells)
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode=_MODES[len(size)], align_corners=False)


def channels_of(view: Tensor, positions: Sequence[int]) -> list[int]:
    """The axes of an arranged activation that are neither samples nor positions."""
    return [d for d in range(1, view.dim()) if d not in positions]


def mean_over_positions(value: Tensor, placement: Placement) -> Tensor:
    """The mean over those positions that have a place, as :func:`arranged` arranges them.

    Args:
        value: of an activation's shape.
        placement: of it.

    Returns:
        Shape (B, ...), positions kept as axes of size 1.
    """
    view, positions = arranged(value, placement)
    over = list(positions)
    if not placement.by_sample:
        return view.mean(over, keepdim=True)
    places = placement.places
    assert places is not None
    there = torch.from_numpy(places[:, (places >= 0).any(0)] >= 0).to(view.device)
    there = there.reshape(len(there), *[1] * (view.dim() - 2), -1)
    return (view * there).sum(over, keepdim=True) / there.sum(over, keepdim=True).clamp(min=1)

"""What one call asks for, and its recorded forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict

from torch import Tensor, nn

from fullgrad.axes.algebra import Axes
from fullgrad.axes.broadcasting import resolved
from fullgrad.axes.layouts import ActivationLayouts, InputLayout, Layouts
from fullgrad.engine._baseline import Way
from fullgrad.engine._cuts import Cut
from fullgrad.engine.inputs import Inputs, Prepared
from fullgrad.engine.recorder import Recorder
from fullgrad.engine.tape import Entry, Tape
from fullgrad.engine.targets import Selected, Several, Target, Top
from fullgrad.operations.linearization import Linearization, Named

# From the explained inputs and what their axes hold to the baseline's values, in their shapes.
Reference: TypeAlias = Callable[[Sequence[Tensor], Layouts], list[Tensor]]
Mode = Literal["eval", "as_is"]
Detached = Literal["error", "constant"]


class ModelOptions(TypedDict, total=False):
    """Options of every call that explains a model, as :func:`fullgrad.decompose` documents them."""

    forward_kwargs: Mapping[str, Any] | None
    mode: Mode
    per_sample: bool
    detached: Detached
    tolerance: float | None
    layout: InputLayout
    activation_layouts: ActivationLayouts | None
    linearization: Named | Linearization


@dataclass(frozen=True, slots=True)
class Request:
    """One call's arguments and options, as :func:`fullgrad.decompose` documents them.

    ``takes_per_sample`` says whether the user's call has the option ``per_sample``, so that
    messages recommend only what can be done; ``with_cuts`` whether modules' outputs are noted;
    ``reference`` makes the values of a baseline from the explained inputs and their layouts;
    ``way`` holds what the model computed there, where steps lead to the input.
    """

    model: nn.Module
    inputs: Inputs
    target: Target | Several | Top = None
    additional_forward_args: Any = None
    forward_kwargs: Mapping[str, Any] | None = None
    mode: Mode = "eval"
    per_sample: bool = True
    detached: Detached = "error"
    tolerance: float | None = None
    layout: InputLayout = None
    activation_layouts: ActivationLayouts | None = None
    linearization: Named | Linearization = "jacobian"
    takes_per_sample: bool = True
    with_cuts: bool = False
    reference: Reference | None = None
    way: Way | None = None


@dataclass(frozen=True, slots=True)
class Traced:
    """A recorded forward with its explained scalars."""

    prepared: Prepared
    layouts: Layouts
    selected: Selected
    recorder: Recorder
    general: tuple[tuple[str, str], ...]
    linearization: str
    cuts: tuple[Cut, ...] = ()
    result: Any = None  # what the model returned

    @property
    def tape(self) -> Tape:
        """What was recorded."""
        return self.recorder.tape

    @property
    def output(self) -> Tensor:
        """Explained scalars, shape (B,), inside the graph."""
        return self.selected.output

    def axes_of(self, entry: Entry) -> Axes | None:
        """What the axes of an entry's output hold; None if that is not known."""
        return None if entry.axes is None else resolved(entry.axes, self.tape.bindings)

"""The map of one method on one image, and those of several methods on several images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor

from fullgrad import methods
from fullgrad.decomposition import Decomposition
from fullgrad.engine.targets import Target
from fullgrad.errors import FullGradError, LayoutError, MethodError, ModelError
from fullgrad.maps.saliency import saliency_from_decomposition
from fullgrad.methods import Method
from fullgrad.methods.choice import MethodChoice
from fullgrad.methods.registry import resolved
from fullgrad.vision.areas import CELL, drawn_in_cells
from fullgrad.vision.classification import one_line
from fullgrad.vision.layers import Array
from fullgrad.vision.models import LoadedModel
from fullgrad.vision.provenance import _plain

Stage: TypeAlias = Literal["classes", "split", "map", "layers"]
Asked: TypeAlias = tuple[Method, Mapping[str, Any], str]


def has_sign(method: Method, options: Mapping[str, Any]) -> bool:
    """Whether a method's numbers have a sign with these options."""
    return method.complete or options.get("psi") == "signed"


@dataclass(frozen=True, slots=True, eq=False)
class MethodMap:
    """The map of one method on one image, or the reason why there is none.

    Args:
        label: the method with its options, for tables and figures.
        method: the method.
        options: those that were given.
        values: float32 of shape (height, width); None where there is no map.
        seconds: that the map took.
        reason: why there is no map.
        cell: pixels along the side of the cells in which a complete map is shown.
        applies: False where the method does not suit the model, True where it failed.
    """

    label: str
    method: Method
    options: Mapping[str, Any]
    values: Array | None
    seconds: float
    reason: str = ""
    applies: bool = True
    cell: int = CELL

    @property
    def shown(self) -> Array:
        """The numbers to be looked at: those of a complete map in cells.

        Raises:
            ValueError: there is no map.
        """
        if self.values is None:
            raise ValueError(f"{self.label} has no map: {self.reason}")
        complete = self.method.complete
        return drawn_in_cells(self.values, self.cell) if complete else self.values

    @property
    def signed(self) -> bool:
        """Whether the numbers have a sign."""
        return has_sign(self.method, self.options)

    @property
    def settings(self) -> dict[str, Any]:
        """All options, with their defaults, as JSON can hold them."""
        return {k: _plain(v) for k, v in asdict(self.method.settings(self.options)).items()}


def asked_methods(
    method: str | Method | Sequence[MethodChoice | str] | None, options: Mapping[str, Any] | None
) -> tuple[bool, list[Asked]]:
    """Whether it is one method, and the methods with their options and labels.

    Raises:
        ValueError: an unknown method or option, or options of several methods.
        TypeError: a method among several that is neither a choice nor its text.
    """
    if method is None or isinstance(method, (str, Method)):
        one = resolved(methods.RECOMMENDED if method is None else method)
        given = dict(options or {})
        one.settings(given)
        return True, [(one, given, one.name)]
    if options is not None:
        raise ValueError(
            "options belong to one method; of several, give each its own: "
            "MethodChoice(name, options)"
        )
    choices = [MethodChoice.parse(c) if isinstance(c, str) else c for c in method]
    for choice in choices:
        if not isinstance(choice, MethodChoice):
            raise TypeError(
                f"several methods are names or MethodChoice(name, options), not {choice!r:.60}"
            )
    return False, [(methods.get(c.name), c.options, c.label) for c in choices]


def maps_by(
    model: LoadedModel,
    inputs: Tensor,
    targets: Target,
    asked: Asked,
    decomposition: Decomposition | None,
    on_stage: Callable[[Stage, str], None],
    single: bool,
) -> list[MethodMap]:
    """The maps of one method for all images; of several methods an error becomes its reason.

    Args:
        model: the model.
        inputs: of the images.
        targets: what is explained.
        asked: the method, its options and its label.
        decomposition: of the inputs, if there is one.
        on_stage: called with the stage and a text before it begins.
        single: whether an error of the only method is raised.
    """
    method, options, label = asked
    ready = method.name == "fullgrad" and decomposition is not None  # its terms are here already
    on_stage("map", "summing the terms to a map" if ready else f"computing the {label} map")
    began = time.perf_counter()
    try:
        if ready:
            assert decomposition is not None
            found = saliency_from_decomposition(decomposition, **options)
        else:
            found = methods.attribute(
                method, model.module, inputs, targets, batch_size=len(inputs), **options
            )
    except (FullGradError, RuntimeError, MemoryError, ValueError) as error:
        if single:
            raise
        applies = not isinstance(error, (MethodError, LayoutError, ModelError))
        reason = one_line(error).removeprefix(f"{method.name} does not apply to the model: ")
        return [MethodMap(label, method, options, None, 0.0, reason, applies)] * len(inputs)
    seconds = (time.perf_counter() - began) / len(inputs)
    values = found[:, 0].detach().float().cpu().numpy()
    return [MethodMap(label, method, options, v, seconds) for v in values]

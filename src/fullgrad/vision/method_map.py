"""The map of one method on one image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fullgrad.methods import Method
from fullgrad.vision.areas import CELL, drawn_in_cells
from fullgrad.vision.layers import Array
from fullgrad.vision.provenance import _plain


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

"""What the axes of activations hold, and where their numbers lie in the input."""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules
from fullgrad.axes.algebra import Axes
from fullgrad.axes.coordinates import NOWHERE, Atom, Coordinate

__all__ = ["NOWHERE", "Atom", "Axes", "Coordinate"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

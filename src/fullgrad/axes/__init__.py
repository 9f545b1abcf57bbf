"""What the axes of activations hold, and where their numbers lie in the input."""

from fullgrad.axes.algebra import Axes
from fullgrad.axes.coordinates import NOWHERE, Atom, Coordinate

__all__ = ["NOWHERE", "Atom", "Axes", "Coordinate"]

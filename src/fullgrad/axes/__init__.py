"""What the axes of activations hold, and where their numbers lie in the input."""

from fullgrad.axes.algebra import NOWHERE, Atom, Axes, Coordinate

__all__ = ["NOWHERE", "Atom", "Axes", "Coordinate"]

"""A network's output as an exact sum."""

from fullgrad.decomposition._decompose import decompose
from fullgrad.decomposition.result import BiasTerm, Decomposition

__all__ = ["BiasTerm", "Decomposition", "decompose"]

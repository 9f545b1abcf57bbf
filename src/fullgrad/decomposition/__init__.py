"""A network's output as an exact sum."""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules
from fullgrad.decomposition._decompose import decompose
from fullgrad.decomposition.result import BiasTerm, Decomposition

__all__ = ["BiasTerm", "Decomposition", "decompose"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

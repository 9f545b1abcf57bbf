"""Pictures of saliency maps."""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules
from fullgrad.viz.overlay import blend, colours, normalise, picture, png
from fullgrad.viz.sheet import Row, sheet

__all__ = ["Row", "blend", "colours", "normalise", "picture", "png", "sheet"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

"""Pictures of saliency maps."""

from fullgrad.render.overlay import blend, colours, normalise, picture, png
from fullgrad.render.sheet import Row, sheet

__all__ = ["Row", "blend", "colours", "normalise", "picture", "png", "sheet"]

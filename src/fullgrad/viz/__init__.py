"""Pictures of saliency maps."""

from fullgrad.viz.overlay import blend, colours, normalise, picture, png
from fullgrad.viz.sheet import Row, sheet

__all__ = ["Row", "blend", "colours", "normalise", "picture", "png", "sheet"]

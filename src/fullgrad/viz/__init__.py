"""Pictures of saliency maps."""

from fullgrad._deprecated import renamed
from fullgrad.viz.overlay import blend, colors, normalize, picture, png
from fullgrad.viz.sheet import Row, sheet

__all__ = ["Row", "blend", "colors", "normalize", "picture", "png", "sheet"]
__getattr__ = renamed(__name__, {"colours": "colors", "normalise": "normalize"})

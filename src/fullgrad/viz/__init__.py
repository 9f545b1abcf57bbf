"""Pictures of saliency maps."""

from typing import TYPE_CHECKING

from fullgrad._deprecated import renamed
from fullgrad._lazy import submodules
from fullgrad.viz.overlay import blend, colors, normalize, picture, png
from fullgrad.viz.sheet import Row, sheet

__all__ = ["Row", "blend", "colors", "normalize", "picture", "png", "sheet"]

if not TYPE_CHECKING:
    __getattr__ = renamed(
        __name__, {"colours": "colors", "normalise": "normalize"}, otherwise=submodules(__name__)
    )

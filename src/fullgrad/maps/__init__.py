"""From terms to saliency maps."""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules

if TYPE_CHECKING:
    from fullgrad.maps import tokens as tokens
else:
    __getattr__ = submodules(__name__)

"""From terms to saliency maps."""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

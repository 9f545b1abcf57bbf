"""Images, classifiers and their weights; one image explained."""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

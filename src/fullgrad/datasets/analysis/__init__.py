"""What the maps of a store have in common: rows by conditions, mean maps, clusters."""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules

if TYPE_CHECKING:
    from fullgrad.datasets.analysis import choice, clusters, means, pictures, texts

__all__ = ["choice", "clusters", "means", "pictures", "texts"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

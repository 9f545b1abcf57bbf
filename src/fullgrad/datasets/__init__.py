"""Maps of whole data sets: computed, stored, resumed, spread over processes and machines.

:func:`map` computes and stores the maps of a data set; :func:`open` reads a store.
"""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules
from fullgrad.datasets.export import to_huggingface
from fullgrad.datasets.opened import Opened, open
from fullgrad.datasets.plan import Plan
from fullgrad.datasets.progress import Progress, Summary
from fullgrad.datasets.running import map

__all__ = ["Opened", "Plan", "Progress", "Summary", "map", "open", "to_huggingface"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

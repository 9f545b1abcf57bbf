"""Explanations as graphs: traced once, then run without fullgrad's Python around each operation.

``trace`` makes the graph; ``compiled`` keeps it, or makes another where needed; ``backends``
runs it. :func:`fullgrad.compile` is the way in.
"""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules

if TYPE_CHECKING:
    from fullgrad.interop.compiling import backends as backends
    from fullgrad.interop.compiling import call as call
    from fullgrad.interop.compiling import comparing as comparing
    from fullgrad.interop.compiling import compiled as compiled
    from fullgrad.interop.compiling import trace as trace

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

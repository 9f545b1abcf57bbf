"""Explanations as graphs: traced once, then run without fullgrad's Python around each operation.

``trace`` makes the graph, which :func:`fullgrad.compile` compiles.
"""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules

if TYPE_CHECKING:
    from fullgrad.interop.compiling import trace as trace

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

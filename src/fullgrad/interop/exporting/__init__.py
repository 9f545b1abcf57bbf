"""Explanations as files that run without fullgrad: torch.export programs, AOTInductor, ONNX.

``export`` writes one; :func:`fullgrad.export` is the same function. ``backward`` holds backward
operators in forward ones, for ONNX.
"""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules

if TYPE_CHECKING:
    from fullgrad.interop.exporting import artifact as artifact
    from fullgrad.interop.exporting import backward as backward

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

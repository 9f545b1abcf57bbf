"""One recorded forward pass and one backward pass: every term of a model's output."""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules
from fullgrad.engine._listening import Heard, listening

__all__ = ["Heard", "listening"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

"""Where a term's numbers lie in the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

Layout: TypeAlias = Literal["channels_first", "channels_last", "none"]


def layout_of(
    shape: Sequence[int], channel_axis: int | None, batch: int, rank: int
) -> Layout | None:
    """How a term's axes are to be read.

    Args:
        shape: of the term.
        channel_axis: where its channels lie, if that is known.
        batch: number of samples.
        rank: number of spatial axes of the input (2 for images).

    Returns:
        ``channels_first`` or ``channels_last``; ``none`` for a term without positions (a dense
        layer's); None where it is not known.
    """
    if shape and shape[0] == batch and len(shape) <= 2:
        return "none"
    if len(shape) != rank + 2 or shape[0] != batch:
        return None
    if channel_axis == 1:
        return "channels_first"
    return "channels_last" if channel_axis == rank + 1 else None

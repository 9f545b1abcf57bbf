"""Several targets for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fullgrad.errors import TargetError


@dataclass(frozen=True, slots=True, eq=False)
class Several:
    """Some targets for each sample, each explained by itself.

    Args:
        rows: one for each sample, or a single one for all; each a list of as many targets.
        each_sample: whether there is a row for each sample, whose targets are that sample's alone.
            Those of the single row are targets of the whole batch, as a call with one takes them.
    """

    rows: Sequence[Sequence[Any]]
    each_sample: bool = False

    def rows_of(self, batch: int) -> list[Sequence[Any]]:
        """The rows, one for each sample.

        Raises:
            TargetError: rows for another number of samples.
        """
        if len(self.rows) != batch:
            raise TargetError(f"{len(self.rows)} lists of targets for a batch of {batch} samples")
        return list(self.rows)


@dataclass(frozen=True, slots=True)
class Top:
    """The classes with the highest outputs, each explained by itself."""

    count: int


def several(target: Any) -> Any:
    """A target that holds a list of targets for each sample as such; any other as it is.

    Lists in a list, and integer tensors or arrays of shape (B, k), are lists of targets.

    Raises:
        TargetError: lists of unequal length, or empty ones.
    """
    rows = target
    if hasattr(target, "tolist"):
        if getattr(target, "ndim", 0) != 2 or not holds_integers(target):
            return target
        rows = target.tolist()
    if not isinstance(rows, list) or not rows or not all(isinstance(r, list) for r in rows):
        return target
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1 or lengths[0] == 0:
        raise TargetError(
            "each sample needs as many targets as the others, and at least one, not "
            + " or ".join(map(str, lengths))
        )
    return Several(rows, len(rows) > 1)


def holds_integers(array: Any) -> bool:
    """Whether a tensor or array holds integers; booleans do not count."""
    if isinstance(array, Tensor):
        return not (array.is_floating_point() or array.is_complex() or array.dtype == torch.bool)
    return getattr(array.dtype, "kind", "") in "iu"

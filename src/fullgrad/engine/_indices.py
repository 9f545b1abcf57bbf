"""Targets that are indices into a model's output: as one tuple for each sample, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fullgrad.errors import TargetError

_SEVERAL = (
    ". Of several, explain one in each call, or draw all their maps with fullgrad.saliency(model, "
    "inputs, target=[{}]), or with fullgrad.complete_map"
)


def per_sample(target: Any, batch: int) -> list[Any]:
    values = target.tolist() if hasattr(target, "tolist") else list(target)
    if len(values) != batch:
        listed = len(values) == 1 and isinstance(values[0], (list, tuple))
        hint = _SEVERAL.format(values[0]) if listed else ""
        raise TargetError(f"{len(values)} targets for a batch of {batch} samples{hint}")
    return values


def index_rows(target: Any, batch: int) -> list[tuple[int, ...]]:
    """The target as one tuple of indices per sample."""
    if hasattr(target, "tolist") and getattr(target, "ndim", None) == 0:
        target = target.item()
    if isinstance(target, bool) or isinstance(target, float):
        raise TargetError(f"a target index must be an integer, not {target!r}")
    if isinstance(target, int):
        return [(target,)] * batch
    if isinstance(target, tuple) and all(is_index(t) for t in target):
        return [tuple(int(t) for t in target)] * batch
    if isinstance(target, Tensor) and (target.is_floating_point() or target.dim() > 2):
        raise TargetError(f"a target tensor must hold integers of shape (batch,): {target.dtype}")
    if (isinstance(target, Sequence) or hasattr(target, "tolist")) and not isinstance(target, str):
        rows = per_sample(target, batch)
        return [
            tuple(as_index(v) for v in (r if isinstance(r, (tuple, list)) else (r,))) for r in rows
        ]
    raise TargetError(
        f"a target is an index, one index per sample, a tuple of indices, a callable or None, "
        f"not {type(target).__name__}"
    )


def is_index(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, (bool, Tensor))


def as_index(value: Any) -> int:
    if isinstance(value, Tensor) and value.dim() == 0:
        value = value.item()
    if not is_index(value):
        raise TargetError(f"a target index must be an integer, not {value!r}")
    return int(value)


def check_rows(rows: Sequence[tuple[int, ...]], shape: Sequence[int]) -> None:
    for row in rows:
        if len(row) != len(shape):
            need = "an index" if len(shape) == 1 else f"a tuple of {len(shape)} indices"
            raise TargetError(
                f"an output of shape (batch, {', '.join(map(str, shape))}) needs {need} per "
                f"sample, not {row if len(row) != 1 else row[0]!r}; or a callable target"
                + (_SEVERAL.format(list(row)) if len(shape) == 1 < len(row) else "")
            )
        for i, size in zip(row, shape, strict=True):
            if not 0 <= i < size:
                raise TargetError(f"target {i} is out of range for an output of size {size}")

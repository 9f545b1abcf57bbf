"""What tells data in memory apart: digests of the numbers of tensors, arrays and lists of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset


def facts_of(data: Any) -> list[str]:
    """Return a digest of what a data set in memory holds; empty for data sets of other kinds.

    Args:
        data: a tensor, an array, a ``TensorDataset``, a list or tuple of tensors, texts, images of
            Pillow's, or tuples and dicts of these; or a ``Subset`` or ``ConcatDataset`` of one.
            Arrays that NumPy maps from files are not read.
    """
    found = hashlib.sha256()
    return [found.hexdigest()[:16]] if _added(data, found) else []


def _added(value: Any, found: Any) -> bool:
    """Add a value to a digest; whether it could be."""
    kind = type(value)
    if isinstance(value, Tensor):
        return _tensor(value, found)
    if isinstance(value, (np.ndarray, np.generic)):
        return _array(value, found)
    if kind is TensorDataset:
        return _all(value.tensors, found)
    if kind is Subset:
        return _all([value.dataset, list(value.indices)], found)
    if kind is ConcatDataset:
        return _all(value.datasets, found)
    if kind in {list, tuple}:
        return _all(value, found)
    if isinstance(value, Mapping):
        return _all([part for item in value.items() for part in item], found)
    if value is None or isinstance(value, (str, bytes, int, float)):
        found.update(f"{kind.__name__} {value!r}\n".encode("utf-8", "replace"))
        return True
    if hasattr(value, "tobytes") and hasattr(value, "mode") and not hasattr(value, "filename"):
        found.update(f"image {value.mode} {value.size}\n".encode())  # made, not opened from a file
        found.update(value.tobytes())
        return True
    return False


def _all(values: Sequence[Any], found: Any) -> bool:
    found.update(f"{len(values)} of these\n".encode())
    return all(_added(value, found) for value in values)


def _tensor(value: Tensor, found: Any) -> bool:
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        return False
    found.update(f"tensor {tuple(value.shape)} {value.dtype}\n".encode())
    numbers = value.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    found.update(numbers.view(torch.uint8).numpy())
    return True


def _array(value: Any, found: Any) -> bool:
    whole: Any = value
    while whole is not None:
        if isinstance(whole, np.memmap):
            return False
        whole = getattr(whole, "base", None)
    if value.dtype.hasobject:
        return False
    found.update(f"array {value.shape} {value.dtype}\n".encode())
    found.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    return True

"""From maps to the bytes that are stored, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from fullgrad._optional import require
from fullgrad.datasets.files import EXTRA
from fullgrad.errors import InputError

Array: TypeAlias = np.ndarray[Any, Any]
Dtype: TypeAlias = Literal["float16", "uint8", "float32"]
Pooling: TypeAlias = Literal["sum", "mean"]

DTYPES: tuple[str, ...] = get_args(Dtype)
_MIDDLE, _LARGEST = 128, 127  # of uint8 with a sign
_LEVEL = 3  # of zstd


def pooled(values: Array, grid: Sequence[int], pooling: Pooling) -> Array:
    """Gather a map's numbers in a coarser grid.

    Each axis is divided into equal cells. A border between cells may run through a number, which is
    then divided in proportion, so ``sum`` keeps the map's sum.

    Args:
        values: one map.
        grid: cells along each axis.
        pooling: ``sum`` of what lies in a cell, or its ``mean``.

    Returns:
        float64 of the grid's shape.

    Raises:
        InputError: another number of axes, or more cells than numbers.

    Example:
        >>> pooled(np.array([1.0, 2.0, 3.0]), (2,), "sum").tolist()
        [2.0, 4.0]
        >>> pooled(np.array([1.0, 2.0, 3.0]), (2,), "mean").round(3).tolist()
        [1.333, 2.667]
    """
    if len(grid) != values.ndim or any(g > n for g, n in zip(grid, values.shape, strict=False)):
        shape = " x ".join(map(str, values.shape))
        raise InputError(
            f"a map of {shape} cannot be pooled to a grid of {' x '.join(map(str, grid))}"
        )
    found = values.astype(np.float64)
    for axis, cells in enumerate(grid):
        found = np.moveaxis(
            np.tensordot(_overlaps(cells, found.shape[axis]), found, (1, axis)), 0, axis
        )
    return found if pooling == "sum" else found * (math.prod(grid) / values.size)


def _overlaps(cells: int, length: int) -> Array:
    """The part of each number that lies in each cell, shape (cells, length); columns sum to 1."""
    borders = np.arange(cells + 1) * (length / cells)
    starts = np.arange(length)
    low = np.maximum(borders[:-1, None], starts)
    high = np.minimum(borders[1:, None], starts + 1)
    return np.asarray(np.clip(high - low, 0, None))


def quantized(values: Array, dtype: Dtype) -> tuple[Array, float, int]:
    """Make a map as small as it is stored.

    Args:
        values: one map, finite.
        dtype: ``float16``, ``uint8`` or ``float32``.

    Returns:
        The stored numbers, their scale, and which of them is zero: a number is
        ``(stored - zero) * scale``.

    Example:
        >>> quantized(np.array([0.0, 3.0]), "float16")
        (array([0.  , 0.75], dtype=float16), 4.0, 0)
        >>> quantized(np.array([-1.0, 0.5]), "uint8")[0].tolist()
        [1, 192]
    """
    peak = float(np.abs(values).max(initial=0.0))
    if dtype == "float32" or peak == 0:
        zero = np.zeros(values.shape, dtype)
        return (zero if peak == 0 else values.astype(dtype)), 1.0, 0
    if dtype == "float16":
        scale = math.ldexp(1.0, math.frexp(peak)[1])
        return (values / scale).astype(np.float16), scale, 0
    signed = bool((values < 0).any())
    top, zero_at = (_LARGEST, _MIDDLE) if signed else (255, 0)
    scale = peak / top
    return (np.rint(values / scale) + zero_at).astype(np.uint8), scale, zero_at


def restored(stored: Array, scale: Array, zero: Array) -> Array:
    """The numbers of stored maps, float32; scale and zero are one for each map, the first axis."""
    shape = (-1, *[1] * (stored.ndim - 1))
    values = stored.astype(np.float32) - zero.astype(np.float32).reshape(shape)
    return np.asarray(values * scale.astype(np.float32).reshape(shape))


def step(scale: float, dtype: Dtype) -> float:
    """How far apart neighboring stored numbers can be, at the most."""
    return scale * {"float16": 2.0**-11, "uint8": 1.0, "float32": 2.0**-24}[dtype]


def empty(positions: Sequence[int], dtype: Dtype) -> Array:
    """What a row without a map holds."""
    return np.full(tuple(positions), 0 if dtype == "uint8" else np.nan, dtype)


def _in_memory(shape: Sequence[int], rows: int, dtype: str, dims: Sequence[str]) -> Any:
    """A new array in memory, a chunk for each map and a shard for each unit, and its files."""
    zarr: Any = require("zarr", EXTRA)
    codecs: Any = require("zarr.codecs", EXTRA)
    files: dict[str, Any] = {}
    array = zarr.create_array(
        zarr.storage.MemoryStore(files),
        shape=tuple(shape),
        chunks=(1, *shape[1:]),
        shards=(rows, *shape[1:]),
        dtype=dtype,
        compressors=[codecs.ZstdCodec(level=_LEVEL), codecs.Crc32cCodec()],
        fill_value=0 if dtype == "uint8" else np.nan,
        dimension_names=["row", *dims],
        config={"write_empty_chunks": True},
    )
    return array, files


def array_header(shape: Sequence[int], rows: int, dtype: Dtype, dims: Sequence[str]) -> bytes:
    """The description of the whole array, ``zarr.json``.

    Args:
        shape: of the array, maps first.
        rows: maps in a shard.
        dtype: of the stored numbers.
        dims: names of the positions' axes.
    """
    _, files = _in_memory(shape, rows, dtype, dims)
    return bytes(files["zarr.json"].to_bytes())


def group_header() -> bytes:
    """The description of the group that holds the array."""
    zarr: Any = require("zarr", EXTRA)
    files: dict[str, Any] = {}
    zarr.create_group(zarr.storage.MemoryStore(files))
    return bytes(files["zarr.json"].to_bytes())


def shard(maps: Array, rows: int, dims: Sequence[str]) -> bytes:
    """One unit's maps as a shard.

    Args:
        maps: stored numbers, maps first; fewer than ``rows`` in the last unit.
        rows: maps in a shard.
        dims: names of the positions' axes.
    """
    array, files = _in_memory(maps.shape, rows, str(maps.dtype), dims)
    array[:] = maps
    (name,) = (n for n in files if n != "zarr.json")
    return bytes(files[name].to_bytes())

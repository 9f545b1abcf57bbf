"""An array that xarray reads when it is used, a few maps at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from xarray.backends.common import BackendArray
from xarray.core import indexing

from fullgrad.datasets.encoding import Array


class _Maps(BackendArray):
    """Reads the maps that an index asks for; positions are cut in memory."""

    def __init__(self, shape: tuple[int, ...], read: Callable[[Array], Array]) -> None:
        self.shape, self.dtype, self._read = shape, np.dtype(np.float32), read

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._get
        )

    def _get(self, key: tuple[Any, ...]) -> Array:
        first, *rest = key
        places = np.arange(self.shape[0])[first]
        found = self._read(np.atleast_1d(places))
        for axis in range(len(rest), 0, -1):  # from the last, so that axes that go keep the others
            found = found[(slice(None),) * axis + (rest[axis - 1],)]
        return found[0] if np.ndim(places) == 0 else found


def lazy(shape: tuple[int, ...], read: Callable[[Array], Array]) -> Any:
    """Return an array of this shape whose maps ``read`` gives for their numbers."""
    return indexing.LazilyIndexedArray(_Maps(shape, read))

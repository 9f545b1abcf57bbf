"""Linear interpolation from cells to the places of an input's axis."""

from __future__ import annotations

import numpy as np

from fullgrad.axes.coordinates import Table


def stretch(cells: int, size: int) -> Table:
    """Linear interpolation with aligned corners, shape (size, cells)."""
    return linear(np.linspace(0, size - 1, cells), size)


def linear(centers: Table, size: int) -> Table:
    """Linear interpolation between centers, shape (size, centers); flat beyond the outer ones."""
    places = np.arange(size, dtype=np.float64)
    right = np.clip(np.searchsorted(centers, places), 1, max(len(centers) - 1, 1))
    weights = np.zeros((size, len(centers)))
    if len(centers) == 1:
        weights[:, 0] = 1.0
    else:
        left = right - 1
        share = (places - centers[left]) / (centers[right] - centers[left])
        share = np.clip(share, 0.0, 1.0)
        rows = np.arange(size)
        weights[rows, left] = 1 - share
        weights[rows, right] += share
    return weights

"""Clusters of maps: what a model does in several ways within one class.

Spectral relevance analysis (Lapuschkin et al. 2019, "Unmasking Clever Hans predictors and assessing
what machines really learn", Nature Communications 10:1096): maps of a class are made small, joined
to a graph of neighbors, and clustered by the graph's spectrum. A class that is recognized in
several ways (by the object, and by a watermark) has a large gap between its smallest eigenvalues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from fullgrad._optional import require
from fullgrad.datasets.analysis.choice import CLASSES
from fullgrad.datasets.analysis.means import (
    blocks,
    check_positions,
    class_label,
    outcomes,
    unit_sum,
)
from fullgrad.datasets.encoding import Array
from fullgrad.datasets.files import EXTRA
from fullgrad.datasets.opened import Opened
from fullgrad.errors import UsageError
from fullgrad.maps.regions import pooled

if TYPE_CHECKING:
    import pandas

_FEWEST = 10  # maps of a class in which there is anything to find


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """Maps of one class that are alike.

    Args:
        rows: of the store, those nearest to the cluster's middle first.
        mean: of the maps, each divided by the sum of its sizes; native positions.
        right: the part of its samples whose class is predicted; None without true classes.
    """

    rows: tuple[int, ...]
    mean: Array
    right: float | None

    @property
    def count(self) -> int:
        """How many maps there are."""
        return len(self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class ClassClusters:
    """The clusters of one class.

    Args:
        target: the class; None for samples without one.
        name: of the class, for people.
        gap: the largest difference between successive eigenvalues: how distinct the clusters are.
        eigenvalues: the smallest ones of the graph's normalized Laplacian, from 0 to 2.
        clusters: the largest first.
        points: a place in the plane for each row of each cluster, in their order, shape (maps, 2):
            the first two eigenvectors after the constant one.
        left_out: maps of the class that were not looked at, because there were too many.
    """

    target: int | None
    name: str
    gap: float
    eigenvalues: tuple[float, ...]
    clusters: tuple[Cluster, ...]
    points: Array
    left_out: int


def cluster_maps(
    store: Opened,
    rows: pandas.DataFrame | None = None,
    *,
    by: Literal["target", "label", "prediction"] = "target",
    grid: int = 8,
    neighbors: int = 10,
    most_clusters: int = 6,
    most_maps: int = 1000,
    seed: int = 0,
) -> tuple[ClassClusters, ...]:
    """Find clusters among the maps of each class.

    Args:
        store: whose maps all have the same positions.
        rows: of its index; None for all.
        by: the column with the class.
        grid: cells a side to which maps are pooled before they are compared.
        neighbors: of each map in the graph.
        most_clusters: of a class.
        most_maps: of a class that are looked at; of more, so many are drawn at random.
        seed: of that draw, and of k-means.

    Returns:
        The classes with at least ten maps, those whose clusters are most distinct first.

    Raises:
        UsageError: an option that cannot be.
        InputError: maps of texts.
        MissingDependencyError: scikit-learn or scipy is not installed.
    """
    if by not in CLASSES:
        raise UsageError(f"by must be one of {', '.join(CLASSES)}, not {by!r}")
    for name, value, least in (
        ("grid", grid, 2),
        ("neighbors", neighbors, 1),
        ("most_clusters", most_clusters, 2),
        ("most_maps", most_maps, _FEWEST),
    ):
        if value < least:
            raise UsageError(f"{name} must be at least {least}, not {value}")
    check_positions(store)
    rows = store.index if rows is None else rows
    rows = rows[rows["error"].isna()]
    classes = rows[by].astype("float64").fillna(-1).to_numpy().astype(int)
    found = []
    for target in np.unique(classes):
        own = np.flatnonzero(classes == target)
        if len(own) < _FEWEST:
            continue
        kept = own
        if len(own) > most_maps:
            kept = np.sort(np.random.default_rng(seed).choice(own, most_maps, replace=False))
        part = rows.iloc[kept]
        maps = np.concatenate([values for _, values in blocks(store, part)])
        maps = unit_sum(maps.astype(np.float64))
        values, vectors, labels = spectrum(_small(maps, grid), neighbors, most_clusters, seed)
        groups = _groups(part, maps, vectors, labels)
        place = {row: i for i, row in enumerate(part.index.tolist())}
        order = [place[row] for group in groups for row in group.rows]
        found.append(
            ClassClusters(
                target=None if target < 0 else int(target),
                name=class_label(store, None if target < 0 else int(target)),
                gap=float(np.diff(values).max()),
                eigenvalues=tuple(values.tolist()),
                clusters=tuple(groups),
                points=vectors[order, 1:3],
                left_out=len(own) - len(kept),
            )
        )
    return tuple(sorted(found, key=lambda c: -c.gap))


def _small(maps: Array, grid: int) -> Array:
    """Maps pooled to a few cells, as rows of numbers."""
    positions = [min(grid, n) for n in maps.shape[1:]]
    cells = pooled(torch.from_numpy(maps)[:, None], positions)
    return unit_sum(cells.reshape(len(maps), -1).numpy())


def spectrum(
    points: Array, neighbors: int, most_clusters: int, seed: int
) -> tuple[Array, Array, Array]:
    """Cluster points by the spectrum of their graph of neighbors.

    The number of clusters is where the eigenvalues have their largest gap.

    Args:
        points: shape (points, numbers).
        neighbors: that each point is joined to.
        most_clusters: the number of clusters is 1 to this.
        seed: of k-means.

    Returns:
        The smallest eigenvalues of the normalized Laplacian, ``most_clusters + 1`` of them at most;
        their eigenvectors as columns; and each point's cluster.
    """
    cluster: Any = require("sklearn.cluster", EXTRA)
    graphs: Any = require("sklearn.neighbors", EXTRA)
    linalg: Any = require("scipy.linalg", EXTRA)
    laplacians: Any = require("scipy.sparse.csgraph", EXTRA)
    graph = graphs.kneighbors_graph(points, min(neighbors, len(points) - 1))
    joined = graph.maximum(graph.T).toarray()
    laplacian, degrees = laplacians.laplacian(joined, normed=True, return_diag=True)
    last = min(most_clusters, len(points) - 1)
    values, vectors = linalg.eigh(laplacian, subset_by_index=[0, last])
    values = values.clip(0)
    vectors = vectors / degrees[:, None]  # of the random walk: the first is constant
    vectors /= np.linalg.norm(vectors, axis=0)
    vectors *= np.where(vectors[np.abs(vectors).argmax(0), range(last + 1)] < 0, -1, 1)
    count = int(np.diff(values).argmax()) + 1
    if count == 1:
        return values, vectors, np.zeros(len(points), int)
    means = cluster.KMeans(count, n_init=10, random_state=seed)
    return values, vectors, means.fit_predict(vectors[:, :count])


def _groups(rows: pandas.DataFrame, maps: Array, vectors: Array, labels: Array) -> list[Cluster]:
    numbers, outcome = rows.index.to_numpy(), outcomes(rows)
    found = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        mean = maps[own].mean(0)
        flat = maps[own].reshape(len(own), -1) - mean.reshape(1, -1)
        nearest = own[np.argsort(np.linalg.norm(flat, axis=1), kind="stable")]
        known = outcome[own] != "not known"
        right = float((outcome[own][known] == "right").mean()) if known.any() else None
        found.append(Cluster(tuple(numbers[nearest].tolist()), mean, right))
    order: Sequence[Cluster] = sorted(found, key=lambda c: (-c.count, c.rows[0]))
    return list(order)

"""Mean maps of a store: by class and by outcome, right or wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from fullgrad.datasets.analysis.choice import CLASSES
from fullgrad.datasets.encoding import Array
from fullgrad.datasets.opened import Opened
from fullgrad.datasets.plan import TEXT
from fullgrad.errors import InputError, UsageError

if TYPE_CHECKING:
    import pandas

BLOCK = 512  # maps read together
Outcome = Literal["right", "wrong", "not known"]


@dataclass(frozen=True, slots=True, eq=False)
class MeanMap:
    """The mean of a group's maps, each divided by the sum of its numbers' sizes.

    Args:
        target: the class; None for samples without one.
        name: of the class, for people.
        outcome: whether the model predicts the true class; ``not known`` without a true class.
        count: maps in the group.
        values: shape of the plan's positions; sizes sum to at most 1.
    """

    target: int | None
    name: str
    outcome: Outcome
    count: int
    values: Array


def unit_sum(maps: Array) -> Array:
    """Divide each map by the sum of its numbers' sizes, so that all count alike; 0 stays 0."""
    sizes = np.abs(maps).sum(axis=tuple(range(1, maps.ndim)), keepdims=True)
    found: Array = maps / np.where(sizes > 0, sizes, 1)
    return found


def class_label(store: Opened, target: int | None) -> str:
    """Return the name of a class, for people."""
    names = store.plan.class_names
    if target is None:
        return "no class"
    return names[target] if names is not None and target < len(names) else f"class {target}"


def outcomes(rows: pandas.DataFrame) -> Array:
    """Return each row's outcome: ``right``, ``wrong`` or ``not known``."""
    label, prediction = (rows[c].astype("float64").to_numpy() for c in ("label", "prediction"))
    known = ~(np.isnan(label) | np.isnan(prediction))
    found: Array = np.where(known, np.where(label == prediction, "right", "wrong"), "not known")
    return found


def blocks(store: Opened, rows: pandas.DataFrame) -> Iterator[tuple[Array, Array]]:
    """Read rows' maps, some at a time: their places in ``rows``, and the maps, float32.

    Rows without a map are left out.
    """
    places = np.flatnonzero(rows["error"].isna().to_numpy())
    numbers = rows.index.to_numpy()
    for start in range(0, len(places), BLOCK):
        part = places[start : start + BLOCK]
        yield part, store.maps.sel(row=numbers[part]).to_numpy()


def mean_maps(
    store: Opened,
    rows: pandas.DataFrame | None = None,
    *,
    by: Literal["target", "label", "prediction"] = "target",
    most_maps: int | None = None,
) -> tuple[MeanMap, ...]:
    """Average the maps of each class, those of right and of wrong predictions by themselves.

    Maps are divided by the sum of their numbers' sizes first, so that each sample counts alike.
    They are read once, some hundred at a time, about 3,000 a second.

    Args:
        store: whose maps all have the same positions.
        rows: of its index; None for all.
        by: the column with the class.
        most_maps: of a group that are read, the first ones of it; None for all.

    Returns:
        The groups: classes in order, in each the right, then the wrong ones.

    Raises:
        UsageError: ``by`` is no column of classes.
        InputError: maps of texts, whose positions have nothing in common.
    """
    if by not in CLASSES:
        raise UsageError(f"by must be one of {', '.join(CLASSES)}, not {by!r}")
    check_positions(store)
    rows = store.index if rows is None else rows
    rows = rows[rows["error"].isna()]
    classes = rows[by].astype("float64").fillna(-1).to_numpy().astype(int)
    outcome = outcomes(rows)
    if most_maps is not None:
        kept = np.sort(_first(classes, outcome, most_maps))
        rows, classes, outcome = rows.iloc[kept], classes[kept], outcome[kept]
    sums: dict[tuple[int, str], Array] = {}
    counts: dict[tuple[int, str], int] = {}
    for places, maps in blocks(store, rows):
        scaled = unit_sum(maps.astype(np.float64))
        keys = list(zip(classes[places].tolist(), outcome[places].tolist(), strict=True))
        for key in set(keys):
            own = np.array([k == key for k in keys])
            sums[key] = sums.get(key, np.zeros(scaled.shape[1:])) + scaled[own].sum(0)
            counts[key] = counts.get(key, 0) + int(own.sum())
    order: Sequence[tuple[int, str]] = sorted(sums)
    return tuple(
        MeanMap(
            target=None if target < 0 else target,
            name=class_label(store, None if target < 0 else target),
            outcome=outcome_,  # type: ignore[arg-type]
            count=counts[target, outcome_],
            values=sums[target, outcome_] / counts[target, outcome_],
        )
        for target, outcome_ in order
    )


def _first(classes: Array, outcome: Array, most: int) -> Array:
    """The places of the first members of each group."""
    seen: dict[tuple[int, str], int] = {}
    kept = []
    for place, key in enumerate(zip(classes.tolist(), outcome.tolist(), strict=True)):
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= most:
            kept.append(place)
    return np.array(kept, int)


def check_positions(store: Opened) -> None:
    """Refuse stores whose maps have no common positions.

    Raises:
        InputError: maps of texts.
    """
    if store.plan.dims == TEXT:
        raise InputError(
            "maps of texts have no positions in common, so they have no mean and no clusters; "
            "fullgrad report and fullgrad app --store sort and filter them"
        )

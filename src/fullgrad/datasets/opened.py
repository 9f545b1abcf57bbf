"""A store that is read: its plan, its index as a table, its maps as a lazy array."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fullgrad._files import AnyPath, printable
from fullgrad._optional import require
from fullgrad.datasets.encoding import Array, restored
from fullgrad.datasets.files import EXTRA, Local, files_at
from fullgrad.datasets.index import Commit, frame, unpacked
from fullgrad.datasets.plan import MAP, Plan
from fullgrad.datasets.store import GROUP, done_units, part_name, read_plan
from fullgrad.errors import UsageError
from fullgrad.evaluation.store import StoreError

if TYPE_CHECKING:
    import pandas
    import xarray

_AT_ONCE = 32  # index files read together
_REDO = "fullgrad map with the same settings and --check does the unit again"


class Opened:
    """Reads the maps of a data set.

    What is there when the store is opened is what it shows; open it again to see more of a run
    that goes on.

    Args:
        address: folder or fsspec address.

    Raises:
        StoreError: there are no maps, or the plan is damaged.
    """

    def __init__(self, address: AnyPath) -> None:
        self._files = files_at(address)
        plan = read_plan(self._files)
        if plan is None:
            raise StoreError(
                f"{printable(self._files.address)} holds no maps (it has no plan.json)"
            )
        self._plan = plan
        self._arrays: dict[str, Any] = {}
        self._known: dict[str, tuple[Array, Array]] = {}

    @property
    def address(self) -> str:
        """Where the store lies."""
        return self._files.address

    @property
    def plan(self) -> Plan:
        """What fixes the numbers."""
        return self._plan

    @property
    def units(self) -> int:
        """How many units the data set has."""
        return self._plan.units

    @cached_property
    def done(self) -> tuple[int, ...]:
        """The units that are there."""
        return tuple(done_units(self._plan, self._files.sizes()))

    @property
    def complete(self) -> bool:
        """Whether every unit is there."""
        return len(self.done) == self.units

    @cached_property
    def index(self) -> pandas.DataFrame:
        """A row for each map, indexed by ``row``, those of units that are there.

        Raises:
            StoreError: an index file is damaged.
            MissingDependencyError: pandas, pyarrow or zarr is not installed.
        """
        require("zarr", EXTRA)  # is slow to load: with the index rather than with the first map
        return frame((table for table, _ in self._parts()), self._plan)

    def commits(self) -> list[Commit]:
        """What the index files say beside their rows: digests of shards, promise, errors."""
        return [commit for _, commit in self._parts()]

    def _parts(self) -> list[tuple[Any, Commit]]:
        from concurrent.futures import ThreadPoolExecutor

        def read(unit: int) -> tuple[Any, Commit]:
            name = part_name(unit)
            content = self._files.read(name)
            if content is None:
                raise StoreError(f"{name} is gone; open the store again")
            try:
                return unpacked(content, name)
            except StoreError as error:
                raise StoreError(f"{error}. {_REDO}") from error

        if isinstance(self._files, Local):
            return [read(unit) for unit in self.done]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(read, self.done))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the explained inputs; ``("",)`` where samples are one tensor."""
        return self._plan.inputs or ("",)

    def _array(self, name: str) -> Any:
        if name not in self._arrays:
            zarr: Any = require("zarr", EXTRA)
            place = f"{self._files.address}/{GROUP}/{name}"
            if not isinstance(self._files, Local):
                place = zarr.storage.FsspecStore.from_url(place, read_only=True)
            self._arrays[name] = zarr.open_array(place, mode="r")
        return self._arrays[name]

    def _stored(self, name: str, key: Any) -> Array:
        try:
            return np.asarray(self._array(name).oindex[key])
        except Exception as error:  # zarr and its codecs raise what they like on damaged files
            text = f"{type(error).__name__}: {error}"
            raise StoreError(
                f"a map in {printable(self.address)} cannot be read ({text}). {_REDO}"
            ) from error

    def map(self, row: int, input: str | None = None) -> Array:
        """Return one map, float32 in the shape of the plan's positions; NaN if it failed.

        Args:
            row: its number, the index's.
            input: one of several inputs by name; None for the first.

        Raises:
            UsageError: there is no such row, or no such input.
            StoreError: it is damaged.
        """
        name = self._name(input)
        if row not in self.index.index:
            raise UsageError(f"there is no row {row} in {printable(self.address)}")
        return np.asarray(self._decoded(name, np.asarray([self.index.index.get_loc(row)]))[0])

    def _name(self, input: str | None) -> str:
        """The array of an input."""
        if input is None or input == self.inputs[0]:
            return MAP
        if input not in self.inputs:
            known = ", ".join(self.inputs) if self._plan.inputs else "one, without a name"
            raise UsageError(
                f"there are no maps of an input {input!r} in {printable(self.address)}; its "
                f"inputs: {known}"
            )
        return f"{MAP}.{input}"

    def _decoded(self, name: str, places: Array) -> Array:
        """The maps of an array at these places of the index, decoded."""
        rows = self._rows[places]
        steps = np.diff(rows)
        if len(rows) and (steps == 1).all():
            stored = self._stored(name, slice(int(rows[0]), int(rows[-1]) + 1))
        else:
            stored = self._stored(name, rows)
        scales, zeros = self._codes(name)
        found = restored(stored, scales[places], zeros[places])
        found[self._failed[places]] = np.nan
        return found

    @cached_property
    def _rows(self) -> Array:
        return np.asarray(self.index.index.to_numpy())

    def _codes(self, name: str) -> tuple[Array, Array]:
        """Scale and zero of each map of an array."""
        if name not in self._known:
            start = f"{name.removeprefix(MAP + '.')}." if name != MAP else ""
            scales = self.index[f"{start}scale"].fillna(1.0).to_numpy(np.float64)
            zeros = self.index[f"{start}zero"].fillna(0).to_numpy(np.int16)
            self._known[name] = np.asarray(scales), np.asarray(zeros)
        return self._known[name]

    @cached_property
    def _failed(self) -> Array:
        return np.asarray(self.index["error"].notna().to_numpy())

    @cached_property
    def maps(self) -> xarray.DataArray:
        """All maps that are there, read when they are used, decoded; NaN where one failed.

        Dimensions ``row`` and those of the positions; ``maps[i]`` belongs to ``index.iloc[i]``. Of
        several inputs these are the first one's; :meth:`maps_of` has the others'.

        Raises:
            MissingDependencyError: xarray is not installed.
        """
        return self.maps_of()

    def maps_of(self, input: str | None = None) -> xarray.DataArray:
        """Return all maps of one of several inputs, as :attr:`maps` does.

        Args:
            input: its name; None for the first.

        Raises:
            UsageError: there is no such input.
            MissingDependencyError: xarray is not installed.
        """
        name = self._name(input)
        positions, dims = self._plan.arrays[name]
        from fullgrad.datasets._lazy_array import lazy

        xr: Any = require("xarray", EXTRA)
        shape = (len(self.index), *positions)
        coordinates = {"row": self._rows, "id": ("row", self.index["id"].to_numpy(str))}
        if self.index["target"].notna().all():
            coordinates["target"] = ("row", self.index["target"].to_numpy(np.int64))
        array: xarray.DataArray = xr.DataArray(
            lazy(shape, partial(self._decoded, name)),
            dims=("row", *dims),
            coords=coordinates,
            name=name,
            attrs={"method": self._plan.method, "digest": self._plan.digest},
        )
        return array

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self._plan.positions))
        return (
            f"Opened({printable(self.address)}: {self._plan.method} maps of {self._plan.samples} "
            f"samples, {shape}; {len(self.done)} of {self.units} units)"
        )


def open(address: AnyPath) -> Opened:
    """Open the maps of a data set.

    Args:
        address: folder or fsspec address that :func:`fullgrad.datasets.map` wrote.

    Returns:
        ``.plan``, ``.index`` (a ``pandas.DataFrame``) and ``.maps`` (a lazy
        ``xarray.DataArray``); see :class:`Opened`.

    Raises:
        StoreError: there are no maps, or the plan is damaged.
    """
    return Opened(address)

"""A store that is written to: which units are there, how one is committed, what is damaged."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fullgrad._files import AnyPath, printable
from fullgrad.datasets import encoding, index
from fullgrad.datasets.files import Files, files_at
from fullgrad.datasets.index import Commit, Origin, Row
from fullgrad.datasets.plan import MAP, Plan, unpacked
from fullgrad.evaluation.store import StoreError

PLAN, GROUP = "plan.json", "maps.zarr"
_AT_ONCE = 16  # index files read together
_PART = re.compile(r"index/(\d{6,})\.parquet")


def part_name(unit: int) -> str:
    """The name of a unit's index file."""
    return f"index/{unit:06d}.parquet"


def shard_name(plan: Plan, unit: int, array: str = MAP) -> str:
    """The name of a unit's shard of an array."""
    positions, _ = plan.arrays[array]
    return f"{GROUP}/{array}/c/{'/'.join(map(str, (unit, *(0 for _ in positions))))}"


def read_plan(files: Files) -> Plan | None:
    """Return the plan of a store; None where there is no store yet.

    Raises:
        StoreError: it is damaged, or the place cannot be read.
    """
    content = files.read(PLAN)
    return None if content is None else unpacked(content, files.address)


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a unit's commit.

    Args:
        unit: its number.
        rows: it has.
        errors: rows without a map.
        bytes: of its shards.
        first: whether it was written; False where another process had done so.
    """

    unit: int
    rows: int
    errors: int
    bytes: int
    first: bool


class Store:
    """Keeps the units of one plan.

    Args:
        address: folder or fsspec address.
        plan: of all units.

    Raises:
        StoreError: the place holds something else, or another plan; the difference is named.
    """

    def __init__(self, address: AnyPath, plan: Plan) -> None:
        self.plan, self.files = plan, files_at(address)

    def prepare(self) -> None:
        """Write the plan and the array's description where they are not there yet.

        Raises:
            StoreError: the place cannot be written to, or holds something else or another plan.
        """
        there = read_plan(self.files)
        if there is None:
            others = [n for n in self.files.sizes() if not n.startswith(GROUP)]
            if others and PLAN not in others:
                raise StoreError(
                    f"{printable(self.files.address)} holds other files and no maps "
                    f"({printable(min(others))}); give an empty folder"
                )
            self.files.create(PLAN, self.plan.packed())
            there = read_plan(self.files)  # of who was first
            assert there is not None
        check_same(self.plan, there, self.files.address)
        rows, headers = self.plan.rows_of_unit, {f"{GROUP}/zarr.json": encoding.group_header()}
        for name, (positions, dims) in self.plan.arrays.items():
            header = encoding.array_header(
                (self.plan.rows, *positions), rows, self.plan.dtype, dims
            )
            headers[f"{GROUP}/{name}/zarr.json"] = header
        for name, content in headers.items():
            if self.files.read(name) != content:
                self.files.write(name, content)

    def done(self) -> list[int]:
        """Return the units whose index file and shard are there, after one listing."""
        return done_units(self.plan, self.files.sizes())

    def has(self, unit: int) -> bool:
        """Tell whether a unit is committed."""
        return self.files.read(part_name(unit)) is not None

    def commit(
        self,
        unit: int,
        maps: Mapping[str, encoding.Array],
        rows: Sequence[Row],
        promise: str,
        origin: Origin,
    ) -> Written:
        """Store a unit: its shards, then its index file, which makes it count.

        Args:
            unit: its number.
            maps: stored numbers of each array, a map for each row.
            rows: in order.
            promise: see :class:`fullgrad.datasets.index.Commit`.
            origin: where and when it was computed.

        Raises:
            StoreError: it cannot be written; the unit does not count then.
        """
        errors = sum(row.error is not None for row in rows)
        shards = {
            name: encoding.shard(maps[name], self.plan.rows_of_unit, dims)
            for name, (_, dims) in self.plan.arrays.items()
        }
        size, part = sum(map(len, shards.values())), part_name(unit)
        if self.has(unit):  # somebody else was faster
            return Written(unit, len(rows), errors, size, False)
        found = {}
        for array, content in shards.items():
            name, digest = shard_name(self.plan, unit, array), _sha256(content)
            found[array] = {"sha256": digest, "bytes": len(content)}
            if self.files.create(name, content) or _sha256(self.files.read(name)) == digest:
                continue
            if self.has(unit):  # it was committed meanwhile, with other bytes
                return Written(unit, len(rows), errors, size, False)
            self.files.write(name, content)
        commit = Commit(unit, self.plan.digest, found, promise, errors)
        packed = index.packed(self.plan, rows, commit, origin)
        first = self.files.create(part, packed)
        if not first and not self._fits(unit):
            self.files.write(part, packed)
        return Written(unit, len(rows), errors, size, first)

    def _fits(self, unit: int) -> bool:
        """Whether a unit's index file carries the digest of the shard that lies there."""
        try:
            whole_commit(self.plan, self.files, unit, None)
        except StoreError:
            return False
        return True

    def drop_damaged(
        self, units: Sequence[int], say: Callable[[str], None], *, check: bool = False
    ) -> dict[int, Commit]:
        """Take back the commits of units that are damaged, so that they are done again.

        Args:
            units: that are committed.
            say: told one line for each damaged unit.
            check: whether shards are read and their digests compared; otherwise their lengths are.

        Returns:
            The units that are whole, with what their index files say.
        """
        sizes = None if check else self.files.sizes()

        def look(unit: int) -> Commit | StoreError:
            try:
                return whole_commit(self.plan, self.files, unit, sizes)
            except StoreError as error:
                return error

        whole = {}
        with ThreadPoolExecutor(1 if check else _AT_ONCE) as pool:  # shards are large
            for unit, found in zip(units, pool.map(look, units), strict=True):
                if isinstance(found, Commit):
                    whole[unit] = found
                    continue
                say(f"damaged, to be done again: unit {unit} ({found})")
                self.files.remove(part_name(unit))
        return whole


def check_same(wanted: Plan, there: Plan, address: str) -> None:
    """Refuse a store of another plan.

    Raises:
        StoreError: naming the difference.
    """
    if wanted.digest != there.digest:
        lines = "; ".join(wanted.difference(there))
        raise StoreError(
            f"{printable(address)} holds maps of other settings ({lines}): give another folder, or "
            "the settings of the store"
        )


def done_units(plan: Plan, sizes: dict[str, int]) -> list[int]:
    """Return the units of a listing whose index file and shard are there."""
    found = sorted(int(m[1]) for m in map(_PART.fullmatch, sizes) if m)
    return [
        u
        for u in found
        if u < plan.units and all(shard_name(plan, u, array) in sizes for array in plan.arrays)
    ]


def whole_commit(plan: Plan, files: Files, unit: int, sizes: dict[str, int] | None) -> Commit:
    """Return what the index file of a unit says that is whole.

    Args:
        plan: of the store.
        files: of the store.
        unit: its number.
        sizes: a listing, if lengths alone are compared; None reads the shard.

    Raises:
        StoreError: what is wrong with it.
    """
    part = part_name(unit)
    content = files.read(part)
    if content is None:
        raise StoreError(f"{part} is gone")
    commit = index.commit_of(content, part)
    if commit.digest != plan.digest or commit.unit != unit:
        raise StoreError(f"{part} belongs to unit {commit.unit} of plan {commit.digest}")
    if sizes is None:
        index.unpacked(content, part)
    for array in plan.arrays:
        _check_shard(shard_name(plan, unit, array), commit.shards[array], files, sizes)
    return commit


def _check_shard(
    name: str, wanted: Mapping[str, Any], files: Files, sizes: dict[str, int] | None
) -> None:
    """Refuse a shard that is not the one that an index file tells of.

    Raises:
        StoreError: what is wrong with it.
    """
    length = None if sizes is None else sizes.get(name)
    if sizes is None:
        shard = files.read(name)
        length = None if shard is None else len(shard)
        if shard is not None and length == wanted["bytes"] and _sha256(shard) != wanted["sha256"]:
            raise StoreError(f"{name} has another digest than its index file says")
    if length is None:
        raise StoreError(f"{name} is gone")
    if length != wanted["bytes"]:
        raise StoreError(f"{name} has {length} bytes, its index file says {wanted['bytes']}")


def _sha256(content: bytes | None) -> str:
    return "" if content is None else hashlib.sha256(content).hexdigest()

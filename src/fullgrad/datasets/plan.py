"""What fixes the numbers of a store: a frozen plan with a digest."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fullgrad._files import printable
from fullgrad._version import __version__
from fullgrad.datasets.encoding import Dtype, Pooling
from fullgrad.evaluation.plan import digest_of
from fullgrad.evaluation.store import StoreError

FORMAT = 1
_APART = ("environment", "chosen")  # may differ between runs that work on one store
_LATER = ("inputs", "more")  # fields that older stores lack; no part of the digest if empty
TEXT = ("token",)  # the positions of a store of texts
MAP = "map"  # what the array of the first input is called


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Holds all that the maps of a store depend on.

    Args:
        data: ``spec``, ``samples`` (their number) and ``digest`` (of ids, labels and sizes).
        model: ``name``, ``weights`` and ``digest`` (of its structure and its state).
        method: its name.
        options: of the method, with their defaults, as JSON can hold them.
        target: ``predicted``, ``true``, ``top``, ``given``, or a list of classes.
        targets: how many maps a sample has.
        unit: samples in a unit.
        sizes: samples in each unit, where they are fewer than ``unit`` in some; else None.
        batch_size: samples that go through the model together.
        dtype: of the stored numbers.
        grid: cells to which maps are pooled; None for native resolution.
        pooling: ``sum`` or ``mean``.
        positions: shape of a stored map.
        dims: names of its axes.
        stages: whose shares are in the index, in order of execution.
        depth: components of a module's path that make a stage.
        class_names: of the model, if they are known.
        threads: of PyTorch, in each process.
        device: its kind, ``cpu`` or ``cuda``.
        deterministic: whether PyTorch uses deterministic algorithms alone.
        code: digest of the library's code, and of the method's where it is the user's.
        environment: versions of packages, and the processor, where the plan was made; not part of
            the digest.
        chosen: ``by`` (``default`` or ``given``) whom the method was chosen, and the ``reason`` of
            the default; not part of the digest, and empty in older stores.
        inputs: names of the explained inputs, where samples hold tensors by name.
        more: of these, from each but the first to ``positions`` and ``dims`` of its maps.
    """

    data: Mapping[str, Any]
    model: Mapping[str, Any]
    method: str
    options: Mapping[str, Any]
    target: Any
    targets: int
    unit: int
    sizes: tuple[int, ...] | None
    batch_size: int
    dtype: Dtype
    grid: tuple[int, ...] | None
    pooling: Pooling
    positions: tuple[int, ...]
    dims: tuple[str, ...]
    stages: tuple[str, ...]
    depth: int
    class_names: tuple[str, ...] | None
    threads: int
    device: str
    deterministic: bool
    code: str
    environment: Mapping[str, str]
    chosen: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    more: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return int(self.data["samples"])

    @property
    def units(self) -> int:
        """How many units there are."""
        return -(-self.samples // self.unit) if self.sizes is None else len(self.sizes)

    @property
    def arrays(self) -> dict[str, tuple[tuple[int, ...], tuple[str, ...]]]:
        """Positions and names of their axes of each array of the store, the first input's first."""
        found = {MAP: (self.positions, self.dims)}
        for name, own in self.more.items():
            found[f"{MAP}.{name}"] = (tuple(own["positions"]), tuple(own["dims"]))
        return found

    @property
    def rows_of_unit(self) -> int:
        """Rows of the array that a unit has."""
        return self.unit * self.targets

    @property
    def rows(self) -> int:
        """Rows of the array, those that short units leave empty too."""
        if self.sizes is None:
            return self.samples * self.targets
        return len(self.sizes) * self.rows_of_unit

    def members(self, unit: int) -> range:
        """Return the numbers of a unit's samples."""
        if self.sizes is None:
            return range(unit * self.unit, min(self.samples, (unit + 1) * self.unit))
        start = sum(self.sizes[:unit])
        return range(start, start + self.sizes[unit])

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with what the maps depend on."""
        own = {k: v for k, v in self.values().items() if v or k not in _LATER}
        return digest_of({k: v for k, v in own.items() if k not in _APART})

    def values(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return found

    def packed(self) -> bytes:
        """Return the content of ``plan.json``."""
        head = {"format": FORMAT, "digest": self.digest}
        return (json.dumps({**head, **self.values()}, indent=1) + "\n").encode()

    def difference(self, other: Plan) -> list[str]:
        """Return in what another plan differs, a line for each field."""
        own, theirs = _flat(self.values()), _flat(other.values())
        return [
            f"{name}: {_short(own.get(name))} here, {_short(theirs.get(name))} there"
            for name in {**own, **theirs}
            if own.get(name) != theirs.get(name)
        ]


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that can differ, those of fields by themselves."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= {f"{name}.{key}": own for key, own in value.items() if name not in _APART}
        else:
            found[name] = value
    return found


def _short(value: Any) -> str:
    text = printable(json.dumps(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def unpacked(content: bytes, where: str) -> Plan:
    """Return the plan of a store's ``plan.json``.

    Args:
        content: of the file.
        where: the store lies, for messages.

    Raises:
        StoreError: the file is damaged, or of another format.
    """
    name = f"{printable(where)}/plan.json"
    try:
        found = json.loads(content)
        if found["format"] != FORMAT:
            raise StoreError(
                f"{printable(where)} holds maps in format {found['format']}, this is {FORMAT}; "
                "give another folder"
            )
        later = {"chosen": {}, "inputs": [], "more": {}} | found  # older stores lack these
        own = {f.name: later[f.name] for f in fields(Plan)}
        for key in ("sizes", "grid", "positions", "dims", "stages", "class_names", "inputs"):
            own[key] = None if own[key] is None else tuple(own[key])
        plan = Plan(**own)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{name} is damaged: {type(error).__name__}: {error}") from error
    if plan.digest != found["digest"]:
        raise StoreError(f"{name} is damaged: its digest is not that of its fields")
    return plan


def environment() -> dict[str, str]:
    """Return what may change the last bits of a number from one machine to another."""
    found = {"fullgrad": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "zarr", "numcodecs", "pyarrow", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return {**found, "processor": _processor()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()

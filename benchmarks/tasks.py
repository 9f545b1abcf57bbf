"""One cell of the tables: what is measured together, and what it is stored under."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from benchmarks.subjects import SIZE, SUBJECTS

Kind: TypeAlias = Literal["time", "memory", "growth", "compiled"]
Key: TypeAlias = tuple[Any, ...]
KEY = ("kind", "axis", "model", "batch", "size", "dtype", "device")

# Multiplications that take as long as starting a process, and passes through the model, roughly.
_START = 20.0
_PASSES = {"time": 200, "memory": 200, "growth": 60, "compiled": 200}


@dataclass(frozen=True, slots=True)
class Task:
    """What one child process measures.

    Args:
        kind: ``time``, ``memory``, ``growth``, which is time along an axis, or ``compiled``, which
            is time of compiled explanations beside eager ones.
        model: one of ``SUBJECTS``.
        batch: samples.
        size: height and width of the input.
        dtype: ``float32`` or ``bfloat16``.
        device: ``cpu`` or ``cuda``.
        methods: names of methods.
        axis: of ``growth``: ``batch``, ``resolution`` or ``depth``.
        rounds: exactly so many; None for as many as fit into the time set aside.
        longest: seconds that a single call may take; a method that needs more is not run.
        clock: ``wall``, or ``processor`` for the time that the process itself gets, which other
            work on the machine makes no longer; for one thread.
        memory_limit: GiB that the child may use on the CPU beyond its libraries; None for most of
            what is free.
    """

    kind: Kind
    model: str
    batch: int
    size: int
    dtype: str
    device: str
    methods: tuple[str, ...]
    axis: str = ""
    rounds: int | None = None
    longest: float = 300.0
    clock: str = "wall"
    memory_limit: float | None = None

    @property
    def key(self) -> Key:
        """What tells this cell from all others."""
        return tuple(getattr(self, name) for name in KEY)

    @property
    def weight(self) -> float:
        """How long it takes, in a unit of its own."""
        cost = SUBJECTS[self.model].cost * self.batch * (self.size / SIZE) ** 2
        return (_START + cost) * _PASSES[self.kind]

    def __str__(self) -> str:
        axis = f" ({self.axis})" if self.axis else ""
        return f"{self.kind}{axis} {self.model}, batch {self.batch}, {self.size} px, {self.dtype}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Task:
        """From JSON."""
        return cls(**{**values, "methods": tuple(values["methods"])})

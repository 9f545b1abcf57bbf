"""How cost grows with batch, resolution and depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.methods import CORE
from benchmarks.subjects import SIZE, SUBJECTS
from benchmarks.tasks import Task

AXES = ("batch", "resolution", "depth")
CONVOLUTIONS = {"resnet18": 20, "resnet34": 36, "resnet50": 53, "resnet101": 104}
_MODEL, _BATCH = "resnet18", 4
_BATCHES = {"cpu": (1, 2, 4, 8, 16, 32), "cuda": (1, 2, 4, 8, 16, 32, 64, 128, 256)}
_SIZES = (96, 128, 160, 224, 288, 384)


def points(device: str, *, quick: bool = False) -> list[tuple[str, str, int, int]]:
    """What is measured.

    Args:
        device: ``cpu`` or ``cuda``.
        quick: a few small points only.

    Returns:
        Axis, model, batch and size of each point.
    """
    batches: Sequence[int] = (1, 2, 4) if quick else _BATCHES[device]
    sizes: Sequence[int] = (64, 96, 128) if quick else _SIZES
    models = list(CONVOLUTIONS)[: 2 if quick else None]
    usual, batch = (64, 1) if quick else (SIZE, _BATCH)
    return [
        *(("batch", _MODEL, b, usual) for b in batches),
        *(("resolution", _MODEL, batch, s) for s in sizes),
        *(("depth", m, batch, usual) for m in models),
    ]


def tasks(device: str, dtype: str, *, quick: bool = False, **settings: Any) -> list[Task]:
    """The cells to measure.

    Args:
        device: ``cpu`` or ``cuda``.
        dtype: of model and input.
        quick: a few small points only.
        settings: of every task.

    Returns:
        One task per point.
    """
    return [
        Task("growth", model, batch, size, dtype, device, CORE, axis, **settings)
        for axis, model, batch, size in points(device, quick=quick)
    ]


def place(record: dict[str, Any]) -> int:
    """Where a measured cell lies on its axis."""
    if record["axis"] == "depth":
        return CONVOLUTIONS[record["model"]]
    return int(record["batch"] if record["axis"] == "batch" else record["size"])


def caption(records: Sequence[dict[str, Any]]) -> str:
    """The axis of a panel, with what was the same in all of its cells.

    Args:
        records: the measured cells of one axis, in their order along it.

    Returns:
        Two short lines.
    """
    first = records[0]
    label, size, batch = SUBJECTS[first["model"]].label, first["size"], first["batch"]
    if first["axis"] == "batch":
        return f"batch size\n({label}, {size} px)"
    if first["axis"] == "resolution":
        return f"height = width in pixels\n({label}, batch {batch})"
    models = ", ".join(SUBJECTS[r["model"]].label.removeprefix("ResNet-") for r in records)
    return f"convolutions\n(ResNet-{models}; {size} px, batch {batch})"

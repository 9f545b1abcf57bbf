"""A store of made-up maps, written without a model, for tests of what reads one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from fullgrad.datasets import Plan, encoding
from fullgrad.datasets.index import Origin, Row
from fullgrad.datasets.plan import environment
from fullgrad.datasets.store import Store

PLAN = Plan(
    data={"spec": "made up", "samples": 25, "digest": "0" * 16},
    model={"name": "net", "weights": "none", "digest": "1" * 16},
    method="complete_fullgrad",
    options={},
    target="predicted",
    targets=1,
    unit=10,
    sizes=None,
    batch_size=5,
    dtype="float16",
    grid=None,
    pooling="sum",
    positions=(6, 4),
    dims=("y", "x"),
    stages=("stem", "head"),
    depth=1,
    class_names=("cat", "dog"),
    threads=1,
    device="cpu",
    deterministic=False,
    code="2" * 16,
    environment=environment(),
)
ORIGIN = Origin("host", datetime(2024, 5, 17, tzinfo=UTC), 0.5)


def plan(**changes: Any) -> Plan:
    """A plan with some fields of its own; ``samples`` is one of ``data``."""
    data = {**PLAN.data, "samples": changes.pop("samples", PLAN.samples)}
    return replace(PLAN, data=data, **changes)


def values(number: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The map of a sample; that of every seventh is 0."""
    return np.random.default_rng(number).normal(size=shape) * (number % 7 != 0)


def write(folder: Path, own: Plan = PLAN, units: range | None = None) -> Store:
    """Write units of a plan; sample 3 has an error instead of a map."""
    store = Store(folder, own)
    store.prepare()
    for unit in range(own.units) if units is None else units:
        maps, rows = [], []
        for number in own.members(unit):
            about: dict[str, Any] = {"row": number, "id": f"photos/{number:03d}.png"}
            if number == 3:
                maps.append(encoding.empty(own.positions, own.dtype))
                rows.append(Row(**about, error="photos/003.png is empty (0 bytes)"))
                continue
            found = values(number, own.positions)
            stored, scale, zero = encoding.quantized(found, own.dtype)
            numbers = {
                "probability": 0.5,
                "logit": float(found.sum()) + 1.0,
                "residual": 1e-7,
                "positive": float(found.clip(0).sum()),
                "negative": float(found.clip(None, 0).sum()),
                "elsewhere": 1.0,
                "share.input": float(found.sum()),
                "share.stem": 0.25,
                "share.head": 0.75,
            }
            about |= {"label": number % 2, "target": number % 3 % 2, "prediction": number % 3 % 2}
            maps.append(stored)
            if own.dims == ("token",):
                about["tokens"] = tuple(f"w{number}" for _ in own.positions * own.positions[0])
            rows.append(Row(**about, numbers=numbers, scale=scale, zero=zero, shape=found.shape))
        store.commit(unit, {"map": np.stack(maps)}, rows, "bytes", ORIGIN)
    return store

"""The placement proof: random programs against an oracle, and rules broken on purpose are found."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fullgrad.axes import algebra, broadcasting, coordinates, windows
from fullgrad.operations import registry
from placement_programs import STEPS, axes_of, faults, program

# ``make placement`` runs 5,000.
COUNT = int(os.environ.get("FULLGRAD_PROGRAMS", "300"))
# Steps that only convolve, pool, slice, join, flip, roll, pad, reshape and permute.
NEVER_LOST = frozenset(STEPS) - {"indexed", "resized", "shuffle"}


def _lost_and_wrong(seeds: range) -> tuple[Counter[str], list[str]]:
    lost: Counter[str] = Counter()
    wrong = []
    for seed in seeds:
        found = program(seed)
        if not found.steps:
            continue
        axes = axes_of(found)
        if axes is None:
            lost[found.names[-1]] += 1
            if set(found.names) <= NEVER_LOST:
                wrong.append(f"{seed} {found.names}: lost")
        elif said := faults(found, axes):
            wrong.append(f"{seed} {found.names}: {said}")
    return lost, wrong


@pytest.mark.parametrize("part", range(4))
def test_random_programs(part: int) -> None:
    size = COUNT // 4
    lost, wrong = _lost_and_wrong(range(part * size, (part + 1) * size))
    assert wrong == []
    assert lost.total() <= 0.15 * size, lost


def _rule(name: str, change: Callable[[Any], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    def put(patch: pytest.MonkeyPatch) -> None:
        entry = registry.entry_for(f"aten::{name}")
        patch.setitem(registry._ENTRIES, entry.name, replace(entry, axes=change(entry.axes)))
        registry._OVERLOADS.clear()
        patch.setattr(registry, "_OVERLOADS", {})

    return put


def _first(p: Any) -> Any:
    return p.first()


def _backwards(rule: Any) -> Any:
    """A roll the other way round."""

    def wrong(p: Any) -> Any:
        args = (p.call.args[0], [-s for s in p.call.args[1]], *p.call.args[2:])
        return rule(replace(p, call=replace(p.call, args=args)))

    return wrong


def _cut_reset(patch: pytest.MonkeyPatch) -> None:
    taken = coordinates.taken

    def wrong(c: Any, old: Any, new: Any, index: Any) -> Any:
        steps = np.diff(index)
        straight = len(index) > 1 and bool((steps == steps[0]).all()) and index[0] > 0
        return taken(c, old, new, index - index[0] if straight and steps[0] > 0 else index)

    patch.setattr(coordinates, "taken", wrong)


def _pad_ignored(patch: pytest.MonkeyPatch) -> None:
    taken = coordinates.taken
    patch.setattr(
        coordinates, "taken", lambda c, old, new, index: taken(c, old, new, np.maximum(index, 0))
    )


def _wrong_input(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(broadcasting, "_elsewhere", lambda axes, number: False)


def _stride_dropped(patch: pytest.MonkeyPatch) -> None:
    sliding = windows.sliding

    def wrong(size: int, after: int, kernel: int, stride: int = 1, *rest: int) -> Any:
        return sliding(size, after, kernel, 1, *rest)

    patch.setattr(windows, "sliding", wrong)


def _tile_swapped(patch: pytest.MonkeyPatch) -> None:
    taken = algebra._blocks_taken

    def wrong(axes: Any, dim: int, index: Any) -> Any:
        block = axes.groups[dim][-1].size
        rows = index.reshape(-1, block) if len(index) % block == 0 else index[None]
        total = axes.shape[dim]
        return taken(axes, dim, ((rows + block) % total).reshape(-1))

    patch.setattr(algebra, "_blocks_taken", wrong)


MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "flip ignored": _rule("flip", lambda rule: _first),
    "cut's offset reset": _cut_reset,
    "pad ignored": _pad_ignored,
    "wrong input": _wrong_input,
    "roll reversed": _rule("roll", _backwards),
    "stride dropped": _stride_dropped,
    "batch and tile swapped": _tile_swapped,
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    for seed in range(300):
        found = program(seed)
        if not found.steps:
            continue
        try:
            axes = axes_of(found)
        except (ValueError, IndexError, AssertionError):
            return
        if axes is not None and faults(found, axes):
            return
    pytest.fail("300 programs did not find it")

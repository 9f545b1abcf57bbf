"""The placement proof: random programs against an oracle, and rules broken on purpose are found."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fullgrad.axes import algebra, broadcasting, coordinates, windows
from fullgrad.operations import registry
from placement_programs import STEPS, Program, axes_of, faults, ones, program

# ``make placement`` runs 5,000; ``FULLGRAD_FIRST_PROGRAM=5000`` makes it others.
COUNT = int(os.environ.get("FULLGRAD_PROGRAMS", "300"))
FIRST = int(os.environ.get("FULLGRAD_FIRST_PROGRAM", "0"))
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
    start = FIRST + part * size
    lost, wrong = _lost_and_wrong(range(start, start + size))
    assert wrong == []
    assert lost.total() <= 0.15 * size, lost


def _cut_and_joined(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a[:, :, :5], b], 1)


def _onto_one_row(y: Tensor) -> Tensor:
    return F.conv2d(y, ones(4, y.shape[1], y.shape[2], 1))


def _beyond(y: Tensor) -> Tensor:
    """Windows of 2, of which the last reads padding, over bins that read both inputs."""
    bins = F.adaptive_avg_pool2d(y[:, :, 1:3, :13], (2, 5))
    return F.conv2d(bins, ones(4, 2, 2, 2), None, 2, 1, 2, 2)


# What random programs found: two images of shape (2, 4, 6, 8) and (2, 4, 5, 8) to an activation.
FOUND: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a window over all rows of a crop, above other rows": lambda a, b: torch.cat(
        [_onto_one_row(_cut_and_joined(a, b)), a], 2
    ),
    "channels with different parts, read together beside columns": lambda a, b: torch.cat(
        [F.conv2d(torch.cat([a[..., :1], a[..., 3:4]], 1), ones(4, 8, 1, 1)), a], 3
    ),
    "a window over all rows, below other rows, in a window again": lambda a, b: (
        F.adaptive_avg_pool2d(torch.cat([a, _onto_one_row(a.flip(3))], 2), (6, 8))
    ),
    "windows of several sizes beyond the end of one of two joined inputs": lambda a, b: (
        F.max_pool2d(torch.cat([a[..., :3], _beyond(torch.cat([a[:, :, :5], b], 3))], 2), 2, 1, 1)
    ),
    "windows that read nothing along columns that are all the same": lambda a, b: (
        F.conv_transpose2d(_cut_and_joined(a, b)[..., [2, 2, 2]], ones(8, 4, 1, 1), None, 2)
    ),
    "batches side by side, in windows of which samples and channels are one axis": lambda a, b: (
        torch.cat([a[:1], _tile_by_tile(a[:1], 4)])
    ),
}


def _tile_by_tile(a: Tensor, channels: int) -> Tensor:
    """Halves on the batch axis; the channels that are moved in stay apart in the table."""
    y = torch.zeros_like(a).detach()
    y[:, :1, :, :-1], y[:, 1:] = a[:, :1, :, 1:], a[:, 1:]
    weight = ones(channels, 1, 3, 3)
    for _ in range(2):
        tiles = torch.cat([y[..., :4], y[..., 4:]])
        y = torch.cat(list(F.conv2d(tiles, weight, padding=1, groups=channels).chunk(2)), 3)
    return y


@pytest.mark.parametrize("name", FOUND)
def test_programs_that_were_wrong(name: str) -> None:
    run = FOUND[name]
    batch = 1 if "batches" in name else 2
    shapes = [(batch, 4, 6, 8), (batch, 4, 5, 8)]
    found = Program(shapes, [lambda t: run(t[0], t[1])], ["joined"])
    axes = axes_of(found)
    assert axes is not None
    assert faults(found, axes) == []


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

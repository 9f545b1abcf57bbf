"""The work on a store: its units, computed and committed by one process."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from fullgrad._user_code import pickled, unpickled
from fullgrad.datasets._inputs import kind_of, stacked
from fullgrad.datasets.encoding import Array, empty, pooled, quantized
from fullgrad.datasets.explaining import Found, Question, explained
from fullgrad.datasets.index import Origin, Row
from fullgrad.datasets.plan import MAP, TEXT, Plan, environment
from fullgrad.datasets.samples import Prepared, Reader, Samples, minibatches
from fullgrad.datasets.store import Store, Written
from fullgrad.errors import FullGradError, InputError, ModelLoadError
from fullgrad.vision.classification import one_line

Report: TypeAlias = Callable[[Written], None]


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Holds all that a process needs to compute units; picklable where model and samples are.

    Args:
        address: of the store.
        plan: of the store.
        model: that is explained.
        samples: of the data set.
        transform: see :class:`fullgrad.datasets.samples.Reader`.
        asked: what is explained.
        device: where the model runs.
        workers: processes that decode.
        attempt: how often these units have been tried in this run, from 1.
    """

    address: str
    plan: Plan
    model: nn.Module
    samples: Samples
    transform: Callable[[Any], Any] | None
    asked: Question
    device: str
    workers: int = 0
    attempt: int = 1

    def __reduce__(self) -> Any:
        """Take the Python files along that model, data and transform come from, by path."""
        return _work, pickled(tuple(getattr(self, f.name) for f in fields(self)))

    def run(self, units: Sequence[int], report: Report) -> None:
        """Compute units and commit each; one that somebody else commits meanwhile is left out.

        Args:
            units: their numbers.
            report: told of each commit.

        Raises:
            FullGradError: the store cannot be written to, or a decoding process died; what was
                committed stays.
        """
        store = Store(self.address, self.plan)
        model = self.model.to(self.device)
        reader = Reader(self.samples, self.transform)
        promise = promised(self.plan)
        began = time.monotonic()
        with settings_of(self.plan):
            for unit, batches in _by_unit(self._batches(store, units, reader), self.plan, units):
                rows: list[Row] = []
                maps: dict[str, list[Array]] = {name: [] for name in self.plan.arrays}
                for batch in batches:
                    for row, own in self.explain(model, batch):
                        rows.append(row)
                        for name, values in own.items():
                            maps[name].append(values)
                seconds = time.monotonic() - began
                origin = Origin(socket.gethostname(), datetime.now(UTC), seconds, self.attempt)
                whole = {name: np.stack(own) for name, own in maps.items()}
                report(store.commit(unit, whole, rows, promise, origin))
                began = time.monotonic()

    def _batches(
        self, store: Store, units: Sequence[int], reader: Reader
    ) -> Iterator[list[Prepared]]:
        def numbers() -> Iterator[list[int]]:
            for unit in units:
                if not store.has(unit):
                    yield from cut(self.plan, unit)

        return minibatches(reader, numbers(), self.workers)

    def explain(
        self, model: nn.Module, batch: Sequence[Prepared]
    ) -> Iterator[tuple[Row, dict[str, Array]]]:
        """Return a row and what is stored of its maps for each sample of a minibatch."""
        answers = self.answers(model, batch)
        for sample in batch:
            answer = answers[sample.number]
            for rank in range(self.plan.targets):
                found = answer if isinstance(answer, str) else answer[rank]
                yield self._row(sample, rank, found)

    def answers(self, model: nn.Module, batch: Sequence[Prepared]) -> dict[int, list[Found] | str]:
        """Return the maps of a minibatch's samples by number, or why there are none.

        Samples of one kind and shape go through the model together.
        """
        found: dict[int, list[Found] | str] = {}
        groups: dict[Any, list[Prepared]] = {}
        for sample in batch:
            if sample.value is None:
                found[sample.number] = sample.error or "it could not be read"
            else:
                groups.setdefault(kind_of(sample.value), []).append(sample)
        for group in groups.values():
            inputs = stacked([s.value for s in group if s.value is not None], self.device)
            gpus = [torch.device(self.device)] if self.plan.device == "cuda" else []
            with torch.random.fork_rng(gpus):
                torch.manual_seed(group[0].number)  # of methods that draw without a seed
                answers = explained(
                    model,
                    inputs,
                    [self.samples.ids[s.number] for s in group],
                    [s.label for s in group],
                    self.asked,
                )
            found |= {s.number: answer for s, answer in zip(group, answers, strict=True)}
        return found

    def _row(self, sample: Prepared, rank: int, found: Found | str) -> tuple[Row, dict[str, Array]]:
        plan = self.plan
        place = _place(plan, sample.number)
        row = Row(
            row=place * plan.targets + rank,
            id=str(self.samples.ids[sample.number]),
            rank=rank,
            label=sample.label,
        )
        nothing = {name: empty(own, plan.dtype) for name, (own, _) in plan.arrays.items()}
        if isinstance(found, str):
            return replace(row, error=found), nothing
        maps = (found.map, *found.more.values())
        try:
            check_stages(found.numbers, plan)
            if tuple(found.dims) != plan.inputs:
                raise InputError(
                    f"it holds {', '.join(found.dims) or 'one tensor'}, the first samples "
                    f"{', '.join(plan.inputs) or 'one tensor'}"
                )
            values = {
                name: fitted(own, *plan.arrays[name], plan)
                for name, own in zip(plan.arrays, maps, strict=True)
            }
        except FullGradError as error:
            return replace(row, error=one_line(error)), nothing
        coded = {name: quantized(own, plan.dtype) for name, own in values.items()}
        _, scale, zero = coded[MAP]
        row = replace(
            row,
            target=found.target,
            prediction=found.prediction,
            numbers=found.numbers,
            scale=scale,
            zero=zero,
            shape=found.map.shape,
            tokens=found.tokens,
            more={
                name: (*coded[f"{MAP}.{name}"][1:], found.more[name].shape) for name in plan.more
            },
        )
        return row, {name: stored for name, (stored, _, _) in coded.items()}


def _work(files: dict[str, str], content: bytes) -> Work:
    return Work(*unpickled(files, content, ModelLoadError))


def fitted(values: Array, positions: tuple[int, ...], dims: tuple[str, ...], plan: Plan) -> Array:
    """Return a map in the shape that is stored; texts have zeros after their last token.

    Raises:
        InputError: it has another shape, and there is no grid to pool it to; or a text is longer
            than what is stored.
    """
    if plan.grid is not None and plan.grid == positions and values.ndim == len(positions):
        return pooled(values, positions, plan.pooling)
    if dims == TEXT and values.ndim == 1:
        if len(values) > positions[0]:
            raise InputError(
                f"it has {len(values)} tokens, this store keeps {positions[0]}: a store with "
                f"tokens={len(values)} keeps all of them"
            )
        return np.pad(values, (0, positions[0] - len(values)))
    if values.shape != positions:
        own, wanted = (" x ".join(map(str, s)) for s in (values.shape, positions))
        raise InputError(
            f"its map is {own}, those of this store {wanted}: maps of unequal sizes need grid="
        )
    return values


def check_stages(numbers: Mapping[str, float], plan: Plan) -> None:
    """Refuse numbers of a stage that has no column.

    Raises:
        InputError: naming it.
    """
    known = {"share.input", *(f"share.{stage}" for stage in plan.stages)}
    for name in numbers:
        if name.startswith("share.") and name not in known:
            raise InputError(
                f"the model ran stage {name.removeprefix('share.')!r} for it, which it did not run "
                "for the first samples, by which the columns of the index were chosen"
            )


def _place(plan: Plan, number: int) -> int:
    """Where a sample stands among those of all units, each with room for ``plan.unit``."""
    if plan.sizes is None:
        return number
    for unit, size in enumerate(plan.sizes):
        if number < size:
            return unit * plan.unit + number
        number -= size
    raise IndexError(number)


def cut(plan: Plan, unit: int) -> list[list[int]]:
    """Return the numbers of the samples of each minibatch of a unit."""
    members = plan.members(unit)
    return [
        list(members[start : start + plan.batch_size])
        for start in range(0, len(members), plan.batch_size)
    ]


def _by_unit(
    batches: Iterator[list[Prepared]], plan: Plan, units: Sequence[int]
) -> Iterator[tuple[int, Iterator[list[Prepared]]]]:
    """Minibatches as they come, those of a unit together; a unit's must be used up."""
    unit_of = {plan.members(u).start: u for u in units}
    for first in batches:
        unit = unit_of[first[0].number]
        yield unit, chain([first], islice(batches, len(cut(plan, unit)) - 1))


@contextmanager
def settings_of(plan: Plan) -> Iterator[None]:
    """Set PyTorch's threads and determinism as a plan says, and put them back."""
    threads, before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(plan.threads)
    if plan.deterministic:
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(before)


def promised(plan: Plan) -> str:
    """``bytes`` where this machine gives the plan's bytes again; ``close`` elsewhere."""
    return "bytes" if plan.device == "cpu" and environment() == plan.environment else "close"

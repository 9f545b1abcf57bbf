"""Maps of a whole data set: planned, computed by an executor, resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad._files import AnyPath, printable
from fullgrad.datasets.encoding import Dtype
from fullgrad.datasets.executors import Executor, executor_of
from fullgrad.datasets.explaining import PREDICTED, TargetSpec, question
from fullgrad.datasets.files import Local, files_at
from fullgrad.datasets.plan import Plan
from fullgrad.datasets.planning import Estimate, Trial, Wishes, estimate, planned, subject_of
from fullgrad.datasets.progress import Line, Meter, OnProgress, Summary
from fullgrad.datasets.sources import Data, open_samples
from fullgrad.datasets.store import Store, Written, check_same, read_plan
from fullgrad.datasets.work import Work
from fullgrad.errors import TargetError, UsageError
from fullgrad.maps.minibatches import BatchSize
from fullgrad.methods import Method
from fullgrad.vision.models import LoadedModel


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Holds a run that can be begun; nothing has been written.

    Args:
        work: of one process.
        store: where the maps are going to be.
        units: that the run is to see done.
        done: of these, those that are there.
        trial: of the first sample; None where the store had a plan.
    """

    work: Work
    store: Store
    units: tuple[int, ...]
    done: tuple[int, ...]
    trial: Trial | None

    @property
    def plan(self) -> Plan:
        """What fixes the numbers."""
        return self.work.plan

    @property
    def left(self) -> list[int]:
        """Units that are to be computed."""
        there = set(self.done)
        return [unit for unit in self.units if unit not in there]

    def samples_of(self, units: Sequence[int]) -> int:
        """Return how many samples units have."""
        return sum(len(self.plan.members(unit)) for unit in units)


def part_of(units: int, part: tuple[int, int] | None) -> tuple[int, ...]:
    """Return the units of part i of n, every n-th one, so that parts are alike.

    Args:
        units: how many there are.
        part: (i, n), i from 0; None for all of them.

    Raises:
        UsageError: there is no such part.

    Example:
        >>> part_of(7, (1, 3))
        (1, 4)
    """
    if part is None:
        return tuple(range(units))
    i, n = part
    if type(i) is not int or type(n) is not int or not 0 <= i < n:
        raise UsageError(f"part must be (i, n) with 0 <= i < n, not {part!r}")
    return tuple(range(i, units, n))


def map(
    data: Data,
    model: nn.Module | LoadedModel,
    out: AnyPath,
    *,
    method: str | Method | Callable[..., Tensor] | None = None,
    options: Mapping[str, Any] | None = None,
    target: TargetSpec | None = PREDICTED,
    top: int | None = None,
    transform: Callable[[Any], Any] | None = None,
    ids: Sequence[str] | None = None,
    labels: str | None = None,
    limit: int | None = None,
    class_names: Sequence[str] | None = None,
    batch_size: BatchSize = None,
    unit: int | None = None,
    dtype: Dtype = "float16",
    grid: Sequence[int] | None = None,
    tokens: int | None = None,
    depth: int = 1,
    deterministic: bool = False,
    threads: int | None = None,
    device: str | torch.device | None = None,
    workers: int = 0,
    processes: int = 1,
    executor: str | Executor = "here",
    part: tuple[int, int] | None = None,
    check: bool = False,
    progress: bool | OnProgress = False,
) -> Summary:
    """Compute and store the maps of a data set; what is there already is not computed again.

    The data are cut into units. Each is stored whole or not at all, so the run can be stopped at
    any moment and begun again, and several runs can work on one store. A sample that cannot be read
    or explained is a row of the index with its error.

    Args:
        data: see :func:`fullgrad.datasets.sources.open_samples`.
        model: any ``nn.Module``; for images one of :func:`fullgrad.vision.models.load_model`, which
            brings its preprocessing, or ``transform``.
        out: folder or fsspec address (``s3://bucket/maps``) of the store.
        method: see :func:`fullgrad.methods.attribute`; None for ``fullgrad.methods.RECOMMENDED``.
        options: of the method and of the call.
        target: ``"predicted"`` or None; ``"true"`` for the class that the data give; a class; a
            list of classes, each with its own map; a class for each id; or a function of the
            model's output, see :func:`fullgrad.methods.attribute`.
        top: instead of ``target``: this many classes with the highest outputs, a map for each.
        transform: from a sample, an image of Pillow's or a text, to the model's input, without
            the batch axis: a tensor, or several by the names of the model's arguments, of which
            token ids, images and sounds are explained; see
            :func:`fullgrad.interop.hugging_face.explain`. A tokenizer is one.
        ids: see :func:`fullgrad.datasets.sources.open_samples`.
        labels: see :func:`fullgrad.datasets.sources.open_samples`.
        limit: the first samples alone.
        class_names: kept in the plan, for those who look at the store, and the names of folders
            with ``labels="folder"``; None: those of a loaded model.
        batch_size: samples that go through the model together; ``"auto"``: as many as fit half of
            the free memory, chosen once for the whole store; None: 8 on a CPU, 32 on a GPU.
        unit: samples in a unit, 256 where nothing is said.
        dtype: of the stored numbers: ``float16``, ``uint8`` or ``float32``; each map has a scale.
        grid: cells along each axis to which maps are pooled, as ``(14, 14)``; None keeps the
            model's resolution. With several inputs it pools the maps that have as many axes.
        tokens: kept of each text, 512 where nothing is said: shorter ones have zeros behind,
            longer ones are rows with an error.
        depth: components of a module's path that make a stage, for the shares in the index.
        deterministic: use PyTorch's deterministic algorithms alone.
        threads: of PyTorch in each process; None: those of this process, divided by ``processes``.
        device: where the model runs; None: where it is, or what a loaded model says.
        workers: processes that decode, for each process that computes.
        processes: that compute, each with its own copy of the model; on GPUs the k-th process
            takes the k-th GPU.
        executor: ``"here"``, ``"torchrun"``, ``"ray"``, or an
            :class:`fullgrad.datasets.executors.Executor`.
        part: (i, n) computes every n-th unit from the i-th on, for jobs of an array.
        check: read every shard that is there and compare its digest; otherwise lengths are.
        progress: True shows a line on standard error; a function is called with it.

    Returns:
        What came of it; :func:`fullgrad.datasets.open` reads the store.

    Raises:
        StoreError: the store cannot be written to, or holds maps of other settings, which are
            named.
        DataError: nothing there, an id twice, or nothing that can be read.
        FullGradError: no sample can be explained; see :func:`fullgrad.methods.attribute`.
        ValueError: a value that an option cannot have.

    Example:
        >>> import tempfile, torch, fullgrad
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten())
        >>> data = [torch.rand(3, 8, 8) for _ in range(5)]
        >>> out = tempfile.mkdtemp()
        >>> how = {"method": "complete_fullgrad", "unit": 2}
        >>> done = fullgrad.datasets.map(data, model, out, **how)
        >>> done.units_written, done.errors, done.complete
        (3, 0, True)
        >>> store = fullgrad.datasets.open(out)
        >>> store.maps.shape, list(store.index["id"])
        ((5, 8, 8), ['0', '1', '2', '3', '4'])
        >>> fullgrad.datasets.map(data, model, out, **how).units_written  # all is there
        0
    """
    chosen = executor_of(executor, processes)
    ready = prepare(
        data,
        model,
        out,
        method=method,
        options=options,
        target=target,
        top=top,
        transform=transform,
        ids=ids,
        labels=labels,
        limit=limit,
        class_names=class_names,
        batch_size=batch_size,
        unit=unit,
        dtype=dtype,
        grid=grid,
        tokens=tokens,
        depth=depth,
        deterministic=deterministic,
        threads=threads,
        device=device,
        workers=workers,
        processes=processes,
        part=chosen.part(part),
    )
    return run(ready, chosen, check=check, progress=progress)


def prepare(
    data: Data,
    model: nn.Module | LoadedModel,
    out: AnyPath,
    *,
    method: str | Method | Callable[..., Tensor] | None = None,
    options: Mapping[str, Any] | None = None,
    target: TargetSpec | None = PREDICTED,
    top: int | None = None,
    transform: Callable[[Any], Any] | None = None,
    ids: Sequence[str] | None = None,
    labels: str | None = None,
    limit: int | None = None,
    class_names: Sequence[str] | None = None,
    batch_size: BatchSize = None,
    unit: int | None = None,
    dtype: Dtype = "float16",
    grid: Sequence[int] | None = None,
    tokens: int | None = None,
    depth: int = 1,
    deterministic: bool = False,
    threads: int | None = None,
    device: str | torch.device | None = None,
    workers: int = 0,
    processes: int = 1,
    part: tuple[int, int] | None = None,
) -> Prepared:
    """Check everything and plan, without writing; the arguments are those of :func:`map`.

    Returns:
        What :func:`run` and :func:`estimated` take.

    Raises:
        ValueError: a value that an option cannot have.
        FullGradError: as of :func:`map`.
    """
    for name, value, least in (("workers", workers, 0), ("limit", limit, 1), ("depth", depth, 1)):
        if value is not None and (type(value) is not int or value < least):
            raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
    inner = transform.func if isinstance(transform, partial) else transform
    tokenizer = inner if hasattr(inner, "convert_ids_to_tokens") else None
    asked = question(method, options, target, top, depth, tokenizer)
    wishes = Wishes(
        unit=unit, batch_size=batch_size, threads=threads, processes=processes, tokens=tokens
    )
    subject = subject_of(model, transform, class_names, device)
    samples = open_samples(data, ids=ids, labels=labels, class_names=subject.class_names)
    samples = samples if limit is None else samples.first(limit)
    if isinstance(target, Mapping):
        missing = [i for i in samples.ids if i not in target]
        if missing:
            raise TargetError(
                f"there is no target for {printable(missing[0])} ({len(missing)} of {len(samples)} "
                "samples have none)"
            )
    files = files_at(out)
    there = read_plan(files)
    plan, trial = planned(
        subject,
        samples,
        asked,
        wishes,
        dtype=dtype,
        grid=grid,
        deterministic=deterministic,
        there=there,
    )
    if there is not None:
        check_same(plan, there, files.address)
    work = Work(
        address=files.address,
        plan=plan,
        model=subject.module,
        samples=samples,
        transform=subject.transform,
        asked=asked,
        device=str(subject.device),
        workers=workers,
    )
    store = Store(files.address, plan)
    units = part_of(plan.units, part)
    done = tuple(sorted(set(store.done()) & set(units)))
    return Prepared(work, store, units, done, trial)


def estimated(ready: Prepared) -> Estimate:
    """Return how long a run is going to take in one process, and how many bytes it will write.

    A minibatch is computed to measure it; nothing is written.
    """
    subject = subject_of(ready.work.model, ready.work.transform, None, ready.work.device)
    trial = ready.trial
    if trial is None:
        from fullgrad.datasets.planning import tried

        trial = tried(subject, ready.work.samples, ready.work.asked)
    left = ready.samples_of(ready.left)
    return estimate(subject, ready.plan, trial, ready.work.asked, left)


def run(
    ready: Prepared, executor: Executor, *, check: bool = False, progress: bool | OnProgress = False
) -> Summary:
    """Compute what is left.

    Args:
        ready: what :func:`prepare` returned.
        executor: who computes.
        check: see :func:`map`.
        progress: see :func:`map`.

    Raises:
        FullGradError: as of :func:`map`; units that were committed stay.
    """
    began = time.monotonic()
    store, plan = ready.store, ready.plan
    store.prepare()
    if isinstance(store.files, Local):
        store.files.sweep()
    damaged: list[str] = []
    whole = store.drop_damaged(ready.done, damaged.append, check=check)
    left = [unit for unit in ready.units if unit not in whole]
    tell: OnProgress = progress if callable(progress) else Line() if progress else lambda _: None
    counts = [ready.samples_of(units) * plan.targets for units in (sorted(whole), ready.units)]
    meter = Meter(counts[0], counts[1], tell)
    written: list[Written] = []

    def report(unit: Written) -> None:
        written.append(unit)
        meter.add(unit.rows, unit.errors)

    if left:
        executor.run(ready.work, left, report)
    own = [w for w in written if w.first]
    return Summary(
        address=store.files.address,
        digest=plan.digest,
        units=len(ready.units),
        units_done=len(set(store.done()) & set(ready.units)),
        units_written=len(own),
        maps=sum(w.rows for w in own),
        errors=sum(w.errors for w in own),
        errors_there=sum(f.errors for f in whole.values()) + sum(w.errors for w in written),
        bytes=sum(w.bytes for w in own),
        seconds=time.monotonic() - began,
        damaged=tuple(damaged),
    )

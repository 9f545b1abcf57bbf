"""From what was asked for to a plan: the model's digest, one sample tried, sizes chosen once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fullgrad import methods
from fullgrad._code import code_digest
from fullgrad._files import printable
from fullgrad.datasets import encoding
from fullgrad.datasets._described import file_digest, model_digest, plain, short
from fullgrad.datasets._fitting import check_names, check_tokens
from fullgrad.datasets._inputs import DIMS, stacked
from fullgrad.datasets.encoding import Array, Dtype
from fullgrad.datasets.explaining import Found, Question, explained
from fullgrad.datasets.index import SHARE
from fullgrad.datasets.plan import TEXT, Plan, environment
from fullgrad.datasets.samples import Prepared, Reader, Samples
from fullgrad.datasets.work import fitted, settings_of
from fullgrad.engine.request import Request
from fullgrad.errors import InputError, UsageError
from fullgrad.evaluation.sources import DataError
from fullgrad.maps.minibatches import BatchSize, check_size, largest_minibatch
from fullgrad.vision.images import Photograph, input_of, preprocess, to_rgb
from fullgrad.vision.models import LoadedModel

_TRIED = 20  # samples, until one can be read and explained
_LARGEST = 256  # minibatch that "auto" chooses
_TOKENS = 512  # kept of a text
_CODE = ("fullgrad.methods", "fullgrad.datasets.explaining", "fullgrad.datasets.encoding")


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A model, and how samples become its inputs.

    Args:
        module: the model.
        name: of it.
        weights: where they come from, in words.
        transform: from an image to a tensor; None if samples are tensors.
        described: how samples are transformed, for the plan.
        class_names: if they are known.
        device: where the model runs.
        source: digest of the Python file that makes the model; empty for other models.
    """

    module: nn.Module
    name: str
    weights: str
    transform: Callable[[Any], Any] | None
    described: Any
    class_names: tuple[str, ...] | None
    device: torch.device
    source: str = ""


@dataclass(frozen=True, slots=True)
class _Preprocess:
    """A model's own preparation of images; picklable."""

    preprocessing: Any
    whole: ClassVar[bool] = True  # takes a file with all its channels

    def __call__(self, image: Any) -> Tensor:
        if isinstance(image, Photograph):
            return input_of(image, self.preprocessing)
        if not hasattr(image, "convert"):
            raise InputError(
                f"a sample is a {type(image).__name__}, no image, which this model's preprocessing "
                "takes: give transform= (--transform on the command line)"
            )
        return preprocess(to_rgb(image), self.preprocessing)


def subject_of(
    model: nn.Module | LoadedModel,
    transform: Callable[[Any], Any] | None,
    class_names: Sequence[str] | None,
    device: str | torch.device | None,
) -> Subject:
    """Return a model with its preparation.

    Raises:
        UsageError: neither a module nor a loaded model, or class names that are one text.
    """
    if isinstance(class_names, str):
        raise UsageError(f"class_names is a list of names, not one text: {class_names!r:.60}")
    own = transform if transform is None else plain(transform)
    if isinstance(model, LoadedModel):
        where = torch.device(device) if device is not None else model.device
        if transform is None:
            transform, own = _Preprocess(model.preprocessing), plain(asdict(model.preprocessing))
        names = model.class_names if class_names is None else tuple(class_names)
        return Subject(
            model.module, model.spec, model.weights, transform, own, names, where, model.source
        )
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"model must be an nn.Module or load_model()'s, not {type(model).__name__}"
        )
    first = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    where = first if device is None else torch.device(device)
    kind = type(model)
    name = f"{kind.__module__}.{kind.__qualname__}"
    names = None if class_names is None else tuple(class_names)
    return Subject(model, name, "as they are", transform, own, names, where)


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What the first sample that can be explained tells.

    Args:
        id: of the sample that was tried.
        sample: as the model takes it.
        found: its first map.
        stages: whose shares it has, in order of execution.
    """

    id: str
    sample: Prepared
    found: Found
    stages: tuple[str, ...]


def tried(subject: Subject, samples: Samples, asked: Question) -> Trial:
    """Explain the first sample that can be.

    Raises:
        DataError: none of the first samples can be read.
        UsageError: another number of class names than of classes.
        FullGradError: the method fails for all of those that can be read.
    """
    reader = Reader(samples, subject.transform)
    unread = ""
    failure = ""
    for number in range(min(len(samples), _TRIED)):
        sample = reader[number]
        if sample.value is None:
            unread = unread or f"{samples.ids[number]}: {sample.error}"
            continue
        inputs = stacked([sample.value], subject.device)
        module = subject.module.to(subject.device)
        (answer,) = explained(module, inputs, [samples.ids[number]], [sample.label], asked)
        if isinstance(answer, str):
            failure = failure or answer
            continue
        check_names(subject.class_names, module, inputs)
        stages = [n.removeprefix(SHARE) for n in answer[0].numbers if n.startswith(SHARE)]
        own = tuple(s for s in stages if s != "input")
        return Trial(samples.ids[number], sample, answer[0], own)
    if failure:
        raise UsageError(f"none of the first samples can be explained: {failure}")
    raise DataError(f"none of the first samples of {printable(samples.spec)} can be read: {unread}")


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a caller may leave open; None is chosen when planning, or taken from the store's plan.

    Args:
        unit: samples in a unit.
        batch_size: samples that go through the model together, ``"auto"``, or None.
        threads: of PyTorch in each process.
        processes: that will compute, for the choice of threads.
        tokens: kept of each text.
    """

    unit: int | None = None
    batch_size: BatchSize = None
    threads: int | None = None
    processes: int = 1
    tokens: int | None = None

    def __post_init__(self) -> None:
        check_size(self.batch_size, None)
        for name in ("unit", "threads", "processes", "tokens"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} must be a positive integer, not {value!r}")


def planned(
    subject: Subject,
    samples: Samples,
    asked: Question,
    wishes: Wishes,
    *,
    dtype: Dtype = "float16",
    grid: Sequence[int] | None = None,
    deterministic: bool = False,
    there: Plan | None = None,
) -> tuple[Plan, Trial | None]:
    """Return the plan, and the trial if one was needed.

    Args:
        subject: the model.
        samples: the data.
        asked: what is explained.
        wishes: what may be left open.
        dtype: of the stored numbers.
        grid: cells to which maps are pooled; None for native resolution.
        deterministic: whether PyTorch uses deterministic algorithms alone.
        there: the store's plan, if it has one; what is left open is taken from it.

    Raises:
        FullGradError: nothing can be read or explained.
        ValueError: an unknown dtype, or a grid that cannot be.
    """
    if dtype not in encoding.DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(encoding.DTYPES)}, not {dtype!r}")
    if grid is not None and (not grid or not all(type(g) is int and g > 0 for g in grid)):
        raise ValueError(f"grid must be positive integers, one for each axis, not {grid!r}")
    if samples.sizes is not None:
        if wishes.unit is not None:
            raise UsageError("unit= does not apply to archives: each archive is a unit")
        unit = max(samples.sizes)
    else:
        unit = wishes.unit or (there.unit if there else 256)
    code = code_digest(*_CODE) + source_of(asked)
    kind = subject.device.type
    base = Plan(
        data={
            "spec": samples.spec,
            "samples": len(samples),
            "digest": samples.digest,
            "transform": subject.described,
        },
        model={
            "name": subject.name,
            "weights": subject.weights,
            "digest": model_digest(subject.module, subject.source),
        },
        method=asked.method.name,
        options=plain(asked.settings()),
        target=asked.described(),
        targets=asked.targets,
        unit=unit,
        sizes=samples.sizes,
        batch_size=wishes.batch_size if isinstance(wishes.batch_size, int) else 0,
        dtype=dtype,
        grid=None if grid is None else tuple(grid),
        pooling="sum" if asked.method.complete else "mean",
        positions=(),
        dims=(),
        stages=(),
        depth=asked.depth,
        class_names=subject.class_names,
        threads=wishes.threads or 0,
        device=kind,
        deterministic=deterministic,
        code=code,
        environment=environment(),
        chosen={"by": "default", "reason": methods.REASON} if asked.by_default else {"by": "given"},
    )

    def kept(positions: tuple[int, ...], dims: tuple[str, ...]) -> tuple[int, ...]:
        whole = dims != TEXT or wishes.tokens is None or positions == base.grid
        return positions if whole else (wishes.tokens or 0,)

    if there is not None:  # it has been tried already; what differs is refused by the store
        check_tokens(wishes.tokens, [dims for _, dims in there.arrays.values()])
        return replace(
            base,
            batch_size=base.batch_size or there.batch_size,
            threads=base.threads or there.threads,
            positions=kept(there.positions, there.dims),
            dims=there.dims,
            stages=there.stages,
            inputs=there.inputs,
            more={
                name: {**own, "positions": kept(tuple(own["positions"]), tuple(own["dims"]))}
                for name, own in there.more.items()
            },
            environment=there.environment,
        ), None
    threads = base.threads or max(1, torch.get_num_threads() // wishes.processes)
    with settings_of(replace(base, threads=threads)):
        trial = tried(subject, samples, asked)
    found = trial.found
    names = tuple(found.dims)
    dims = [*found.dims.values()] or [DIMS[found.map.ndim]]
    check_tokens(wishes.tokens, dims)
    shapes = [
        positions_of(values, own, base, wishes.tokens or _TOKENS, alone=len(dims) == 1)
        for values, own in zip((found.map, *found.more.values()), dims, strict=True)
    ]
    return replace(
        base,
        batch_size=_batch_size(wishes.batch_size, subject, trial, asked, unit),
        threads=threads,
        positions=shapes[0],
        dims=dims[0],
        stages=trial.stages,
        inputs=names,
        more={
            name: {"positions": shape, "dims": own}
            for name, shape, own in list(zip(names, shapes, dims, strict=False))[1:]
        },
    ), trial


def positions_of(
    values: Array, dims: tuple[str, ...], plan: Plan, tokens: int, *, alone: bool
) -> tuple[int, ...]:
    """Return the shape in which maps like this one are stored.

    Args:
        values: a map.
        dims: names of its axes.
        plan: says whether and how maps are pooled.
        tokens: kept of each text.
        alone: whether there is one input; of several a grid pools those with as many axes.

    Raises:
        InputError: a grid that does not fit.
    """
    if plan.grid is not None and (alone or len(plan.grid) == values.ndim):
        encoding.pooled(values, plan.grid, plan.pooling)
        return plan.grid
    return (tokens,) if dims == TEXT else tuple(int(n) for n in values.shape)


def source_of(asked: Question) -> str:
    """The digest of a user's method or target, after a hyphen; empty for the library's own.

    The whole file that a function stands in counts, since it may call others in it.
    """
    given = [f for f in (asked.method.function, asked.target) if callable(f)]
    inner = [f.func if isinstance(f, partial) else f for f in given]
    own = [f for f, i in zip(given, inner, strict=True) if not _is_ours(i)]
    return "".join(f"-{short((repr(plain(f)) + file_digest(f)).encode())}" for f in own)


def _is_ours(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith("fullgrad.")


def _batch_size(wish: BatchSize, subject: Subject, trial: Trial, asked: Question, unit: int) -> int:
    """The number of samples that go through the model together."""
    if isinstance(wish, int):
        return wish
    if wish is None:
        return min(unit, 8 if subject.device.type == "cpu" else 32)
    if trial.sample.value is None:
        raise InputError("no sample to measure memory on")
    if isinstance(trial.sample.value, dict):
        raise UsageError(
            "batch_size='auto' measures models of one tensor, and these samples hold "
            f"{', '.join(trial.sample.value)}: give a number"
        )
    inputs = trial.sample.value[None].to(subject.device)
    return min(unit, _LARGEST, largest_minibatch(Request(subject.module, inputs), None))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run is going to take.

    Args:
        maps: that are to be computed.
        seconds: in one process, loading not counted.
        bytes: of all shards.
    """

    maps: int
    seconds: float
    bytes: int


def estimate(subject: Subject, plan: Plan, trial: Trial, asked: Question, left: int) -> Estimate:
    """Measure one minibatch of copies of a sample, and what its map takes.

    Args:
        subject: the model.
        plan: of the store.
        trial: the sample.
        asked: what is explained.
        left: samples that are to be done.
    """
    assert trial.sample.value is not None
    count = min(plan.batch_size, max(left, 1))
    inputs = stacked([trial.sample.value] * count, subject.device)
    labels = [trial.sample.label] * count
    with settings_of(plan):
        began = time.monotonic()
        explained(subject.module, inputs, [trial.id] * count, labels, asked)
        seconds = time.monotonic() - began
    one = 0
    for values, (positions, dims) in zip(
        (trial.found.map, *trial.found.more.values()), plan.arrays.values(), strict=True
    ):
        stored, _, _ = encoding.quantized(fitted(values, positions, dims, plan), plan.dtype)
        one += len(encoding.shard(np.stack([stored]), 1, dims))
    maps = left * plan.targets
    return Estimate(maps, seconds / count * left, one * maps)

"""More samples than fit at once: a call cut into minibatches, and how large they may be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from fullgrad.axes.layouts import InputLayout, input_layouts
from fullgrad.engine.inputs import Inputs, check, explained_names
from fullgrad.engine.pipeline import forward
from fullgrad.engine.request import Request
from fullgrad.engine.targets import Described, Several
from fullgrad.engine.wrappers import unwrap
from fullgrad.errors import InputError, OptionError, TargetError

BatchSize: TypeAlias = int | Literal["auto"] | None

# Beside what autograd keeps: the gradients under way and a few samples of a term.
_BESIDE = 1.25
_SHARE = 0.5  # of what is free


def sample_axes(inputs: Inputs, layout: InputLayout) -> list[int]:
    """Which axis of each input counts the samples: the first where no layout says otherwise.

    Raises:
        InputError: inputs that cannot be explained, with a layout.
        LayoutError: a layout that does not fit.
    """
    values = _values(inputs)
    axes = [0] * len(values)
    if layout is not None:
        check(inputs)
        explained = [i for i, x in enumerate(values) if x.is_floating_point() or x.is_complex()]
        shapes = [values[i].shape for i in explained]
        layouts = input_layouts(shapes, explained_names(inputs), layout)
        for k, i in enumerate(explained):
            axes[i] = layouts.batch_axis(k)
    return axes


def _values(inputs: Inputs) -> list[Tensor]:
    if isinstance(inputs, Tensor):
        return [inputs]
    return list(inputs.values() if isinstance(inputs, Mapping) else inputs)


def _first(request: Request) -> Tensor:
    """The first input, samples first."""
    first = next(iter(_values(request.inputs)), None)
    if not isinstance(first, Tensor) or first.dim() == 0:
        raise InputError("batch_size needs inputs whose first axis counts the samples")
    return first.movedim(sample_axes(request.inputs, request.layout)[0], 0)


def samples_of(request: Request) -> int:
    """How many samples a call has.

    Raises:
        InputError: inputs without an axis that counts them.
    """
    return len(_first(request))


def cut(request: Request, rows: slice) -> Request:
    """The same call for some of its samples.

    Inputs are cut along the axis that counts the samples. Tensors among the additional arguments
    are cut as well if their first size is the number of samples.
    """
    return _changed(request, lambda t: t[rows], lambda listed: listed[rows])


def tiled(request: Request, times: int) -> Request:
    """The same call for copies of all its samples, one round after the other."""
    return _changed(request, lambda t: torch.cat([t] * times), lambda listed: listed * times)


def _changed(
    request: Request, change: Callable[[Tensor], Tensor], change_list: Callable[[Any], Any]
) -> Request:
    """The call with everything changed that has a row, or a target, for each sample."""
    count = len(_first(request))

    def each(value: Any, axes: Iterator[int]) -> Any:
        if isinstance(value, Tensor):
            axis = next(axes)
            if value.dim() == 0 or value.shape[axis] != count:
                return value
            return change(value.movedim(axis, 0)).movedim(0, axis)
        if isinstance(value, Mapping):
            return {k: each(v, axes) for k, v in value.items()}
        if isinstance(value, (tuple, list)):
            return type(value)(each(v, axes) for v in value)
        return value

    first = repeat(0)
    return replace(
        request,
        inputs=each(request.inputs, iter(sample_axes(request.inputs, request.layout))),
        target=with_rows(request.target, count, change, change_list),
        additional_forward_args=each(request.additional_forward_args, first),
        forward_kwargs=each(request.forward_kwargs, first),
    )


def with_rows(
    target: Any, count: int, change: Callable[[Tensor], Tensor], change_list: Callable[[Any], Any]
) -> Any:
    """A target whose part for each sample is changed; one for all samples as it is.

    Args:
        target: any.
        count: number of samples.
        change: of a tensor, samples first.
        change_list: of a list with one item for each sample.

    Raises:
        TargetError: parts for another number of samples.
    """
    if isinstance(target, Several):
        if target.each_sample:
            return Several(change_list(target.rows_of(count)), each_sample=True)
        row = [with_rows(each, count, change, change_list) for each in target.rows[0]]
        return Several([row])
    if isinstance(target, Described):
        return target.changed(lambda part: with_rows(part, count, change, change_list))
    if isinstance(target, np.ndarray):
        target = target.tolist()
    if not isinstance(target, list) and not (isinstance(target, Tensor) and target.dim() > 0):
        return target
    if len(target) != count:
        raise TargetError(f"{len(target)} targets for a batch of {count}")
    return change(target) if isinstance(target, Tensor) else change_list(target)


def bytes_per_sample(request: Request) -> int:
    """What explaining one sample takes: what autograd keeps of it, and some room beside.

    Measured on the first sample, in one forward pass.
    """
    first = cut(request, slice(0, 1))
    own = {t.untyped_storage().data_ptr() for t in _own(unwrap(request.model))}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no storage is counted under another's address

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        forward(first)
    return max(1, int(sum(sizes.values()) * _BESIDE))


def _own(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device; on the CPU what the system calls available.

    Raises:
        OptionError: the system does not tell.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(x for x in lines if x.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError) as error:  # macOS and Windows
        raise OptionError(
            "batch_size='auto' needs to know how much memory is free, and this system does not "
            "tell: pass memory= in bytes as well, or batch_size= as a number"
        ) from error


def largest_minibatch(request: Request, memory: int | None) -> int:
    """The most samples that fit, at least one.

    Args:
        request: the call.
        memory: bytes it may take; None for half of what is free.
    """
    budget = int(free_bytes(_first(request).device) * _SHARE) if memory is None else memory
    return max(1, budget // bytes_per_sample(request))


def check_size(batch_size: Any, memory: Any, *, per_sample: bool = True) -> None:
    """Refuse sizes that cannot be.

    Raises:
        ValueError: naming the option.
    """
    if batch_size not in (None, "auto") and (type(batch_size) is not int or batch_size < 1):
        raise ValueError(f"batch_size must be a positive integer or 'auto', not {batch_size!r}")
    if memory is not None:
        if batch_size != "auto":
            raise ValueError("memory needs batch_size='auto'")
        if type(memory) is not int or memory < 1:
            raise ValueError(f"memory must be a positive number of bytes, not {memory!r}")
    if batch_size is not None and not per_sample:
        raise ValueError(
            "per_sample=False explains the sum over the whole batch, which batch_size would cut"
        )


def in_minibatches(
    request: Request,
    compute: Callable[[Request], tuple[Tensor, ...]],
    batch_size: BatchSize,
    memory: int | None,
) -> tuple[Tensor, ...]:
    """Results for every sample, computed some samples at a time.

    A GPU that runs out of memory in spite of an automatic size is tried with half of it.

    Args:
        request: the whole call.
        compute: from a part of the call to its results, samples first in each.
        batch_size: how many samples at a time, ``"auto"``, or None for all of them.
        memory: see :func:`largest_minibatch`.
    """
    if batch_size is None:
        return compute(request)
    count = samples_of(request)
    auto = batch_size == "auto"
    size = min(count, largest_minibatch(request, memory) if batch_size == "auto" else batch_size)
    results: list[tuple[Tensor, ...]] = []
    start = 0
    while start < count or not results:
        part = cut(request, slice(start, start + size)) if count > size else request
        try:
            results.append(compute(part))
        except torch.OutOfMemoryError:
            if not auto or size == 1:
                raise
            size = max(1, size // 2)
            continue
        start += size
    if len(results) == 1:
        return results[0]
    return tuple(torch.cat(r) for r in zip(*results, strict=True))

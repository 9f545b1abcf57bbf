"""From a model's output to one scalar per sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fullgrad.errors import OutputError, TargetError

Target: TypeAlias = (
    int
    | Tensor
    | Sequence[int]
    | tuple[int, ...]
    | Sequence[tuple[int, ...]]
    | Callable[[Any], Tensor]
    | Sequence[Callable[[Any], Tensor]]
    | None
)

# What to do about an output of one sample that lost its first axis.
SQUEEZED = (
    "a squeeze() in the model takes the batch axis of one sample away; name the axes to take away, "
    "as in squeeze(-1) or flatten(1)"
)

# Where the main output stands in dicts and dataclasses of torchvision, timm and transformers.
_MAIN_KEYS = ("logits", "out", "output", "prediction_logits", "last_hidden_state")


@dataclasses.dataclass(frozen=True, slots=True)
class Selected:
    """The explained scalars.

    Args:
        output: shape (B,), inside the autograd graph.
        index: the class index per sample, shape (B,), where the target is one; else None.
        source: which part of the model's output was explained, for the record.
    """

    output: Tensor
    index: Tensor | None
    source: str


def main_tensor(output: Any) -> tuple[Tensor, str]:
    """The float tensor to explain in a model's output, and where it stood.

    A tensor is itself; of a dict or dataclass the entry ``logits``, ``out``, ``output``, ... or
    else its only float tensor; of a tuple the first element, PyTorch's place for the result.

    Raises:
        OutputError: there is none, or the choice is not clear.
    """
    if isinstance(output, Tensor):
        if not output.is_floating_point():
            raise OutputError(
                f"the model's output is of type {output.dtype}, which has no gradient; use a "
                "callable target that returns a float scalar per sample"
            )
        return output, "output"
    if isinstance(output, Mapping):
        entries = {str(k): v for k, v in output.items()}
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        entries = {f.name: getattr(output, f.name) for f in dataclasses.fields(output)}
    elif any(name in _MAIN_KEYS for name in getattr(output, "_fields", ())):  # a named tuple
        entries = output._asdict()
    elif isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        tensor, source = main_tensor(output[0])
        return tensor, f"{source}[0]"
    else:
        raise OutputError(
            f"the model returns {type(output).__name__}, which holds no tensor to explain; use a "
            "callable target that picks one"
        )
    floats = {k: v for k, v in entries.items() if isinstance(v, Tensor) and v.is_floating_point()}
    for key in _MAIN_KEYS:
        if key in floats:
            return floats[key], f"output[{key!r}]"
    if len(floats) == 1:
        key, tensor = next(iter(floats.items()))
        return tensor, f"output[{key!r}]"
    raise OutputError(
        f"the model returns {type(output).__name__} with {len(floats)} float tensors "
        f"({', '.join(floats) or 'none'}): use a callable target that picks one"
    )


def _per_sample(target: Any, batch: int) -> list[Any]:
    values = target.tolist() if hasattr(target, "tolist") else list(target)
    if len(values) != batch:
        raise TargetError(f"{len(values)} targets for a batch of {batch} samples")
    return values


def _index_rows(target: Any, batch: int) -> list[tuple[int, ...]]:
    """The target as one tuple of indices per sample."""
    if hasattr(target, "tolist") and getattr(target, "ndim", None) == 0:
        target = target.item()
    if isinstance(target, bool) or isinstance(target, float):
        raise TargetError(f"a target index must be an integer, not {target!r}")
    if isinstance(target, int):
        return [(target,)] * batch
    if isinstance(target, tuple) and all(_is_index(t) for t in target):
        return [tuple(int(t) for t in target)] * batch
    if isinstance(target, Tensor) and (target.is_floating_point() or target.dim() > 2):
        raise TargetError(f"a target tensor must hold integers of shape (batch,): {target.dtype}")
    if (isinstance(target, Sequence) or hasattr(target, "tolist")) and not isinstance(target, str):
        rows = _per_sample(target, batch)
        return [
            tuple(_as_index(v) for v in (r if isinstance(r, (tuple, list)) else (r,))) for r in rows
        ]
    raise TargetError(
        f"a target is an index, one index per sample, a tuple of indices, a callable or None, "
        f"not {type(target).__name__}"
    )


def _is_index(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, (bool, Tensor))


def _as_index(value: Any) -> int:
    if isinstance(value, Tensor) and value.dim() == 0:
        value = value.item()
    if not _is_index(value):
        raise TargetError(f"a target index must be an integer, not {value!r}")
    return int(value)


def _check_rows(rows: Sequence[tuple[int, ...]], shape: Sequence[int]) -> None:
    for row in rows:
        if len(row) != len(shape):
            need = "an index" if len(shape) == 1 else f"a tuple of {len(shape)} indices"
            raise TargetError(
                f"an output of shape (batch, {', '.join(map(str, shape))}) needs {need} per "
                f"sample, not {row if len(row) != 1 else row[0]!r}; or a callable target"
            )
        for i, size in zip(row, shape, strict=True):
            if not 0 <= i < size:
                raise TargetError(f"target {i} is out of range for an output of size {size}")


def _possible_batches(output: Any) -> tuple[int, ...]:
    """The batch comes first, or second behind a sequence; unknown where the output is unusual."""
    try:
        tensor, _ = main_tensor(output)
    except OutputError:
        return ()
    return tuple(tensor.shape[: 2 if tensor.dim() > 2 else 1])


def _called(function: Callable[[Any], Tensor], output: Any) -> Selected:
    value = function(output)
    if not isinstance(value, Tensor) or value.dim() != 1 or not value.is_floating_point():
        what = (
            f"a {value.dtype} tensor of shape {tuple(value.shape)}"
            if isinstance(value, Tensor)
            else type(value).__name__
        )
        raise TargetError(
            f"a callable target must return one float scalar per sample, shape (batch,), not {what}"
        )
    possible = _possible_batches(output)
    if possible and len(value) not in possible:
        raise TargetError(
            f"a callable target must return one float scalar per sample: {possible[0]} samples, "
            f"but {len(value)} scalars"
        )
    return Selected(value, None, getattr(function, "__name__", type(function).__name__))


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, Tensor)


def _called_one_by_one(functions: Sequence[Callable[[Any], Tensor]], output: Any) -> Selected:
    tensor, source = main_tensor(output)
    if len(functions) != len(tensor):
        raise TargetError(f"{len(functions)} targets for a batch of {len(tensor)} samples")
    scalars = [_scalar(target, one) for target, one in zip(functions, tensor, strict=True)]
    return Selected(torch.stack(scalars), None, source)


def _scalar(target: Callable[[Any], Tensor], output: Tensor) -> Tensor:
    value = target(output)
    if not isinstance(value, Tensor) or value.numel() != 1:
        what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TargetError(f"a target must return one number for one sample's output, not {what}")
    return value.reshape(())


def select(output: Any, target: Target, samples: int | None = None) -> Selected:
    """The explained scalar of each sample.

    A single number without an axis for samples is that of the only sample, if there is one.

    Args:
        output: whatever the model returned.
        target: a class index; one index per sample (list or tensor of shape (B,)); a tuple of
            indices into a dense output (class, row, column), or a list of such tuples; a callable
            from the model's output to shape (B,), or a list of them, one for each sample, from its
            output to one number; None for the class with the highest output of
            shape (B, classes), or for the output itself where it has one number per sample.
        samples: how many samples the inputs hold; None if that is not known.

    Raises:
        OutputError: the output holds no float tensor, or NaN or infinite values.
        TargetError: the target does not fit the output.
    """
    if callable(target) and not isinstance(target, Tensor):
        return _called(target, output)
    if isinstance(target, list) and target and all(map(_is_function, target)):
        return _called_one_by_one(target, output)
    tensor, source = main_tensor(output)
    if tensor.dim() == 0 and samples == 1:
        tensor = tensor.reshape(1)
    if tensor.dim() == 0:
        raise TargetError(
            "the model returns a single number for the whole batch (a mean, a sum, or a squeeze() "
            "that should be squeeze(-1)); use a callable target that returns one scalar per sample"
        )
    if tensor.numel() == 0:
        raise OutputError(f"the model's output is empty: shape {tuple(tensor.shape)}")
    batch, rest = tensor.shape[0], tensor.shape[1:]
    if target is None:
        if tensor.dim() == 1:
            return Selected(tensor, None, source)
        if tensor.dim() > 2:
            raise TargetError(
                f"an output of shape {tuple(tensor.shape)} has no single predicted class: give a "
                f"tuple of {tensor.dim() - 1} indices or a callable as target"
            )
        index = tensor.detach().argmax(1)
        return Selected(tensor.gather(1, index[:, None]).squeeze(1), index, source)
    if tensor.dim() == 1:
        raise TargetError(
            "the model returns one number per sample, so there is no class to choose: leave the "
            "target out"
        )
    rows = _index_rows(target, batch)
    _check_rows(rows, rest)
    places = torch.tensor(rows, device=tensor.device, dtype=torch.long)
    where: tuple[Tensor, ...] = (torch.arange(batch, device=tensor.device), *places.unbind(1))
    chosen = tensor[where]
    return Selected(chosen, places[:, 0] if len(rest) == 1 else None, source)

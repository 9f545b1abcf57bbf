"""What a model takes for a sample: one tensor, or tensors by name as tokenizers return them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fullgrad._files import printable
from fullgrad.engine.targets import Target
from fullgrad.errors import InputError
from fullgrad.interop.hugging_face import Explanation, explain
from fullgrad.maps.complete import CompleteMap

Value: TypeAlias = "Tensor | dict[str, Tensor]"

_AXES = {"H": "y", "W": "x", "D": "z", "T": "time"}  # names of axes, by a layout's letters
DIMS: dict[int, tuple[str, ...]] = {1: ("time",), 2: ("y", "x"), 3: ("z", "y", "x")}


def value_of(given: Any) -> Value:
    """A sample as the model takes it; lists of numbers and arrays become tensors.

    Raises:
        InputError: it holds something else.
    """
    if not isinstance(given, Mapping):
        return _tensor(given, "a sample")
    found = {str(n): _tensor(v, f"{n} of a sample") for n, v in given.items() if v is not None}
    if not found:
        raise InputError("a sample is a dict without entries, so it holds no input")
    return found


def _tensor(given: Any, what: str) -> Tensor:
    numbers = hasattr(given, "__array__") and not hasattr(given, "mode")
    if not isinstance(given, Tensor) and (numbers or (isinstance(given, list) and given)):
        try:
            given = torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError):
            numbers = False
    if not isinstance(given, Tensor):
        raise InputError(
            f"{printable(what)} is a {type(given).__name__}, not a tensor: give transform=, which "
            "makes tensors of samples, or a model with its preprocessing (load_model)"
        )
    return given


def kind_of(value: Value) -> Any:
    """What samples have in common that can go through a model together: names, shapes, types."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    return tuple((n, v.shape, v.dtype) for n, v in value.items())


def stacked(values: Sequence[Value], device: Any) -> Value:
    """Samples of one kind as a batch on a device."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.stack([v for v in values if isinstance(v, Tensor)]).to(device)
    named = [v for v in values if isinstance(v, dict)]
    return {name: torch.stack([v[name] for v in named]).to(device) for name in first}


def sample_at(inputs: Value, place: int) -> Value:
    """One sample of a batch, as a batch."""
    if isinstance(inputs, Tensor):
        return inputs[place : place + 1]
    return {name: v[place : place + 1] for name, v in inputs.items()}


def result_of(model: nn.Module, inputs: Value) -> Any:
    """What a model returns for a batch, by position or by name."""
    if isinstance(inputs, Tensor):
        return model(inputs.clone())
    return model(**{name: v.clone() for name, v in inputs.items()})


@dataclass(frozen=True, slots=True, eq=False)
class ByName:
    """The complete maps of a batch of tensors by name.

    Args:
        found: the maps.
        dims: names of the positions' axes, by input.
        tokens: those of each sample's first text; None where no texts are explained.
    """

    found: CompleteMap
    dims: Mapping[str, tuple[str, ...]]
    tokens: tuple[tuple[str, ...], ...] | None


def explained_by_name(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    target: Target,
    whole: Callable[[Callable[..., CompleteMap]], CompleteMap],
    tokenizer: Any,
) -> ByName:
    """Explain a batch of tensors by name: token ids, images and sounds, several together.

    Args:
        model: called with the batch's entries by keyword.
        inputs: the batch.
        target: see :func:`fullgrad.complete_map`.
        whole: makes the map from a function that has the options of
            :func:`fullgrad.interop.hugging_face.explain`.
        tokenizer: tells what tokens are called; None: as numbers.
    """
    last: dict[str, Any] = {}

    def call(**options: Any) -> CompleteMap:
        answer: Explanation = explain(model, inputs, target, tokenizer=tokenizer, **options)
        last.update(answer=answer, layouts=options.get("layouts") or {})
        return answer.found

    found = whole(call)
    answer, layouts = last["answer"], last["layouts"]
    dims = {}
    for name, own in answer.map.items():
        if name in answer.texts:
            dims[name] = ("sentence", "token")[3 - own.dim() + 1 :]
        elif name in layouts:
            dims[name] = tuple(_AXES.get(a, a.lower()) for a in layouts[name] if a not in "BC")
        else:
            dims[name] = DIMS[own.dim() - 2]
    texts = next(iter(answer.texts.values()), None)
    tokens = None if texts is None else tuple(text.tokens for text in texts)
    return ByName(found, dims, tokens)

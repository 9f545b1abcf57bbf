"""What the user passes in: which tensors are explained, and the call with copies of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fullgrad._decisions import decided
from fullgrad.engine._copies import copied
from fullgrad.errors import InputError, ModelError

Inputs: TypeAlias = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
_OTHER_INPUTS = re.compile(r"\.forward\(\) (missing|takes) .* positional argument")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call of the model, ready to be made once.

    ``leaves`` are the explained inputs as autograd leaves, in the user's memory; ``args`` and
    ``kwargs`` hold non-leaf copies of them, and copies of all else, so that a model which works in
    place changes neither.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    leaves: tuple[Tensor, ...]
    names: tuple[str, ...]
    roots: tuple[Any, ...]


def _named(inputs: Any) -> tuple[list[tuple[str, Any]], bool]:
    if isinstance(inputs, Tensor):
        return [("input", inputs)], False
    if isinstance(inputs, Mapping):
        return [(str(k), v) for k, v in inputs.items()], True
    if isinstance(inputs, (tuple, list)):
        if len(inputs) == 1:
            return [("input", inputs[0])], False
        return [(f"input{i}", v) for i, v in enumerate(inputs)], False
    raise InputError(
        f"inputs must be a tensor, a tuple of tensors or a dict of keyword tensors, "
        f"not {type(inputs).__name__}"
    )


def explained_names(inputs: Inputs) -> list[str]:
    """The names of the inputs that are explained: those of float or complex numbers."""
    named, _ = _named(inputs)
    return [name for name, x in named if x.is_floating_point() or x.is_complex()]


def check(inputs: Any) -> None:
    """Refuse inputs that cannot be explained.

    Raises:
        InputError: not tensors, empty, no float tensor among them, NaN or infinite values.
    """
    named, _ = _named(inputs)
    found = False
    for name, value in named:
        if not isinstance(value, Tensor):
            raise InputError(
                f"{name} is a {type(value).__name__}, not a tensor; pass what is not to be "
                "explained through additional_forward_args or forward_kwargs"
            )
        if value.is_nested:
            raise InputError(f"{name} is a nested tensor; pass padded dense tensors")
        if value.layout is not torch.strided:
            raise InputError(f"{name} is sparse; pass a dense one (to_dense())")
        if value.device.type == "meta":
            raise InputError(f"{name} is on the meta device and holds no values")
        if value.device.type == "mps":
            raise InputError(
                f"{name} is on the mps device, which has no float64: sums are proved in float64. "
                "Move the model and its inputs to the CPU (.to('cpu'))"
            )
        if value.is_floating_point() or value.is_complex():
            if value.numel() == 0:
                raise InputError(f"{name} is empty: shape {tuple(value.shape)}")
            if not _finite(value):
                raise InputError(f"{name} holds NaN or infinite values")
            found = True
    if not found:
        raise InputError(
            "no input is a float tensor, so there is no gradient to explain with; for a model of "
            "integer tokens use fullgrad.maps.tokens.attribute_tokens, or pass the embeddings "
            "(inputs_embeds, for example)"
        )


def check_one(value: Any, name: str) -> None:
    """Refuse what is not one batch of samples that can be explained.

    Args:
        value: what was given.
        name: of the argument, for messages.

    Raises:
        InputError: not a tensor with samples on its first axis, or as :func:`check`.
    """
    if not isinstance(value, Tensor) or value.dim() == 0:
        what = "a single number" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"{name} must be a tensor whose first axis counts the samples, not {what}")
    check(value)


def check_keywords(forward_kwargs: Any) -> None:
    """Refuse what cannot be passed to the model by keyword.

    Raises:
        InputError: not a mapping from names.
    """
    if forward_kwargs is None:
        return
    if not isinstance(forward_kwargs, Mapping):
        raise InputError(f"forward_kwargs must be a dict, not {type(forward_kwargs).__name__}")
    wrong = [repr(name) for name in forward_kwargs if not isinstance(name, str)]
    if wrong:
        raise InputError(f"forward_kwargs must have names as keys, not {', '.join(wrong)}")


@contextmanager
def failures_named(inputs: Inputs) -> Iterator[None]:
    """Say of an error of PyTorch's while the model runs which inputs it was given.

    Raises:
        ModelError: in place of a plain ``RuntimeError``, ``IndexError`` or ``ValueError``, of an
            assertion with a message, and of the ``TypeError`` of a ``forward`` that takes another
            number of inputs; with their message.
    """
    try:
        yield
    except (RuntimeError, IndexError, ValueError, AssertionError, TypeError) as error:
        plain = type(error) in (RuntimeError, IndexError, ValueError, AssertionError) and str(error)
        if not plain and not _OTHER_INPUTS.search(str(error)):
            raise
        given = ", ".join(
            f"{name} of shape {tuple(x.shape)} ({str(x.dtype).removeprefix('torch.')})"
            for name, x in _named(inputs)[0]
        )
        raise ModelError(f"the model cannot run on {given}: {error}") from error


def _finite(value: Tensor) -> bool:
    """A finite sum proves it without a mask of all numbers; a sum may also overflow."""
    dtype = torch.float32 if value.dtype in (torch.float16, torch.bfloat16) else None
    finite = decided(torch.isfinite(value.sum(dtype=dtype)))
    return finite or decided(torch.isfinite(value).all(), proof=True)


def prepare(
    inputs: Any,
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
) -> Prepared:
    """Make autograd leaves of the float inputs, and the arguments of one call from them.

    Args:
        inputs: a tensor; a tuple of tensors, passed in order; a dict, passed by keyword. Copies of
            integer tensors are passed unexplained.
        additional_forward_args: one value or a tuple, copied and passed after the inputs.
        forward_kwargs: keyword arguments, copied.

    Raises:
        InputError: a keyword is given twice, or an argument cannot be copied.
    """
    named, by_keyword = _named(inputs)
    leaves: list[Tensor] = []
    names: list[str] = []
    passed: list[Any] = []
    with torch.inference_mode(False), torch.enable_grad():
        for name, value in named:
            if value.is_floating_point() or value.is_complex():
                leaf = _usable(value).detach()
                leaf.requires_grad_(True)
                leaves.append(leaf)
                names.append(name)
                passed.append(leaf.clone())
            else:
                passed.append(_usable(value).detach().clone())
    extra: tuple[Any, ...] = ()
    if additional_forward_args is not None:
        is_tuple = isinstance(additional_forward_args, tuple)
        extra = additional_forward_args if is_tuple else (additional_forward_args,)
    kwargs: dict[str, Any] = {}
    if extra or forward_kwargs:
        more = {name: _usable(value) for name, value in (forward_kwargs or {}).items()}
        extra, kwargs = copied((tuple(map(_usable, extra)), more), graph=True)
    if by_keyword:
        twice = [name for name, _ in named if name in kwargs]
        if twice:
            raise InputError(f"given both as input and in forward_kwargs: {', '.join(twice)}")
        kwargs.update((name, value) for (name, _), value in zip(named, passed, strict=True))
        passed = []
    roots = tuple(p.grad_fn for p in (*passed, *kwargs.values()) if _is_copy(p, leaves))
    return Prepared((*passed, *extra), kwargs, tuple(leaves), tuple(names), roots)


def _usable(value: Any) -> Any:
    """Inference tensors cannot take part in a recorded forward; their copies can.

    A subclass of ``Tensor`` (an image type, for example) is passed on as a plain tensor.
    """
    if isinstance(value, Tensor) and type(value) not in (Tensor, nn.Parameter):
        value = value.as_subclass(Tensor)
    if isinstance(value, Tensor) and value.is_inference():
        with torch.inference_mode(False):
            return value.clone()
    return value


def _is_copy(value: Any, leaves: Sequence[Tensor]) -> bool:
    if not isinstance(value, Tensor) or value.grad_fn is None:
        return False
    source = value.grad_fn.next_functions[0][0]
    return any(getattr(source, "variable", None) is leaf for leaf in leaves)


def check_baseline(baseline: Any, *, or_mean: bool = False) -> None:
    """Refuse what is neither a number nor a tensor.

    Args:
        baseline: of the user's.
        or_mean: the word ``"mean"`` is possible too.

    Raises:
        ValueError: naming the option.
    """
    if or_mean and isinstance(baseline, str) and baseline == "mean":
        return
    if isinstance(baseline, bool) or not isinstance(baseline, (int, float, Tensor)):
        possible = "a number, a tensor or 'mean'" if or_mean else "a number or a tensor"
        raise ValueError(f"baseline must be {possible}, not {baseline!r:.60}")  # noqa: TRY004
    if not _finite(torch.as_tensor(baseline)):
        raise ValueError("baseline holds NaN or infinite values")


def baseline_like(
    baseline: float | Tensor | str, x: Tensor, positions: Sequence[int] = ()
) -> Tensor:
    """The baseline as a tensor of the input's shape.

    Args:
        baseline: a number, a tensor, or ``"mean"``: over the positions, for each channel.
        x: the input.
        positions: its axes that the mean is over.

    Raises:
        InputError: a tensor of another shape, or a mean over no positions.
    """
    if isinstance(baseline, str):
        if not positions:
            raise InputError(
                f"baseline='mean' is the mean over positions, and an input of shape "
                f"{tuple(x.shape)} has none: give a number or a tensor"
            )
        return x.detach().mean(list(positions), keepdim=True).expand_as(x).clone()
    if not isinstance(baseline, Tensor):
        return torch.full_like(x, baseline)
    if (
        baseline.dim() != x.dim()
        or baseline.shape[1:] != x.shape[1:]
        or (len(baseline) not in (1, len(x)))
    ):
        raise InputError(
            f"a baseline must have shape {tuple(x.shape)} or {(1, *x.shape[1:])}, "
            f"not {tuple(baseline.shape)}"
        )
    return baseline.detach().to(x).expand_as(x).clone()

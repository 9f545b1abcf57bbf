"""What an explanation sums up on its way, told to who listens: nothing is computed twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from fullgrad.engine.request import Traced

_Open: TypeAlias = Callable[[Traced, int], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """One explanation of a batch, its sum proved.

    Args:
        output: the explained numbers, shape (B,).
        index: the explained classes, shape (B,), where the target is one; else None.
        result: what the model returned, outside the graph where it is a tensor.
        input_sums: of the input term, shape (B,), float64.
        module_sums: of the bias terms, by module in order of execution, shape (B,) each, float64.
        residual: output minus all sums, shape (B,), float64.
        made: what came of the terms: maps, or the parts of a complete map.
    """

    output: Tensor
    index: Tensor | None
    result: Any
    input_sums: Tensor
    module_sums: Mapping[str, Tensor]
    residual: Tensor
    made: Any


_listener: ContextVar[list[Heard] | None] = ContextVar("listener", default=None)


@contextmanager
def listening() -> Iterator[list[Heard]]:
    """Collect what the explanations in this context sum up, in their order.

    Example:
        >>> import torch, fullgrad
        >>> from fullgrad.engine import listening
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten())
        >>> with listening() as heard:
        ...     heat = fullgrad.saliency(model, torch.ones(2, 3, 8, 8), 0)
        >>> (one,) = heard
        >>> one.output.shape, list(one.module_sums), bool(one.residual.abs().max() < 1e-5)
        (torch.Size([2]), ['0'], True)
    """
    heard: list[Heard] = []
    token = _listener.set(heard)
    try:
        yield heard
    finally:
        _listener.reset(token)


def noting(open_sink: _Open) -> tuple[_Open, dict[int, Traced]]:
    """A way to open sinks that keeps the recorded forwards, by target, where somebody listens."""
    kept: dict[int, Traced] = {}
    if _listener.get() is None:
        return open_sink, kept

    def opening(traced: Traced, number: int) -> Any:
        kept[number] = traced
        return open_sink(traced, number)

    return opening, kept


def told(kept: Mapping[int, Traced], proved: Sequence[tuple[Any, Any]]) -> list[Any]:
    """What the sinks make of the terms; it and the sums are reported where somebody listens."""
    made = [sink.result(totals) for sink, totals in proved]
    heard = _listener.get()
    if heard is None:
        return made
    for number, traced in kept.items():
        own, result = proved[number][1], traced.result
        modules: dict[str, Tensor] = {}
        for place in sorted(own.sums):
            module, value = traced.tape.entries[place].module, own.sums[place]
            known = modules.get(module)
            modules[module] = value if known is None else known + value.to(known.device)
        heard.append(
            Heard(
                output=traced.output.detach(),
                index=traced.selected.index,
                result=result.detach() if isinstance(result, Tensor) else result,
                input_sums=own.input_sums,
                module_sums=modules,
                residual=own.residual,
                made=made[number],
            )
        )
    return made

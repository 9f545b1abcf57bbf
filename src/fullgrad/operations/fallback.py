"""The general path: b = y - jvp(op, u, u) by forward-mode differentiation.

For the few kernels that have no forward mode, an equivalent written in operations that have one.
"""

from __future__ import annotations

import functools
import importlib
import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fullgrad.operations.registry import Call, Kind

# Forward-mode levels are global to the process.
_level = threading.Lock()


def _lstm_cell(
    igates: Tensor,
    hgates: Tensor,
    cx: Tensor,
    b_in: Tensor | None = None,
    b_h: Tensor | None = None,
) -> tuple[Tensor, ...]:
    gates = igates + hgates
    for b in (b_in, b_h):
        gates = gates if b is None else gates + b
    i, f, g, o = gates.chunk(4, 1)
    cy = torch.sigmoid(f) * cx + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cy), cy


def _gru_cell(
    igates: Tensor,
    hgates: Tensor,
    hx: Tensor,
    b_in: Tensor | None = None,
    b_h: Tensor | None = None,
) -> tuple[Tensor, ...]:
    igates = igates if b_in is None else igates + b_in
    hgates = hgates if b_h is None else hgates + b_h
    (ir, iz, inew), (hr, hz, hnew) = igates.chunk(3, 1), hgates.chunk(3, 1)
    z = torch.sigmoid(iz + hz)
    new = torch.tanh(inew + torch.sigmoid(ir + hr) * hnew)
    return (new + z * (hx - new),)


EQUIVALENTS: dict[str, Callable[..., Any]] = {
    "aten::_thnn_fused_lstm_cell": _lstm_cell,
    "aten::_thnn_fused_gru_cell": _gru_cell,
}


@functools.cache
def _load_forward_mode() -> None:
    """Load what PyTorch loads at the first dual tensor, without its deprecation warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("torch._decomp.decompositions_for_jvp")


class GeneralCall:
    """A call whose biases come from forward-mode differentiation."""

    kind: Kind = "implicit"
    may_be_infinite = True

    def __init__(self, call: Call) -> None:
        self._func = EQUIVALENTS.get(call.func._schema.name, call.func)
        self._in_place = call.in_place
        self._template = (call.args, call.kwargs)
        tensors: list[Tensor] = []
        self._varies: list[bool] = []

        def strip(value: Any) -> Any:
            if isinstance(value, Tensor):
                self._varies.append(call.depends(value))
                tensors.append(value.detach())
                return _Slot(len(tensors) - 1)
            if isinstance(value, (list, tuple)):
                return type(value)(map(strip, value))
            return value

        args = strip(tuple(call.args))
        kwargs = {k: strip(v) for k, v in call.kwargs.items()}
        self._template = (args, kwargs)
        self._outputs = len(call.outputs)
        self.held = (*tensors, *(o.detach() for o in call.outputs if isinstance(o, Tensor)))

    def biases(self, held: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
        """The bias of each output.

        Args:
            held: the call's tensors, then its outputs.

        Raises:
            NotImplementedError: the operation has no forward-mode derivative.
        """
        arguments, outputs = held[: len(self._varies)], held[len(self._varies) :]
        with _level, torch.no_grad(), forward_ad.dual_level():
            _load_forward_mode()
            values = [
                forward_ad.make_dual(u, u.clone()) if varies else u
                for u, varies in zip(arguments, self._varies, strict=True)
            ]
            if self._in_place:
                values[0] = values[0].clone()

            def fill(value: Any) -> Any:
                if isinstance(value, _Slot):
                    return values[value.place]
                if isinstance(value, (list, tuple)):
                    return type(value)(map(fill, value))
                return value

            args, kwargs = self._template
            result = self._func(*fill(args), **{k: fill(v) for k, v in kwargs.items()})
            results = tuple(result) if isinstance(result, (tuple, list)) else (result,)
            answer: list[Tensor | None] = []
            for y, dual in zip(outputs, results, strict=False):
                tangent = forward_ad.unpack_dual(dual).tangent
                answer.append(y if tangent is None else y - tangent)
        return tuple(answer)


class _Slot:
    """Where a tensor stood among the arguments."""

    __slots__ = ("place",)

    def __init__(self, place: int) -> None:
        self.place = place

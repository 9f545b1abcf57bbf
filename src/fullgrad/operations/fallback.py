"""The forward-mode fallback: b = y - jvp(op, u, u) by forward-mode differentiation.

For the few kernels that have no forward mode, their entry names an equivalent in operations that
have one.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fullgrad._compat import load_forward_mode
from fullgrad.operations.call import Call, Kind, Template
from fullgrad.operations.registry import overload

# Forward-mode levels are global to the process.
_level = threading.Lock()


class GeneralCall:
    """A call whose biases come from forward-mode differentiation."""

    kind: Kind = "implicit"
    may_be_infinite = True

    def __init__(self, call: Call) -> None:
        operation = overload(call.func)
        # Autograd runs it in a function of its own, which has no forward mode.
        self._differentiable = operation.entry.equivalent or not operation.own_autograd
        self._func = operation.entry.equivalent or call.func
        self._in_place = call.in_place
        self._template = Template(call)
        tensors, self._varies = self._template.tensors, self._template.varies
        self._outputs = len(call.outputs)
        self.held = (*tensors, *(o.detach() for o in call.outputs if isinstance(o, Tensor)))

    def biases(self, held: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
        """The bias of each output.

        Args:
            held: the call's tensors, then its outputs.

        Raises:
            NotImplementedError: the operation has no forward-mode derivative.
        """
        if not self._differentiable:
            raise NotImplementedError
        arguments, outputs = held[: len(self._varies)], held[len(self._varies) :]
        with _level, torch.no_grad(), forward_ad.dual_level():
            load_forward_mode()
            values = [
                forward_ad.make_dual(u, u.clone()) if varies else u
                for u, varies in zip(arguments, self._varies, strict=True)
            ]
            if self._in_place:
                values[0] = values[0].clone()

            args, kwargs = self._template.filled(values)
            result = self._func(*args, **kwargs)
            results = tuple(result) if isinstance(result, (tuple, list)) else (result,)
            answer: list[Tensor | None] = []
            for y, dual in zip(outputs, results, strict=False):
                tangent = forward_ad.unpack_dual(dual).tangent
                answer.append(y if tangent is None else y - tangent)
        return tuple(answer)

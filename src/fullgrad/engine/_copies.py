"""Copies of what the user passes, so that a model which changes its arguments changes only these.

Each forward pass gets copies of its own: later ones see the values as they were given.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from types import MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad.errors import InputError

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, type)
_SHARED = (nn.Module, ModuleType)  # they belong to the model, and are no values


def copied(value: Any, *, graph: bool) -> Any:
    """A copy of an argument, or of several in a container, outside inference mode.

    What occurs twice in the argument is one thing in the copy as well. Modules are passed on.

    Args:
        value: any.
        graph: whether copies of tensors stay in the graph that the tensors are in.

    Raises:
        InputError: something in it cannot be copied.
    """
    if isinstance(value, _PLAIN):
        return value
    with torch.inference_mode(False), torch.set_grad_enabled(graph):
        if isinstance(value, Tensor):
            return _tensor(value, graph)
        known: dict[int, Any] = {}
        seen: set[int] = set()
        held = [value]
        while held:
            one = held.pop()
            if isinstance(one, _PLAIN) or id(one) in seen:
                continue
            seen.add(id(one))
            if isinstance(one, Tensor):
                known[id(one)] = _tensor(one, graph)
            elif isinstance(one, torch.Generator):
                known[id(one)] = _generator(one)
            elif isinstance(one, _SHARED) or type(one) is object:
                known[id(one)] = one
            else:
                held += _parts(one)
        try:
            return copy.deepcopy(value, known)
        except Exception as error:
            raise InputError(
                f"an argument of the model cannot be copied ({error}), and each forward pass "
                "needs its own, since a model may change what it is given: pass tensors, numbers "
                "or containers of them, or hold it as an attribute of the model"
            ) from error


def _tensor(t: Tensor, graph: bool) -> Tensor:
    if graph and t.grad_fn is not None:
        return t.clone()
    own = t.detach().clone()
    return own.requires_grad_() if graph and t.requires_grad else own


def _generator(found: torch.Generator) -> torch.Generator:
    own = torch.Generator(found.device)
    own.set_state(found.get_state())
    return own


def _parts(value: Any) -> list[Any]:
    """What an object holds, as far as it shows."""
    if isinstance(value, Mapping):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = list(value)
    elif isinstance(value, MethodType):
        return [value.__self__]
    elif isinstance(value, partial):
        parts = [value.func, *value.args, *value.keywords.values()]
    else:
        parts = []
    return [*parts, *getattr(value, "__dict__", {}).values()]

"""What the recorder refuses while a model runs, by the module's name and with a way out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad._compat import wraps
from fullgrad.engine.module_path import ModulePath
from fullgrad.engine.tape import Tape
from fullgrad.errors import BlockedGradientError, InputError, ModelError
from fullgrad.operations.call import tensors_in

_PLAIN = (Tensor, nn.Parameter, nn.Buffer)


def refuse_wrapped(values: Sequence[Any], path: ModulePath, op: str) -> None:
    """Refuse tensors whose numbers are kept by a Python class of their own.

    Raises:
        ModelError: there is one.
    """
    for t in tensors_in(values):
        if type(t) not in _PLAIN and wraps(t):
            raise ModelError(
                f"{path.current() or 'the model'} uses a {type(t).__name__} ({op}), whose numbers "
                "are not in plain memory: they cannot be followed. Use plain tensors there (for "
                "nested ones: padded, with a mask)."
            )


def refuse_sparse(values: Sequence[Any], path: ModulePath, op: str) -> None:
    """Refuse sparse tensors in an operation that depends on the input.

    Raises:
        ModelError: there is one.
    """
    for t in values:
        if isinstance(t, Tensor) and t.layout is not torch.strided:
            kind = str(t.layout).removeprefix("torch.")
            raise ModelError(
                f"{path.current() or 'the model'} uses a sparse tensor ({kind}) in {op}: its "
                "numbers cannot be followed. Pass it dense (to_dense())."
            )


def refuse_without_batch_axis(tape: Tape, leaves: Sequence[Tensor], result: Any) -> None:
    """Refuse one image or series without a batch axis, which convolutions take as one sample.

    Raises:
        InputError: there is one, and the output is not that of one sample.
    """
    if not isinstance(result, Tensor) or not result.dim() or len(result) == 1:
        return
    ranks = {x.dim() for x in leaves}
    for e in tape.entries:
        if e.op == "convolution" and e.shape[0] == 1 and {len(e.shape) - 1} == ranks:
            raise InputError(
                f"the convolution in {e.module or 'the model'} takes the input of shape "
                f"{tuple(leaves[0].shape)} as one sample, but the output of shape "
                f"{tuple(result.shape)} has no axis for it. No batch axis? Pass x.unsqueeze(0)"
            )


def outside_the_graph(module: str, op: str) -> BlockedGradientError:
    """The error for a value of the graph that was changed under ``no_grad``."""
    return BlockedGradientError(
        f"{module or 'the model'} overwrites a value that depends on the input under no_grad "
        f"({op}): no gradient can be right. Remove the no_grad or the in-place operation."
    )


def through_a_view(module: str, op: str) -> BlockedGradientError:
    """The error for a value of the graph that is overwritten through a detached view of it."""
    return BlockedGradientError(
        f"{module or 'the model'} overwrites a value that depends on the input through a detached "
        f"view of it ({op}): no gradient can be right. Copy it first (detach().clone())."
    )

"""The explained scalars and their gradients, by another way than the library's."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fuzz_draws import Drawn


def scalars(output: Any, target: Any) -> Tensor:
    """The explained scalar of each sample, by another way than the library's."""
    if callable(target) and not isinstance(target, Tensor):
        return target(output)
    logits = output["logits"] if isinstance(output, dict) else output
    if isinstance(target, list) and callable(target[0]):
        return torch.stack([t(o) for t, o in zip(target, logits, strict=True)])
    if logits.dim() == 1:
        return logits
    if target is None:
        return logits.max(1).values
    if isinstance(target, (Tensor, np.ndarray, np.generic)):
        target = target.tolist()
    rows = target if isinstance(target, list) else [target] * len(logits)
    return torch.stack([o[row] for o, row in zip(logits, rows, strict=True)])


def plain(drawn: Drawn) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The scalars and autograd's gradients at the inputs, in evaluation mode."""
    options = drawn.options
    model = deepcopy(drawn.model).eval()
    xs = drawn.x if isinstance(drawn.x, tuple) else (drawn.x,)
    leaves = tuple(x.detach().clone().requires_grad_(True) for x in xs)
    extra = options.get("additional_forward_args")
    output = model(
        *leaves, *(() if extra is None else (extra,)), **(options.get("forward_kwargs") or {})
    )
    found = scalars(output, drawn.target)
    return found.detach(), torch.autograd.grad(found.sum(), leaves, materialize_grads=True)

"""Models as users hold them: wrapped, compiled, or of a kind that cannot be explained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fullgrad.errors import ModelError


def unwrap(model: Any) -> nn.Module:
    """The eager module inside ``DataParallel``, ``DistributedDataParallel`` or ``torch.compile``.

    Raises:
        ModelError: not a module, or one that holds scripted or replicated parts.
    """
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(model, nn.Module) and isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod
        else:
            break
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"the model must be a torch.nn.Module, not {type(model).__name__}; wrap a function in "
            "a module, so that its layers and training mode are known"
        )
    for name, module in model.named_modules():
        where = f"module {name!r}" if name else "the model"
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{where} is a ScriptModule: TorchScript hides its operations. Explain the Python "
                "module it was scripted from."
            )
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            raise ModelError(
                f"{where} is a {type(module).__name__} inside another module: its replicas run in "
                "threads of their own. Explain the model with that wrapper removed."
            )
    return model


@contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Run compiled parts of a model eagerly, so that their operations are seen."""
    compiled = any(
        hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None
        for m in model.modules()
    )
    if not compiled:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def recurrent(model: nn.Module) -> bool:
    """Whether the model holds recurrent layers, whose fused kernels have no forward mode."""
    return any(isinstance(m, nn.RNNBase) for m in model.modules())

"""Models as users hold them: wrapped, compiled, or of a kind that cannot be explained."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fullgrad._compat import compiled_from, compiles_itself, modules_in, tensors_of
from fullgrad.errors import ModelError

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrap(model: Any) -> nn.Module:
    """The eager module inside ``DataParallel``, ``DistributedDataParallel`` or ``torch.compile``.

    Raises:
        ModelError: not a module, or one that holds scripted or replicated parts.
    """
    while True:
        if isinstance(model, _PARALLEL):
            model = model.module
        elif isinstance(model, nn.Module) and (inner := compiled_from(model)) is not None:
            model = inner
        else:
            break
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"the model must be a torch.nn.Module, not {type(model).__name__}; wrap a function in "
            "a module, so that its layers and training mode are known"
        )
    modules = modules_in(model)
    tensors = [t for module in modules for t in tensors_of(module)]
    if any(isinstance(t, nn.UninitializedParameter) for t in tensors):
        named = model.named_parameters()
        lazy = [n for n, p in named if isinstance(p, nn.UninitializedParameter)]
        raise ModelError(
            f"parameters are not initialized yet ({', '.join(lazy)}): run the model once on an "
            "input, then explain it"
        )
    if any(t.is_inference() for t in tensors if isinstance(t, nn.Parameter)):
        raise ModelError(
            "the model was made in inference mode, so autograd cannot work with it. Make it "
            "outside, or explain copy.deepcopy(model) made outside."
        )
    for module in modules:
        if not isinstance(module, (torch.jit.ScriptModule, *_PARALLEL)):
            continue
        name = next((n for n, m in model.named_modules() if m is module), "")
        where = f"module {name!r}" if name else "the model"
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{where} is a ScriptModule: TorchScript hides its operations. Explain the Python "
                "module it was scripted from."
            )
        raise ModelError(
            f"{where} is a {type(module).__name__} inside another module: its replicas run in "
            "threads of their own. Explain the model with that wrapper removed."
        )
    return model


def compiled(model: nn.Module) -> bool:
    """Whether the model holds compiled parts."""
    return any(compiled_from(m) is not None or compiles_itself(m) for m in modules_in(model))


def recurrent(model: nn.Module) -> bool:
    """Whether the model holds recurrent layers, whose fused kernels have no forward mode."""
    return any(isinstance(m, nn.RNNBase) for m in modules_in(model))

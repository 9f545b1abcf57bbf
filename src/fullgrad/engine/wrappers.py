"""Models as users hold them: wrapped, compiled, or of a kind that cannot be explained."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fullgrad._compat import compiled_from, compiles_itself
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
    parameters = dict(model.named_parameters())
    lazy = [n for n, p in parameters.items() if isinstance(p, nn.UninitializedParameter)]
    if lazy:
        raise ModelError(
            f"parameters are not initialised yet ({', '.join(lazy)}): run the model once on an "
            "input, then explain it"
        )
    if any(p.is_inference() for p in parameters.values()):
        raise ModelError(
            "the model was made in inference mode, so autograd cannot work with it. Make it "
            "outside, or explain copy.deepcopy(model) made outside."
        )
    for name, module in model.named_modules():
        if not isinstance(module, (torch.jit.ScriptModule, *_PARALLEL)):
            continue
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
    return any(compiled_from(m) is not None or compiles_itself(m) for m in model.modules())


def recurrent(model: nn.Module) -> bool:
    """Whether the model holds recurrent layers, whose fused kernels have no forward mode."""
    return any(isinstance(m, nn.RNNBase) for m in model.modules())

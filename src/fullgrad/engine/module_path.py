"""Which module of the model is executing, read off the calls in progress.

PyTorch's module hooks would tell as well, but slow every module call down, many times more than
asking when an operation needs a name. Nothing is registered anywhere.
"""

from __future__ import annotations

import sys

from torch import nn

from fullgrad._compat import MODULE_CALL


class ModulePath:
    """Names the modules that this thread is executing.

    Args:
        model: the module whose ``named_modules`` name the path.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(m): name.replace("._orig_mod", "") for name, m in model.named_modules()}

    def current(self) -> str:
        """The path of the innermost module, ``""`` for the model itself.

        A module that is not part of the model is named after its class, below the one that calls
        it.
        """
        foreign: list[str] = []
        frame = sys._getframe(1)
        while frame is not None:
            if frame.f_code is MODULE_CALL:
                module = frame.f_locals["self"]
                name = self._names.get(id(module))
                if name is not None:
                    return ".".join(filter(None, (name, *reversed(foreign))))
                foreign.append(type(module).__name__)
            frame = frame.f_back  # type: ignore[assignment]
        return ""


def is_submodule(module: str, stage: str) -> bool:
    """Whether a module path lies in a stage (``layer3.0.bn2`` in ``layer3``, not ``layer30``)."""
    return not stage or module == stage or module.startswith(stage + ".")

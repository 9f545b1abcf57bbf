"""Which module of the model is executing, and what modules returned.

The first is read off the calls in progress. PyTorch's module hooks would tell as well, but slow
every module call down, many times more than asking when an operation needs a name. The second is
asked for by targets alone that explain a layer's output; its hooks stay for one call.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from fullgrad._compat import MODULE_CALL
from fullgrad.engine.targets import described_in
from fullgrad.errors import TargetError

_SEEN: ContextVar[dict[str, list[Any]] | None] = ContextVar("fullgrad_seen", default=None)


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


def returned_by(layer: str) -> list[Any]:
    """What a layer returned in the last call of the model, once for each of its own calls.

    Raises:
        TargetError: no call of the library's is in progress.
    """
    seen = _SEEN.get()
    if seen is None or layer not in seen:
        raise TargetError(
            f"what {layer} returned is known only while fullgrad runs the model: pass this target "
            "to fullgrad.decompose, fullgrad.saliency, fullgrad.complete_map or "
            "fullgrad.methods.attribute"
        )
    return seen[layer]


@contextmanager
def watched(model: nn.Module, target: Any) -> Iterator[None]:
    """Keep what the layers that a target names return, until the model is called again.

    Args:
        model: gets forward hooks for that time, if there are such layers.
        target: any.

    Raises:
        TargetError: the model has no such layer.
    """
    layers = {path for d in described_in(target) for path in d.layers}
    if not layers:
        yield
        return
    modules = dict(model.named_modules())
    seen: dict[str, list[Any]] = {name: [] for name in layers}

    def begin(module: nn.Module, args: Any) -> None:
        if _SEEN.get() is seen:  # not a call of another thread
            for values in seen.values():
                values.clear()

    def hook_for(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if _SEEN.get() is seen:
                seen[path].append(_copied(output))

        return hook

    handles = [model.register_forward_pre_hook(begin)]
    before = _SEEN.set(seen)
    try:
        for path in layers:
            if not path or path not in modules:
                close = difflib.get_close_matches(path, modules, n=3)
                hint = f"; did you mean {' or '.join(close)}?" if close else ""
                raise TargetError(f"the model has no layer {path!r}{hint}")
            handles.append(modules[path].register_forward_hook(hook_for(path)))
        yield
    finally:
        _SEEN.reset(before)
        for handle in handles:
            handle.remove()


def _copied(output: Any) -> Any:
    """Copies of tensors: what comes next may overwrite them."""
    if isinstance(output, Tensor):
        return output.clone()
    if type(output) in (tuple, list):
        return type(output)(map(_copied, output))
    return {k: _copied(v) for k, v in output.items()} if type(output) is dict else output

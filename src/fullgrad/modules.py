"""Which module of the model is executing, told by PyTorch's global module hooks.

The hooks are global, so nothing is registered on the user's modules; they are installed while at
least one thread records and act only in threads that do.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

_active = threading.local()
_lock = threading.Lock()
_users = 0
_handles: list[Any] = []


class ModulePath:
    """The stack of modules under execution in one thread.

    Args:
        model: the module whose ``named_modules`` name the path.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(m): name.replace("._orig_mod", "") for name, m in model.named_modules()}
        self._stack: list[tuple[nn.Module, str]] = []

    def current(self) -> str:
        """The path of the innermost module, ``""`` for the model itself."""
        return self._stack[-1][1] if self._stack else ""

    def enter(self, module: nn.Module) -> None:
        """A module begins; one that is not part of the model is named after its class."""
        name = self._names.get(id(module))
        if name is None:
            above = self.current()
            name = f"{above}.{type(module).__name__}" if above else type(module).__name__
        self._stack.append((module, name))

    def leave(self, module: nn.Module) -> None:
        """A module ends, and with it whatever an exception left unfinished inside it."""
        while self._stack:
            top, _ = self._stack.pop()
            if top is module:
                return


def _before(module: nn.Module, args: Any) -> None:
    path: ModulePath | None = getattr(_active, "path", None)
    if path is not None:
        path.enter(module)


def _after(module: nn.Module, args: Any, output: Any) -> None:
    path: ModulePath | None = getattr(_active, "path", None)
    if path is not None:
        path.leave(module)


@contextmanager
def following(path: ModulePath) -> Iterator[None]:
    """Keep ``path`` up to date with what this thread executes."""
    global _users  # noqa: PLW0603
    with _lock:
        if _users == 0:
            _handles.append(register_module_forward_pre_hook(_before))
            _handles.append(register_module_forward_hook(_after, always_call=True))
        _users += 1
    outer = getattr(_active, "path", None)
    _active.path = path
    try:
        yield
    finally:
        _active.path = outer
        with _lock:
            _users -= 1
            if _users == 0:
                while _handles:
                    _handles.pop().remove()

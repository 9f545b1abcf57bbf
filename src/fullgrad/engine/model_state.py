"""The user's model is theirs: what a call changes in it, the call restores.

Several threads may explain the same model: the first to enter takes the snapshot and the last to
leave restores it.
"""

from __future__ import annotations

import operator
import random
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fullgrad._compat import fused_kernels, memory_of, modules_in, set_fused_kernels, tensors_of
from fullgrad.errors import ModelError

_changed = threading.Condition()
_guards: list[Guard] = []

# How the content of a module's containers is kept; most are empty.
_CONTAINERS: dict[type, Callable[[Any], Any]] = {
    dict: dict,
    OrderedDict: dict,
    defaultdict: dict,
    list: list,
    deque: list,
    set: set,
}
_OF_MODULES = {"_parameters", "_buffers", "_modules"}  # what they hold is kept otherwise
_PLAIN = {bool, int, float, str, tuple, type(None)}  # nothing in them can change


@dataclass(eq=False)
class Guard:
    """One model under explanation: by which threads, in which mode, and what it was before."""

    model: nn.Module
    evaluate: bool
    owners: list[int] = field(default_factory=list)
    modules: list[tuple[nn.Module, dict[str, Any], list[tuple[Any, Any]]]] = field(
        default_factory=list
    )
    empty: list[Any] = field(default_factory=list)
    arrays: list[tuple[NDArray[Any], NDArray[Any]]] = field(default_factory=list)
    tensors: list[tuple[Tensor, Tensor, bool, Tensor | None]] = field(default_factory=list)
    storages: dict[int, Tensor] = field(default_factory=dict)
    written: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def conflicts(self, model: nn.Module, evaluate: bool) -> bool:
        """Whether a call on ``model`` must wait for this one."""
        if model is self.model:
            return evaluate != self.evaluate
        held = {id(module) for module, _, _ in self.modules}
        return any(id(module) in held for module in modules_in(model))

    def take(self) -> None:
        """Note everything that restoring needs."""
        tensors: dict[int, Tensor] = {}
        for module in modules_in(self.model):
            own = tensors_of(module)
            tensors.update(zip(map(id, own), own, strict=True))
            state = dict(module.__dict__)
            inner: list[tuple[Any, Any]] = []
            held = [v for v in state.values() if type(v) not in _PLAIN]
            of_module = {id(state.get(name)) for name in _OF_MODULES}
            seen: set[int] = set()
            while held:
                value = held.pop()
                keep = _CONTAINERS.get(type(value))
                if keep is None:
                    if isinstance(value, Tensor) and (memory := memory_of(value)) is not None:
                        self.storages[memory] = value.detach()
                    elif type(value) is np.ndarray and value.flags.writeable:
                        self.arrays.append((value, value.copy()))
                elif not value:
                    self.empty.append(value)
                elif id(value) not in seen:
                    seen.add(id(value))
                    content = keep(value)
                    inner.append((value, content))
                    parts = content.values() if isinstance(content, dict) else content
                    if id(value) not in of_module and not _PLAIN.issuperset(map(type, parts)):
                        held += [v for v in parts if type(v) not in _PLAIN]
            self.modules.append((module, state, inner))
        for t in tensors.values():
            alias = t.detach()
            memory = memory_of(t)
            if memory is not None:
                self.storages[memory] = alias
            self.tensors.append((t, alias, t.requires_grad, t.grad if t.is_leaf else None))
        if self.evaluate:
            for module, _, _ in self.modules:
                if module.training:
                    module.training = False

    def before_write(self, t: Tensor) -> None:
        """Remember a parameter's or buffer's values before the model overwrites them."""
        key = memory_of(t)
        owner = None if key is None else self.storages.get(key)
        if key is not None and owner is not None and key not in self.written:
            whole = _whole_storage(owner)
            self.written[key] = (whole, whole.clone())

    def rewind(self, *, forget: bool = True) -> None:
        """Put back what was overwritten; keep the values for a pass that is not recorded."""
        with torch.no_grad():
            for whole, values in self.written.values():
                if whole.untyped_storage().nbytes() < values.untyped_storage().nbytes():
                    whole.untyped_storage().resize_(values.untyped_storage().nbytes())
                whole.copy_(values)
        if forget:
            self.written.clear()

    def restore(self) -> None:
        """Give the model back as it was."""
        self.rewind()
        for t, alias, requires_grad, grad in self.tensors:
            if t.grad_fn is not None and alias.grad_fn is None:
                t.detach_()
            if memory_of(t) != memory_of(alias) or t.shape != alias.shape:
                t.data = alias
            if t.requires_grad != requires_grad:
                t.requires_grad_(requires_grad)
            if t.is_leaf and t.grad is not grad:
                t.grad = grad
        for module, state, inner in self.modules:
            now = module.__dict__
            if not _same(now, state):
                for name in [n for n in now if n not in state]:
                    del now[name]
                now.update(state)
            for container, content in inner:
                _restore_container(container, content)
        for container in self.empty:
            if container:
                container.clear()
        for array, values in self.arrays:
            np.copyto(array, values)


def _whole_storage(t: Tensor) -> Tensor:
    """All the numbers of a tensor's storage, which several tensors may share."""
    size = t.untyped_storage().nbytes() // t.element_size()
    return torch.as_strided(t, (size,), (1,), 0)


def _same(a: Any, b: Any) -> bool:
    if len(a) != len(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(operator.is_, a.values(), b.values()))
    if isinstance(a, set):
        return bool(a == b)
    return all(map(operator.is_, a, b))


def _restore_container(container: Any, content: Any) -> None:
    if not _same(container, content):
        container.clear()
        if isinstance(container, (list, deque)):
            container.extend(content)
        else:
            container.update(content)


@dataclass(frozen=True)
class _Randomness:
    torch_cpu: Tensor
    torch_cuda: list[Tensor]
    numpy: Any
    python: Any

    @classmethod
    def now(cls) -> _Randomness:
        used = torch.cuda.is_available() and torch.cuda.is_initialized()
        cuda = torch.cuda.get_rng_state_all() if used else []
        return cls(torch.get_rng_state(), cuda, np.random.get_state(), random.getstate())

    def restore(self) -> None:
        """Give the model back as it was."""
        torch.set_rng_state(self.torch_cpu)
        if self.torch_cuda:
            torch.cuda.set_rng_state_all(self.torch_cuda)
        np.random.set_state(self.numpy)
        random.setstate(self.python)


# The generators belong to the process: the first call to enter keeps their state, the last to
# leave restores it.
_before_calls: _Randomness | None = None


@contextmanager
def guarded(model: nn.Module, *, evaluate: bool) -> Iterator[Guard]:
    """Lend the model for one call and give it back as it was.

    Restores training flags, attributes, parameters, buffers, ``requires_grad`` and ``.grad``, and
    the random state of PyTorch, NumPy and Python, after failures too. A call in the other mode on
    the same model, or on a model that shares modules with it, waits until this one has ended.

    Args:
        model: the user's model.
        evaluate: put it into evaluation mode meanwhile.

    Yields:
        The guard, whose ``before_write`` must be told of tensors about to be overwritten.

    Raises:
        ModelError: this thread itself holds the model in a way that the call would wait for.
    """
    global _before_calls  # noqa: PLW0603
    thread = threading.get_ident()
    with _changed:
        while conflicting := [g for g in _guards if g.conflicts(model, evaluate)]:
            if any(thread in g.owners for g in conflicting):
                raise ModelError(
                    "this thread is explaining the same model already, in another mode or through "
                    "another model that holds it: a target or a module must not start such a call"
                )
            _changed.wait()
        if not _guards:
            _before_calls = _Randomness.now()
        guard = next((g for g in _guards if g.model is model), None)
        if guard is None:
            guard = Guard(model, evaluate)
            guard.take()
            _guards.append(guard)
        guard.owners.append(thread)
    try:
        yield guard
    finally:
        with _changed:
            guard.owners.remove(thread)
            if not guard.owners:
                try:
                    guard.restore()
                finally:
                    _guards.remove(guard)
                    if not _guards and _before_calls is not None:
                        _before_calls.restore()
                        _before_calls = None
                    _changed.notify_all()


def redraw() -> None:
    """Set the generators back to where the call found them, for another attempt."""
    if _before_calls is not None:
        _before_calls.restore()


class Switch:
    """A setting of the whole process that is switched while at least one call needs it.

    Args:
        on: makes the setting, and returns what undoes it.
    """

    def __init__(self, on: Callable[[], Callable[[], None]]) -> None:
        self._on = on
        self._lock = threading.Lock()
        self._users = 0
        self._undo: Callable[[], None] = lambda: None

    @contextmanager
    def held(self, needed: bool) -> Iterator[None]:
        """Hold the setting, if it is needed."""
        if not needed:
            yield
            return
        with self._lock:
            if self._users == 0:
                self._undo = self._on()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._undo()


def _plain_kernels() -> Callable[[], None]:
    kept = fused_kernels()
    set_fused_kernels(False, False)
    return lambda: set_fused_kernels(*kept)


def _eager_stance() -> Callable[[], None]:
    stack = ExitStack()
    stack.enter_context(torch.compiler.set_stance("force_eager"))
    return stack.close


# Recurrent layers in operations that have a forward mode: their fused kernels (oneDNN on the CPU,
# cuDNN on the GPU) have none.
plain_recurrence = Switch(_plain_kernels)
# Compiled parts of a model run eagerly, so that their operations are seen.
eager = Switch(_eager_stance)

"""The user's model is theirs: what a call changes in it, the call restores.

Several threads may explain the same model: the first to enter takes the snapshot and the last to
leave restores it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_changed = threading.Condition()
_guards: dict[int, _Guard] = {}

_CONTAINERS = ("_parameters", "_buffers", "_modules")


@dataclass(eq=False)
class _Guard:
    """One model under explanation: how often, in which mode, and what it was before."""

    model: nn.Module
    evaluate: bool
    holders: int = 0
    modules: list[tuple[nn.Module, dict[str, Any], dict[str, dict[str, Any]]]] = field(
        default_factory=list
    )
    storages: dict[int, Tensor] = field(default_factory=dict)
    written: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    gradients: list[tuple[nn.Parameter, Tensor | None, bool]] = field(default_factory=list)

    def take(self) -> None:
        for module in self.model.modules():
            state = module.__dict__
            inner = {name: dict(state[name]) for name in _CONTAINERS if name in state}
            self.modules.append((module, dict(state), inner))
        for p in self.model.parameters():
            self.storages[p.untyped_storage().data_ptr()] = p
            self.gradients.append((p, p.grad, p.requires_grad))
        for b in self.model.buffers():
            self.storages[b.untyped_storage().data_ptr()] = b
        if self.evaluate:
            for module, _, _ in self.modules:
                if module.training:
                    module.training = False

    def before_write(self, t: Tensor) -> None:
        """Remember a parameter's or buffer's values before the model overwrites them."""
        key = t.untyped_storage().data_ptr()
        owner = self.storages.get(key)
        if owner is not None and key not in self.written:
            with torch.no_grad():
                self.written[key] = (owner, owner.detach().clone())

    def restore(self) -> None:
        with torch.no_grad():
            for owner, values in self.written.values():
                owner.copy_(values)
        for module, state, inner in self.modules:
            now = module.__dict__
            for name in [n for n in now if n not in state]:
                del now[name]
            for name, value in state.items():
                if now.get(name, _MISSING) is not value:
                    now[name] = value
            for name, content in inner.items():
                container = now[name]
                if list(container.items()) != [] or content:
                    _restore_container(container, content)
        for p, grad, requires_grad in self.gradients:
            if p.grad is not grad:
                p.grad = grad
            if p.requires_grad != requires_grad:
                p.requires_grad_(requires_grad)


_MISSING = object()


def _restore_container(container: dict[str, Any], content: dict[str, Any]) -> None:
    same = len(container) == len(content) and all(
        a == b and container[a] is content[b] for a, b in zip(container, content, strict=True)
    )
    if not same:
        container.clear()
        container.update(content)


@dataclass(frozen=True)
class _Randomness:
    torch_cpu: Tensor
    torch_cuda: dict[int, Tensor]
    numpy: Any
    python: Any

    @classmethod
    def now(cls, device: torch.device) -> _Randomness:
        cuda: dict[int, Tensor] = {}
        if device.type == "cuda":
            place = torch.cuda.current_device() if device.index is None else device.index
            cuda[place] = torch.cuda.get_rng_state(place)
        return cls(torch.get_rng_state(), cuda, np.random.get_state(), random.getstate())  # noqa: NPY002

    def restore(self) -> None:
        torch.set_rng_state(self.torch_cpu)
        for place, state in self.torch_cuda.items():
            torch.cuda.set_rng_state(state, place)
        np.random.set_state(self.numpy)  # noqa: NPY002
        random.setstate(self.python)


@contextmanager
def guarded(model: nn.Module, *, evaluate: bool, device: torch.device) -> Iterator[_Guard]:
    """Lend the model for one call and give it back as it was.

    Restores training flags, attributes, parameters, buffers, ``requires_grad`` and ``.grad``, and
    the random state of PyTorch, NumPy and Python, after failures too. A call in the other mode on
    the same model waits until this one has ended.

    Args:
        model: the user's model.
        evaluate: put it into evaluation mode meanwhile.
        device: where it runs, for the random state.

    Yields:
        The guard, whose ``before_write`` must be told of tensors about to be overwritten.
    """
    randomness = _Randomness.now(device)
    with _changed:
        while (guard := _guards.get(id(model))) is not None and guard.evaluate != evaluate:
            _changed.wait()
        if guard is None:
            guard = _Guard(model, evaluate)
            guard.take()
            _guards[id(model)] = guard
        guard.holders += 1
    try:
        yield guard
    finally:
        with _changed:
            guard.holders -= 1
            if guard.holders == 0:
                guard.restore()
                del _guards[id(model)]
                _changed.notify_all()
        randomness.restore()


_rnn_users = 0
_rnn_lock = threading.Lock()
_rnn_flags: tuple[bool, bool] = (True, True)


@contextmanager
def plain_recurrence(needed: bool) -> Iterator[None]:
    """Have recurrent layers run in operations that have a forward mode.

    The fused kernels (oneDNN on the CPU, cuDNN on the GPU) have none.
    """
    global _rnn_users, _rnn_flags  # noqa: PLW0603
    if not needed:
        yield
        return
    with _rnn_lock:
        if _rnn_users == 0:
            _rnn_flags = (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled)  # type: ignore[attr-defined]
            _set_kernels(False, False)
        _rnn_users += 1
    try:
        yield
    finally:
        with _rnn_lock:
            _rnn_users -= 1
            if _rnn_users == 0:
                _set_kernels(*_rnn_flags)


def _set_kernels(mkldnn: bool, cudnn: bool) -> None:
    torch._C._set_mkldnn_enabled(mkldnn)
    torch._C._set_cudnn_enabled(cudnn)

"""A model between two calls of a graph: its tensors, and whether anything else has changed."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fullgrad._compat import global_hooks

# What stands for a value: equal where a graph for one holds for the other.
Described: TypeAlias = Any

_PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, type(Ellipsis))
_SETS = (set, frozenset)
_CONTAINERS = (Mapping, list, tuple, deque, *_SETS)


def geometry(t: Tensor) -> tuple[Any, ...]:
    """What a graph is made for of a tensor: shape, strides, type and device."""
    return tuple(t.shape), t.stride(), t.dtype, t.device


def described(
    value: Any,
    kept: list[Any] | None = None,
    modules: Mapping[int, int] | None = None,
    above: tuple[int, ...] = (),
) -> Described:
    """What stands for an argument or an attribute in comparisons; it can be hashed.

    Args:
        value: tensors by their geometry, plain values and containers by what they hold, all else
            by identity.
        kept: gets what is compared by identity, so that its identity is not given to another.
        modules: numbers of the modules that are described by themselves, by identity.
        above: identities of the containers that hold the value.
    """
    if isinstance(value, Tensor):
        return geometry(value)
    if isinstance(value, (bool, *_PLAIN)):
        return type(value), value
    if modules and id(value) in modules:
        return nn.Module, modules[id(value)]
    if isinstance(value, _CONTAINERS) and id(value) not in above:
        inner = kept, modules, (*above, id(value))
        if isinstance(value, Mapping):
            return type(value), tuple(
                (described(k, *inner), described(v, *inner)) for k, v in value.items()
            )
        parts = (described(v, *inner) for v in value)
        return type(value), (frozenset if isinstance(value, _SETS) else tuple)(parts)
    if kept is not None:
        kept.append(value)
    return type(value), id(value)


def _reached(name: str, value: Any, above: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The tensors and modules that a value is or holds, each with how it is reached."""
    if isinstance(value, (Tensor, nn.Module)):
        yield name, value
    elif isinstance(value, _CONTAINERS) and id(value) not in above:
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for place, item in items:
            yield from _reached(f"{name}[{place!r}]", item, (*above, id(value)))


def _own(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for part in (module._parameters, module._buffers):
        yield from part.items()
    for name, value in module.__dict__.items():
        if name not in ("_parameters", "_buffers", "_modules"):
            yield name, value


def _modules_of(model: nn.Module) -> dict[int, tuple[str, nn.Module, bool]]:
    """The modules that a model reaches, by identity: path, module, and whether it is registered.

    Others are in attributes: a plain list of layers, for example.
    """
    found = {id(m): (path, m, True) for path, m in model.named_modules()}
    waiting = list(found.values())
    while waiting:
        path, module, _ = waiting.pop(0)
        for name, value in _own(module):
            for full, reached in _reached(f"{path}.{name}" if path else name, value):
                if isinstance(reached, nn.Module):
                    for inner, m in reached.named_modules(prefix=full):
                        if id(m) not in found:
                            found[id(m)] = inner, m, False
                            waiting.append(found[id(m)])
    return found


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that a model holds, each once: parameters, buffers and attributes.

    Args:
        model: the eager module.

    Returns:
        From the first name of each.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for path, module, _ in _modules_of(model).values():
        for name, value in _own(module):
            for full, t in _reached(f"{path}.{name}" if path else name, value):
                if isinstance(t, Tensor) and id(t) not in seen:
                    seen.add(id(t))
                    found[full] = t
    return found


def _classes_of(module: nn.Module) -> list[type]:
    """The classes that a module's code and class attributes come from, but PyTorch's base."""
    return [c for c in type(module).__mro__ if c not in (nn.Module, object)]


class Watched:
    """A model whose changes are noticed.

    Tensors that are replaced by others of the same geometry count as no change: :attr:`state` then
    holds the new ones.

    Args:
        model: the eager module.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._description: Described = None
        self.changed()

    def changed(self) -> bool:
        """Whether anything but the numbers of tensors has changed since the last time."""
        if self._description is not None and self._is_as_it_was():
            return False
        before = self._description
        self._take()
        return bool(before != self._description)

    def _take(self) -> None:
        self._kept: list[Any] = []
        self._filled: list[tuple[Any, tuple[Any, ...], tuple[Any, ...]]] = []
        self._empty: list[Any] = []
        state = state_of(self._model)
        self.state = list(state.values())
        self._geometries = [geometry(t) for t in self.state]
        numbers = {id(t): i for i, t in enumerate(self.state)}
        reached = _modules_of(self._model)
        order = {known: i for i, known in enumerate(reached)}
        modules = []
        self._noted: set[int] = set()
        self._types = [(m, type(m)) for _, m, _ in reached.values()]
        for path, module, registered in reached.values():
            own = []
            for name, value in _own(module):
                if name == "training" and registered:
                    continue  # an explanation evaluates the model, whatever the flag
                tied = tuple(numbers.get(id(t)) for _, t in _reached(name, value))
                own.append((name, described(value, self._kept, order), tied))
            modules.append((path, type(module), tuple(own)))
            self._note(module.__dict__)
        classes = list(dict.fromkeys(c for _, m, _ in reached.values() for c in _classes_of(m)))
        for c in classes:
            self._note(vars(c))
        of_classes = tuple((c, described(vars(c), self._kept, order)) for c in classes)
        self._description = (tuple(modules), of_classes, global_hooks())

    def _note(self, container: Any) -> None:
        """Keep what a container holds, and what the containers in it hold."""
        if not isinstance(container, MappingProxyType):
            if id(container) in self._noted:
                return
            self._noted.add(id(container))
        if not isinstance(container, (tuple, frozenset)):
            if not container:
                self._empty.append(container)
                return
            keyed = isinstance(container, Mapping)
            values = tuple(container.values() if keyed else container)
            self._filled.append((container, tuple(container) if keyed else (), values))
        for value in container.values() if isinstance(container, Mapping) else container:
            if isinstance(value, _CONTAINERS):
                self._note(value)

    def _is_as_it_was(self) -> bool:
        """Whether every object is the same; if not, it may still be as good as it was."""
        if any(self._empty) or self._description[-1] != global_hooks():
            return False
        for container, keys, values in self._filled:
            now = container.values() if keys else container
            if len(now) != len(values) or not all(map(operator.is_, now, values)):
                return False
            if keys and tuple(container) != keys:
                return False
        same = zip(self.state, self._geometries, strict=True)
        return all(geometry(t) == g for t, g in same) and all(
            type(m) is kind for m, kind in self._types
        )

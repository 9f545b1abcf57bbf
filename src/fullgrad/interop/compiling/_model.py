"""A model between two calls of a graph: its tensors, and whether anything else has changed."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fullgrad._compat import global_hooks

# What stands for a value: equal where a graph for one holds for the other.
Described: TypeAlias = Any

_PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, type(Ellipsis))


def geometry(t: Tensor) -> tuple[Any, ...]:
    """What a graph is made for of a tensor: shape, strides, type and device."""
    return tuple(t.shape), t.stride(), t.dtype, t.device


def described(value: Any, kept: list[Any] | None = None) -> Described:
    """What stands for an argument or an attribute in comparisons; it can be hashed.

    Args:
        value: tensors by their geometry, plain values and containers by what they hold, all else
            by identity.
        kept: gets what is compared by identity, so that its identity is not given to another.
    """
    if isinstance(value, Tensor):
        return geometry(value)
    if isinstance(value, (bool, *_PLAIN)):
        return type(value), value
    if isinstance(value, nn.Module):
        return nn.Module  # by its own place in the tree
    if isinstance(value, Mapping):
        return type(value), tuple((k, described(v, kept)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return type(value), tuple(described(v, kept) for v in value)
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(described(v, kept) for v in value)
    if kept is not None:
        kept.append(value)
    return type(value), id(value)


def _contents(value: Any) -> Iterator[tuple[str, Any]]:
    """What a container holds, each with how it is reached."""
    if isinstance(value, Mapping):
        yield from ((f"[{k!r}]", v) for k, v in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{i}]", v) for i, v in enumerate(value))


def _tensors(name: str, value: Any, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif depth < 4:
        for place, item in _contents(value):
            yield from _tensors(name + place, item, depth + 1)


def _own(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for part in (module._parameters, module._buffers):
        yield from part.items()
    for name, value in module.__dict__.items():
        if name not in ("_parameters", "_buffers", "_modules"):
            yield name, value


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that a model holds, each once: parameters, buffers and attributes.

    Args:
        model: the eager module.

    Returns:
        From the first name of each.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, value in _own(module):
            for full, t in _tensors(f"{path}.{name}" if path else name, value):
                if id(t) not in seen:
                    seen.add(id(t))
                    found[full] = t
    return found


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
        modules = []
        for path, module in self._model.named_modules():
            own = []
            for name, value in _own(module):
                if name == "training":
                    continue  # an explanation evaluates the model, whatever the flag
                tied = tuple(numbers[id(t)] for _, t in _tensors(name, value))
                own.append((name, described(value, self._kept), tied))
            kind = type(module)
            modules.append((path, kind, id(kind.forward), tuple(own)))
            self._kept.append(kind.forward)
            self._note(module.__dict__)
        self._description = (tuple(modules), global_hooks())

    def _note(self, container: Any) -> None:
        """Keep what a container holds, and what the containers in it hold."""
        if not isinstance(container, tuple):
            if not container:
                self._empty.append(container)
                return
            keyed = isinstance(container, Mapping)
            values = tuple(container.values() if keyed else container)
            self._filled.append((container, tuple(container) if keyed else (), values))
        for value in container.values() if isinstance(container, Mapping) else container:
            if type(value) in (list, tuple, set) or isinstance(value, dict):
                self._note(value)

    def _is_as_it_was(self) -> bool:
        """Whether every object is the same; if not, it may still be as good as it was."""
        if any(self._empty) or self._description[1] != global_hooks():
            return False
        for container, keys, values in self._filled:
            now = container.values() if keys else container
            if len(now) != len(values) or not all(map(operator.is_, now, values)):
                return False
            if keys and tuple(container) != keys:
                return False
        same = zip(self.state, self._geometries, strict=True)
        classes = zip(self._model.modules(), self._description[0], strict=True)
        return all(geometry(t) == g for t, g in same) and all(
            id(type(m).forward) == code for m, (_, _, code, _) in classes
        )

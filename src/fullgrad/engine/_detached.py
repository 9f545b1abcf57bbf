"""Values that depend on the input but left the autograd graph, and whether they come back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from fullgrad._compat import base_of, storage_id
from fullgrad.operations.call import tensors_in

# A tensor by its storage and its geometry: autograd itself makes aliases of what it saves.
_Place: TypeAlias = tuple[int, int, tuple[int, ...], tuple[int, ...]]


class _Cut(NamedTuple):
    """Since which module the values are outside the graph.

    The weak reference frees the values and keeps the key from being given to another storage;
    ``aliases`` tells that values inside the graph share the memory.
    """

    storage: StorageWeakRef
    where: str
    aliases: bool


def _place(t: Tensor) -> _Place:
    storage = storage_id(t)
    return (storage, int(t.storage_offset()), tuple(t.shape), t.stride())


class Dependence:
    """Which values depend on the input, asked of the autograd graph.

    Args:
        roots: autograd nodes of the tensors that the model is given.
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self._known: dict[Any, bool] = dict.fromkeys(roots, True)

    def add(self, node: Any) -> None:
        """Note that what an autograd node made depends on the input."""
        self._known[node] = True

    def of(self, value: Any) -> bool:
        """Whether a value depends on the input through autograd."""
        if not isinstance(value, Tensor):
            return isinstance(value, (list, tuple)) and any(map(self.of, value))
        if not value.requires_grad:
            return False
        node = value.grad_fn
        return node is not None and self.of_node(node)

    def of_node(self, node: Any) -> bool:
        """Whether what an autograd node made depends on the input."""
        known = self._known
        found = known.get(node)
        if found is not None:
            return found
        stack = [node]
        while stack:
            top = stack[-1]
            before = [n for n, _ in top.next_functions if n is not None]
            unknown = [n for n in before if n not in known]
            if unknown and not any(known.get(n) for n in before):
                stack.extend(unknown)
                continue
            known[top] = any(known.get(n, False) for n in before)
            stack.pop()
        return known[node]


class Detached:
    """Float values outside the graph that depend on the input.

    Args:
        dependence: which values depend on the input inside the graph.
    """

    def __init__(self, dependence: Dependence) -> None:
        self._depends = dependence.of
        self._cuts: dict[_Place, _Cut] = {}
        self._storages: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._cuts)

    def where(self, value: Any) -> str | None:
        """Where a value, or one inside it, left the graph; None if it did not."""
        if isinstance(value, Tensor):
            if storage_id(value) not in self._storages:
                return None
            cut = self._cuts.get(_place(value))
            return cut.where if cut is not None and not self._depends(value) else None
        if isinstance(value, (list, tuple)):
            for v in value:
                if isinstance(v, (Tensor, list, tuple)):
                    found = self.where(v)
                    if found is not None:
                        return found
        return None

    def aliases(self, t: Tensor) -> bool:
        """Whether a detached value shares its memory with values inside the graph."""
        if storage_id(t) not in self._storages:
            return False
        cut = self._cuts.get(_place(t))
        return cut is not None and cut.aliases

    def mark(self, t: Tensor, where: str, aliases: bool = False) -> None:
        """A value leaves the graph."""
        kept = aliases or self.aliases(t)
        self._cuts[_place(t)] = _Cut(StorageWeakRef(t.untyped_storage()), where, kept)
        self._storages.add(storage_id(t))

    def follow(self, where: str, args: Iterable[Any], out: Any, writes: bool) -> None:
        """An operation outside the graph passes on what it read."""
        read = list(tensors_in(args))
        for t in tensors_in([out]):
            if t.is_floating_point() or t.is_complex():
                storage = storage_id(t)
                shares = any(
                    storage_id(a) == storage and (self._depends(a) or self.aliases(a)) for a in read
                )
                self.mark(t, where, shares)
                base = base_of(t) if writes else None
                if base is not None:
                    self.mark(base, where)

"""A task: a small random model of a library that users have, what is explained, and two oracles.

The independent sum: all numbers of the explanation, against the value that the model alone returns.
The place oracle: where back-propagation by hand finds a gradient, the map has a number; and
outside the box around all gradients, at several random inputs, it has none.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.interop import hugging_face

DRAWS = 2  # random inputs whose gradients say which places the model reads


@dataclass(frozen=True)
class Case:
    """One call.

    Args:
        model: called as ``model(**batch)``.
        batch: inputs by keyword; floats in float64, or ids.
        target: from the model's output to shape (B,).
        explained: names of the batch.
        layouts: of the explained floats, by name.
        embeddings: for each explained name of ids the module that looks them up.
        options: of the call.
        tolerance: of the sums, relative; larger where a model computes in float32 by itself.
    """

    model: nn.Module
    batch: Mapping[str, Tensor]
    target: Callable[[Any], Tensor]
    explained: Sequence[str]
    layouts: Mapping[str, str]
    embeddings: Mapping[str, nn.Module] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-9


@dataclass(frozen=True)
class Task:
    """A row of docs/tasks.md.

    Args:
        name: of the task.
        library: distribution, for its version.
        model: in words.
        what: is explained, in words.
        make: the call.
        note: what its user must say, or why it is refused.
        refused: a part of the message, if the call without options is refused.
    """

    name: str
    library: str
    model: str
    what: str
    make: Callable[[], Case]
    note: str = ""
    refused: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came out: the largest relative error of the sums, and each map's share of the value."""

    error: float
    value: float
    elsewhere: float
    places: dict[str, tuple[int, int]]


def explained(case: Case, **options: Any) -> fullgrad.CompleteMap:
    """The call that a user makes."""
    if case.embeddings:
        return hugging_face.explain(
            case.model,
            case.batch,
            case.target,
            explained=list(case.explained),
            layouts=case.layouts,
            **options,
        ).found
    rest = {n: v for n, v in case.batch.items() if n not in case.explained}
    return fullgrad.complete_map(
        case.model,
        {n: case.batch[n] for n in case.explained},
        case.target,
        forward_kwargs=rest,
        layout=[case.layouts[n] for n in case.explained],
        **options,
    )


def alone(case: Case, batch: Mapping[str, Tensor]) -> Tensor:
    """What the model returns, without the library."""
    with torch.no_grad():
        return case.target(case.model(**batch))


def gradients(case: Case, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the value by each explained entry, by hand; of ids by their embedded tokens."""
    leaves: dict[str, Tensor] = {}
    hooks = []
    called = dict(batch)
    for name in case.explained:
        if name in case.embeddings:

            def answer(_: nn.Module, given: Any, out: Tensor, name: str = name) -> Tensor | None:
                same = given[0].shape == batch[name].shape and bool((given[0] == batch[name]).all())
                if not same:
                    return None
                leaves[name] = out.detach().clone().requires_grad_()
                return leaves[name].clone()

            hooks.append(case.embeddings[name].register_forward_hook(answer))
        else:
            leaves[name] = batch[name].detach().clone().requires_grad_()
            called[name] = leaves[name].clone()
    try:
        value = case.target(case.model(**called)).sum()
    finally:
        for hook in hooks:
            hook.remove()
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {
        n: torch.zeros_like(leaves[n]) if g is None else g
        for n, g in zip(leaves, found, strict=True)
    }


def drawn(case: Case, seed: int) -> dict[str, Tensor]:
    """The batch with other random floats; ids stay."""
    random = torch.Generator().manual_seed(seed)
    return {
        n: torch.randn(v.shape, generator=random, dtype=torch.float64).to(v.dtype)
        if n in case.explained and v.is_floating_point()
        else v
        for n, v in case.batch.items()
    }


def read(case: Case, name: str, gradient: Tensor) -> Tensor:
    """Which places have a gradient, shape (B, *positions)."""
    letters = case.layouts.get(name, "BTC")
    there = gradient != 0
    if "C" in letters:
        there = there.any(letters.index("C"))
    return there.movedim(letters.replace("C", "").index("B"), 0)


def box(there: Tensor) -> Tensor:
    """The smallest box around the places that are True, by sample."""
    found = torch.ones_like(there)
    for d in range(1, there.dim()):
        others = [i for i in range(1, there.dim()) if i != d]
        along = there.any(others) if others else there
        between = along.cummax(1).values & along.flip(1).cummax(1).values.flip(1)
        shape = [len(there) if i == 0 else 1 for i in range(there.dim())]
        shape[d] = there.shape[d]
        found &= between.view(shape)
    return found


def check(case: Case) -> Outcome:
    """Explain, and hold it against both oracles.

    Raises:
        AssertionError: one of them fails.
    """
    found = explained(case, **case.options)
    value = alone(case, case.batch)
    total = found.elsewhere + sum(m.double().flatten(1).sum(1) for m in found.maps)
    scale = value.abs() + sum(m.double().abs().flatten(1).sum(1) for m in found.maps)
    error = float(((total - value).abs() / scale).max())
    assert error < case.tolerance, f"the sum is off by {error:.1e}"
    own = gradients(case, case.batch)
    others = [gradients(case, drawn(case, seed)) for seed in range(DRAWS)]
    places = {}
    for name, numbers in found.map.items():
        lies = numbers[:, 0] != 0
        here = read(case, name, own[name])
        assert not bool((here & ~lies).any()), f"{name}: places with a gradient have no number"
        reach = torch.stack([here, *(read(case, name, g[name]) for g in others)]).any(0)
        outside = lies & ~box(reach)
        assert not bool(outside.any()), f"{name}: places that are not read have numbers"
        places[name] = (int(lies.sum()), lies.numel())
    return Outcome(error, float(value[0]), float(found.elsewhere[0]), places)


def library(module: str) -> Any:
    """A module of a library, untyped."""
    return importlib.import_module(module)


def version(library: str) -> str:
    return importlib.metadata.version(library)


def seeded(make: Callable[[], nn.Module]) -> Any:
    """A random model in float64, the same each time, its norms not trivial."""
    torch.manual_seed(0)
    model = make()
    random = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=random) / 9)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=random) + 0.5)
    return model.double().eval()


def noise(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ids(batch: int, tokens: int, below: int, seed: int = 3) -> Tensor:
    return torch.randint(3, below, (batch, tokens), generator=torch.Generator().manual_seed(seed))

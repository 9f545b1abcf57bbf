"""Complete maps of minibatches, or of several targets, as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from fullgrad.maps.complete_sink import Explained, in_order


def joined(parts: Sequence[Explained]) -> Explained:
    """The results of minibatches as one."""
    return parts[0] if len(parts) == 1 else _together(parts, torch.cat, torch.cat)


def of_targets(parts: Sequence[Explained]) -> Explained:
    """The results of several targets as one: (B,) becomes (B, k)."""
    return _together(parts, partial(torch.stack, dim=1), partial(torch.cat, dim=1))


def _together(
    parts: Sequence[Explained],
    join: Callable[[list[Tensor]], Tensor],
    join_maps: Callable[[list[Tensor]], Tensor],
) -> Explained:
    names = in_order([list(p.stages) for p in parts])
    targets = [p.target for p in parts if p.target is not None]
    return Explained(
        maps=tuple(join_maps(list(m)) for m in zip(*(p.maps for p in parts), strict=True)),
        stages={
            n: join([p.stages.get(n, torch.zeros_like(p.residual)) for p in parts]) for n in names
        },
        names=parts[0].names,
        layers=tuple(dict.fromkeys(name for p in parts for name in p.layers)),
        steps=join([p.steps for p in parts]),
        output=join([p.output for p in parts]),
        residual=join([p.residual for p in parts]),
        target=join(targets) if len(targets) == len(parts) else None,
    )

"""A graph's result against the eager one, sample by sample.

A ReLU whose input is zero to rounding is open for one kernel and shut for the next; the map jumps
with it. A graph with kernels of its own may then give another map, as the eager call does where its
input changes in the last bits, or where PyTorch takes its other kernels. A sample that differs must
be such a one, and differ by no more than three times as much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fullgrad.engine import verification
from fullgrad.interop.compiling.call import Found

_LOOSER = 10  # than the sum's tolerance, a map's
_LAST_BITS, _DRAWS = 4, 5
_AS_FAR = 3  # how many times as far as the eager map jumps

Explain = Callable[[Sequence[Tensor]], Found]  # with the target of the call


def accepted(eager: Found) -> float:
    """How far maps may be apart, relative to the largest number of a sample's."""
    dtypes = {m.dtype for m in eager.maps} | {eager.output.dtype}
    return _LOOSER * verification.tolerance_for(dtypes, eager.output.device)


def apart(found: Found, eager: Found) -> tuple[Tensor, float]:
    """How far maps, and outputs, are apart.

    Args:
        found: of a graph.
        eager: of the same call.

    Returns:
        For each sample the largest difference of its maps, relative to their largest number, shape
        (B,); and that of all outputs. Infinite where another class is explained.
    """
    own, given = (
        torch.cat([m.detach().flatten(1).double() for m in f.maps], 1) for f in (eager, found)
    )
    size = own.abs().amax(1)
    gaps = (given - own).abs().amax(1) / torch.where(size > 0, size, 1)
    if found.index is not None and eager.index is not None:
        gaps = torch.where(found.index == eager.index, gaps, float("inf"))
    outputs, ours = eager.output.detach().double(), found.output.detach().double()
    largest = outputs.abs().max()
    return gaps, float((ours - outputs).abs().max() / torch.where(largest > 0, largest, 1))


def unexplained(
    gaps: Tensor, most: float, explain: Explain, tensors: Sequence[Tensor], eager: Found
) -> Tensor:
    """Which samples are further apart than accepted, though their map does not jump as far.

    Args:
        gaps: of the samples; see :func:`apart`.
        most: the largest accepted one.
        explain: the eager call.
        tensors: its inputs.
        eager: what it gave.
    """
    differs = ~(gaps <= most)
    if bool(differs.any()):
        own = _jumps(explain, tensors, eager)
        differs &= ~((own > most) & (gaps <= _AS_FAR * own))
    return differs


def _jumps(explain: Explain, tensors: Sequence[Tensor], eager: Found) -> Tensor:
    """How far the eager map goes where nothing but rounding changes, for each sample."""
    found = [apart(explain(near), eager)[0] for near in _nearby(tensors)]
    if eager.output.device.type == "cpu":
        with _without_onednn():
            found.append(apart(explain(tensors), eager)[0])
    return torch.stack(found).amax(0)


@contextmanager
def _without_onednn() -> Iterator[None]:
    settings: Any = torch.backends.mkldnn
    before, settings.enabled = settings.enabled, False
    try:
        yield
    finally:
        settings.enabled = before


def _nearby(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Inputs with other last bits, a few times."""
    for seed in range(_DRAWS):
        generator = torch.Generator().manual_seed(seed)
        yield [_near(t, generator) for t in tensors]


def _near(t: Tensor, generator: torch.Generator) -> Tensor:
    """A tensor with other last bits."""
    if not t.is_floating_point():
        return t
    noise = torch.randn(t.shape, generator=generator, device="cpu").to(t)
    return t.detach() * (1 + _LAST_BITS * torch.finfo(t.dtype).eps * noise)

"""What an artifact gives, compared with what fullgrad gives.

A ReLU whose input is zero to rounding is open in one program and shut in the next, and the map
jumps with it: fullgrad's own map does so with PyTorch's other kernels. So samples are compared one
by one, and one that differs must be such a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fullgrad.errors import GraphError
from fullgrad.interop.compiling._call import Found

LARGEST_DIFFERENCE = 1e-4  # relative to the largest number of a sample
_NOISE, _DRAWS = 2.0**-21, 3  # of a float32 a few last bits
_SCALES = 1.0, 0.9, 0.8, 0.7

Explain = Callable[[Sequence[Tensor], Tensor], Found]  # by tensors and rows of the target
Run = Callable[..., Sequence[Tensor]]


class Compared(NamedTuple):
    """What a comparison found.

    Args:
        samples: that were compared.
        equal: those of them with no number above :data:`LARGEST_DIFFERENCE`.
        difference: the largest one in those.
        jumps: the largest one in the others, whose maps jump with rounding.
    """

    samples: int
    equal: int
    difference: float
    jumps: float


def compared(run: Run, explain: Explain, tensors: Sequence[Tensor], rows: Tensor) -> Compared:
    """Compare an artifact with fullgrad on the example and on mirror images of it.

    Args:
        run: the artifact.
        explain: fullgrad.
        tensors: of the example call.
        rows: the target, as the graph takes it.

    Raises:
        GraphError: the numbers differ.
    """
    alone = not all(t.is_floating_point() and t.dim() > 1 for t in tensors)
    own, found = [], explain(tensors, rows)
    own.append(_one(run, explain, tensors, rows, found))
    for given, others in () if alone else _others(tensors, rows, found):
        own.append(_one(run, explain, given, others, explain(given, others)))
        if own[-1].equal:
            break
    if not own[-1].equal:
        raise GraphError(
            "the map of no sample could be compared: each jumps with rounding, where an activation "
            "is zero to rounding. No file is kept. Export with an example of more samples, or "
            "explain it eagerly."
        )
    samples, equal, *worst = zip(*own, strict=True)
    return Compared(sum(samples), sum(equal), *(max(w) for w in worst))


def _others(
    tensors: Sequence[Tensor], rows: Tensor, found: Found
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Other inputs of the same kind, other classes where there are classes."""
    if len(found.rest) == 1 and found.index is not None:
        rows = ((found.index + 1) % found.rest[0])[:, None]
    for scale in _SCALES:
        yield [t.detach().flip(-1) * scale for t in tensors], rows


def _one(
    run: Run, explain: Explain, tensors: Sequence[Tensor], rows: Tensor, found: Found
) -> Compared:
    targets = {0: (), 1: (rows[:, 0],)} if rows.shape[1] < 2 else {rows.shape[1]: (rows,)}
    logits, *maps, residual = (
        t.detach() for t in run(*(t.detach() for t in tensors), *targets[rows.shape[1]])
    )
    _check_logits(logits, rows, found)
    apart = _apart(maps, found)
    finite = torch.isfinite(residual.to(apart)) & torch.isfinite(apart)
    differs = ~(finite & (apart <= LARGEST_DIFFERENCE))
    if bool((differs & ~_jumping(explain, tensors, rows, found, differs)).any()):
        worst = float(apart[differs].max())
        raise GraphError(
            f"the file gives other maps than fullgrad: by {worst:.2g} of a map's largest number, "
            f"more than {LARGEST_DIFFERENCE:g}. No file is kept. Explain it eagerly, or export "
            "with another format."
        )
    equal, others = apart[~differs], apart[differs]
    return Compared(len(apart), len(equal), _largest(equal), _largest(others))


def _largest(values: Tensor) -> float:
    return float(values.max()) if len(values) else 0.0


def _apart(maps: Sequence[Tensor], found: Found) -> Tensor:
    """The largest difference in each sample's maps, relative to its maps' largest number."""
    own = torch.cat([m.detach().flatten(1) for m in found.maps], 1)
    given = torch.cat([m.flatten(1) for m in maps], 1).to(own)
    size = own.abs().amax(1)
    return (given - own).abs().amax(1) / torch.where(size > 0, size, 1)


def _jumping(
    explain: Explain, tensors: Sequence[Tensor], rows: Tensor, found: Found, differs: Tensor
) -> Tensor:
    """For which samples fullgrad's own map jumps with rounding."""
    jumps = torch.zeros_like(differs)
    index = rows
    if len(found.rest) == 1 and found.index is not None:
        index = found.index[:, None]
    for seed in range(_DRAWS):
        if bool((differs & ~jumps).any()):
            noise = torch.Generator().manual_seed(seed)
            near = [_near(t, noise) for t in tensors]
            with torch.backends.mkldnn.flags(enabled=seed > 0):
                jumps |= _apart(explain(near, index).maps, found) > LARGEST_DIFFERENCE
    return jumps


def _near(t: Tensor, noise: torch.Generator) -> Tensor:
    if not t.is_floating_point():
        return t
    return t.detach() * (1 + _NOISE * torch.randn(t.shape, generator=noise).to(t))


def _check_logits(logits: Tensor, rows: Tensor, found: Found) -> None:
    own = found.output.detach()
    explained = logits.reshape(len(own), -1)
    if found.rest:
        own_rows = rows.to(logits.device)
        if len(found.rest) == 1 and found.index is not None:
            own_rows = found.index[:, None].to(logits.device)
        places = torch.arange(len(own), device=logits.device), *own_rows.unbind(1)
        explained = logits[places][:, None]
    worst = float((explained[:, 0].to(own) - own).abs().max() / logits.abs().max())
    if not worst <= LARGEST_DIFFERENCE:  # NaN too
        raise GraphError(
            f"the file gives other logits than the model: by {worst:.2g} of the largest one, more "
            f"than {LARGEST_DIFFERENCE:g}. No file is kept. Explain it eagerly, or export with "
            "another format."
        )

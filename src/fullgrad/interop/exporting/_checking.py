"""What an artifact gives, compared with what fullgrad gives, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fullgrad.errors import GraphError
from fullgrad.interop.compiling.call import Found
from fullgrad.interop.compiling.comparing import apart, unexplained

LARGEST_DIFFERENCE = 1e-4  # relative to the largest number of a sample's maps
_OF_LOGITS = 1e-3  # of the largest one: deep networks add up rounding
_SCALES = 1.0, 0.9, 0.8, 0.7
_WAY_OUT = "No file is kept. Explain it eagerly, or export with another format."

Explain = Callable[[Sequence[Tensor], Tensor], Found]  # by tensors and rows of the target
Run = Callable[..., Sequence[Tensor]]


class Compared(NamedTuple):
    """What a comparison found.

    Args:
        samples: that were compared.
        equal: those of them with no number that differs by more than 1e-4 of the map's largest.
        difference: the largest one in those.
        jumps: the largest one in the others, whose maps jump with rounding in fullgrad as well: an
            activation is zero to rounding, and a ReLU is on in one program and off in the
            other. It is at most three times as far as fullgrad's own map jumps where the input
            changes in its last bits, or with PyTorch's other kernels.
    """

    samples: int
    equal: int
    difference: float
    jumps: float


def compared(
    run: Run, explain: Explain, tensors: Sequence[Tensor], rows: Tensor, *, same_kernels: bool
) -> Compared:
    """Compare an artifact with fullgrad: on the example, mirror images of it, other classes.

    Args:
        run: the artifact.
        explain: fullgrad.
        tensors: of the example call.
        rows: the target, as the graph takes it.
        same_kernels: the artifact computes the model's output as PyTorch does, so that a sample
            has to be equal.

    Raises:
        GraphError: the numbers differ.
    """
    eager = explain(tensors, rows)
    found = [_one(run, explain, tensors, rows, eager)]
    for given, others in _others(tensors, rows, eager):
        found.append(_one(run, explain, given, others, explain(given, others)))
        if found[-1].equal or not same_kernels:
            break
    if same_kernels and not found[-1].equal:
        raise GraphError(
            "the map of each sample jumps with rounding, so that none could be compared: an "
            "activation is zero to rounding. No file is kept. Export with an example of other "
            "numbers, or explain it eagerly."
        )
    samples, equal, difference, jumps = zip(*found, strict=True)
    return Compared(sum(samples), sum(equal), max(difference), max(jumps))


def _others(
    tensors: Sequence[Tensor], rows: Tensor, eager: Found
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Other inputs of the same kind, and other classes where there are classes.

    Inputs that are not all numbers of samples (tokens, a mask, a scale) stay as they are.
    """
    others = rows
    if len(eager.rest) == 1 and eager.index is not None:
        others = ((eager.index + 1) % eager.rest[0])[:, None]
    if all(t.is_floating_point() and t.dim() > 1 for t in tensors):
        for scale in _SCALES:
            yield [t.detach().flip(-1) * scale for t in tensors], others
    elif others is not rows:
        yield [t.detach() for t in tensors], others


def _one(
    run: Run, explain: Explain, tensors: Sequence[Tensor], rows: Tensor, eager: Found
) -> Compared:
    target = [rows[:, 0] if rows.shape[1] == 1 else rows] if rows.shape[1] else []
    given = run(*(t.detach() for t in tensors), *target)
    logits, *maps, residual = (t.detach().to(eager.output.device) for t in given)
    found = Found(tuple(maps), _explained(logits, rows, eager), residual, eager.index, eager.rest)
    gaps, of_logits = apart(found, eager)
    if not of_logits <= _OF_LOGITS:  # NaN too
        raise GraphError(
            f"the file gives other logits than the model: by {of_logits:.2g} of the largest one, "
            f"more than {_OF_LOGITS:g}. {_WAY_OUT}"
        )
    gaps = torch.where(torch.isfinite(residual), gaps, torch.nan)
    at = rows
    if len(eager.rest) == 1 and eager.index is not None:
        at = eager.index[:, None]  # rounding may change which class is the predicted one
    wrong = unexplained(gaps, LARGEST_DIFFERENCE, lambda t: explain(t, at), tensors, eager)
    if bool(wrong.any()):
        raise GraphError(
            f"the file gives other maps than fullgrad: by {float(gaps[wrong].max()):.2g} of a "
            f"map's largest number, more than {LARGEST_DIFFERENCE:g}. {_WAY_OUT}"
        )
    equal = gaps <= LARGEST_DIFFERENCE
    return Compared(len(gaps), int(equal.sum()), _largest(gaps[equal]), _largest(gaps[~equal]))


def _explained(logits: Tensor, rows: Tensor, eager: Found) -> Tensor:
    """The explained numbers, of classes that are fullgrad's where they are the predicted ones."""
    if not eager.rest:
        return logits.reshape(-1)
    if len(eager.rest) == 1 and eager.index is not None:
        rows = eager.index[:, None]
    places = torch.arange(len(logits), device=logits.device), *rows.to(logits.device).unbind(1)
    return logits[places]


def _largest(values: Tensor) -> float:
    return float(values.max()) if len(values) else 0.0

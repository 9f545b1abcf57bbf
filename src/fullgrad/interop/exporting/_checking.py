"""What an artifact gives, compared with what fullgrad gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fullgrad.errors import GraphError
from fullgrad.interop.compiling._call import Found

LARGEST_DIFFERENCE = 1e-4  # relative to the largest number of a sample


class Try(NamedTuple):
    """A call of an artifact, and what fullgrad's own call gave."""

    name: str
    given: Sequence[Tensor]
    found: Found


def checked(one: Try, outputs: Sequence[Tensor]) -> float:
    """The largest difference of an artifact's numbers from fullgrad's own.

    Args:
        one: what the artifact was called with.
        outputs: what it gave.

    Returns:
        The difference in a sample's map, divided by the largest number of that map; or in the
        explained logits, divided by the batch's largest logit; whichever is larger.

    Raises:
        GraphError: it is above :data:`LARGEST_DIFFERENCE`, or the numbers are not finite.
    """
    logits, *maps, residual = outputs
    pairs = [(m.flatten(1), own.flatten(1)) for m, own in zip(maps, one.found.maps, strict=True)]
    explained = _explained(logits, one).reshape(1, -1)
    logit = "the explained logits", explained, one.found.output.reshape(1, -1)
    worst = 0.0
    for name, given, own in (*(("the map", *pair) for pair in pairs), logit):
        own = own.detach()
        size = own.abs().amax(1, keepdim=True)
        apart = (given.to(own) - own).abs() / torch.where(size > 0, size, 1)
        largest = float(apart.max())
        if not largest <= LARGEST_DIFFERENCE:  # NaN is no number that can be compared
            raise GraphError(
                f"the file gives other numbers than fullgrad on {one.name}: {name} differs by "
                f"{largest:.2g} of its largest number, more than {LARGEST_DIFFERENCE:g}. No file "
                "is kept. Explain it eagerly, or export with another format."
            )
        worst = max(worst, largest)
    if not bool(torch.isfinite(residual).all()):
        raise GraphError(f"the residual is not finite on {one.name}. No file is kept.")
    return worst


def _explained(logits: Tensor, one: Try) -> Tensor:
    if not one.found.rest:
        return logits
    rows = one.given[-1].to(logits.device).reshape(len(logits), -1)
    if len(one.found.rest) == 1:
        rows = torch.where(rows < 0, logits.argmax(1, keepdim=True), rows)
    return logits[(torch.arange(len(logits), device=logits.device), *rows.unbind(1))]

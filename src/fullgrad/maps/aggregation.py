"""From terms to a map: psi, the sum over channels, and one upsampling for each resolution.

Srinivas & Fleuret 2019, equation 4: S(x) = psi(grad f * x) + sum over layers and channels of
psi(f^b), psi = upsample(rescale(|.|)). Pure functions on tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from fullgrad.axes.algebra import Axes
from fullgrad.axes.layouts import Grid, example_layout, without_positions
from fullgrad.axes.placement import Cells, CellsAlong, Placement, arranged, on_grid, placements_on
from fullgrad.errors import LayoutError

Psi: TypeAlias = Literal["layer", "channel", "signed"]

PSI: tuple[str, ...] = get_args(Psi)
_EPSILON = 1e-6  # in the authors' code, against layers of zeros
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def check_psi(psi: str) -> None:
    """Refuse a rescaling that is unknown.

    Raises:
        ValueError: listing those there are.
    """
    if psi not in PSI:
        raise ValueError(f"psi must be one of {', '.join(PSI)}, not {psi!r}")


def rescaled_sum(
    term: Tensor,
    channels: Sequence[int],
    psi: Psi = "layer",
    *,
    steps: Sequence[int] = (),
    overwrite: bool = False,
) -> Tensor:
    """The rescaling of psi, then the sum over channels (they commute with upsampling).

    Args:
        term: gradient times bias, samples first, contiguous or not.
        channels: which axes of it are not positions.
        psi: ``layer`` takes |.| and stretches each sample's layer to [0, 1]: minimum and maximum
            over all channels and positions (the authors' code); ``channel`` stretches every
            channel by itself (the paper's formula), those without contrast compared with their
            layer kept at zero; ``signed`` leaves the numbers as they are.
        steps: which axes count terms, each stretched by itself: the steps of a recurrent layer.
        overwrite: the term's memory may be used.

    Returns:
        The term without its channel axes.
    """
    if psi == "signed":
        return term.sum(list(channels)) if channels else term
    size = term.abs_() if overwrite else term.abs()
    # Over axes, not over the flattened term: that would copy one that lies channels-last.
    layer = [d for d in range(1, size.dim()) if d not in steps]
    if psi == "channel":
        over = [d for d in layer if d not in channels]
        if over:
            low, high = size.amin(over, keepdim=True), size.amax(over, keepdim=True)
            whole = high.amax(layer, keepdim=True)
            spread = (high - low + _EPSILON * whole).clamp_(min=torch.finfo(size.dtype).tiny)
            size = (size - low).div_(spread)
        else:
            size = torch.zeros_like(size)
        return size.sum(list(channels)) if channels else size
    low, high = (size.amin(layer, True), size.amax(layer, True)) if layer else (size, size)
    spread = (high - low).add_(_EPSILON)
    total = size.sum(list(channels), keepdim=True) if channels else size
    count = math.prod(term.shape[d] for d in channels)
    return total.sub_(low, alpha=count).div_(spread).squeeze(tuple(channels))


def rescaled_channel_sum(term: Tensor, psi: Psi = "layer") -> Tensor:
    """:func:`rescaled_sum` of a term of shape (B, C, *positions): shape (B, 1, *positions)."""
    return rescaled_sum(term, [1], psi).unsqueeze(1)


def upsample(maps: Tensor, size: Sequence[int], cells: Sequence[Cells] = ()) -> Tensor:
    """Bring maps of shape (B, 1, *cells) to the input's size, linearly.

    Args:
        maps: on a term's own grid.
        size: of the input.
        cells: where the grid's cells lie; left out, they are stretched over the input, corners
            aligned.
    """
    if all(c.weights is None for c in cells):
        if tuple(maps.shape[2:]) == tuple(size):
            return maps
        return F.interpolate(maps, size=tuple(size), mode=_MODES[len(size)], align_corners=True)
    for d, (n, c) in enumerate(zip(size, cells, strict=True)):
        if c.weights is None and c.count == n:
            continue
        weights = _aligned(n, c.count) if c.weights is None else torch.from_numpy(c.weights)
        weights = weights.to(maps.device, maps.dtype)
        if weights.dim() == 3:  # of each sample
            last = maps.movedim(2 + d, -1)
            flat = torch.bmm(last.flatten(1, -2), weights.mT)
            maps = flat.view(*last.shape[:-1], n).movedim(-1, 2 + d)
        else:
            maps = torch.tensordot(maps, weights, ([2 + d], [1])).movedim(-1, 2 + d)
    return maps


def _aligned(size: int, cells: int) -> Tensor:
    """The weights of linear interpolation with aligned corners, shape (size, cells)."""
    columns = torch.eye(cells, dtype=torch.float64).unsqueeze(1)
    return F.interpolate(columns, size=size, mode="linear", align_corners=True)[:, 0].T


# From sums on a grid, shape (B, 1, *cells), to the input's size.
Draw: TypeAlias = Callable[[Tensor, Sequence[int], Sequence[Cells]], Tensor]


class Aggregate:
    """Sums of term maps, one for each grid, brought to the input's size once at the end.

    Args:
        size: of the input.
        draw: how a grid's sum is brought to it.
    """

    def __init__(self, size: Sequence[int], draw: Draw = upsample) -> None:
        self._size, self._draw = tuple(size), draw
        self._sums: dict[Any, tuple[Tensor, tuple[Cells, ...]]] = {}

    def add(self, reduced: Tensor, cells: tuple[Cells, ...]) -> None:
        """Count a term's map, shape (B, 1, *cells)."""
        key = tuple(c.key for c in cells)
        known = self._sums.get(key)
        if known is None:
            self._sums[key] = (reduced, cells)
        elif known[0].dtype != reduced.dtype:
            self._sums[key] = (known[0] + reduced, cells)
        else:
            known[0].add_(reduced)

    def map(self) -> Tensor | None:
        """Everything counted so far at the input's size, shape (B, 1, *positions); None if none."""
        total: Tensor | None = None
        for maps, cells in self._sums.values():
            drawn = self._draw(maps, self._size, cells)
            total = drawn if total is None else total + drawn
        return total

    @staticmethod
    def maps_of(aggregates: Sequence[Aggregate]) -> tuple[Tensor, ...]:
        """The maps of all inputs: zero for one that no term lies on.

        Raises:
            LayoutError: no term lies on any of them.
        """
        found = [a.map() for a in aggregates]
        some = next((m for m in found if m is not None), None)
        if some is None:
            raise LayoutError("no term of 'bias' has positions, so there is no map")
        return tuple(
            some.new_zeros(len(some), 1, *a._size) if m is None else m
            for a, m in zip(aggregates, found, strict=True)
        )


def _unknown(
    module: str, op: str, shape: Sequence[int], batch: int, grids: Sequence[Grid], decomposed: bool
) -> LayoutError:
    fits = example_layout(shape, batch, grids)
    when = " when you call fullgrad.decompose" if decomposed else ""
    ways = []
    if fits is not None:
        letters = [c for g in grids for c in g.letters]
        forms = {fits: "it covers the whole input"} if {*letters} & {*fits} else {}
        forms[without_positions(fits, letters)] = "without positions"
        stated = [f"activation_layouts={{{module!r}: {f!r}}} ({what})" for f, what in forms.items()]
        ways.append(f"state it{when}, as in {' or '.join(stated)}")
    if batch > 1:
        alone = "" if decomposed else " (batch_size=1)"
        ways.append(f"explain one sample at a time{alone} if only the samples' places differ")
    if not decomposed:
        ways.append("choose terms='input'")
    ways.append("aggregate the terms of fullgrad.decompose yourself")
    advice = ", or ".join(filter(None, (", ".join(ways[:-1]), ways[-1])))
    return LayoutError(
        f"it is not known where the numbers of {op} in {module or 'the model'} (shape "
        f"{tuple(shape)}) lie in the input. {advice[0].upper()}{advice[1:]}."
    )


def placements_for(
    axes: Axes | None,
    module: str,
    op: str,
    shape: Sequence[int],
    batch: int,
    grids: Sequence[Grid],
    *,
    decomposed: bool = False,
    along: CellsAlong | None = None,
) -> list[Placement | None]:
    """How a term is to be read on each grid; None where it has no positions.

    Args:
        axes: of the operation's output, None if they are unknown.
        module: that the term is of, for messages.
        op: the same.
        shape: of the term.
        batch: number of samples.
        grids: of the explained inputs.
        decomposed: whether the term is one of a decomposition, for messages.
        along: which cells a grid's axis has; see :func:`fullgrad.axes.placement.placement_of`.

    Raises:
        LayoutError: where its numbers lie is not known.
    """
    if axes is None or axes.shape != tuple(shape):
        raise _unknown(module, op, shape, batch, grids, decomposed)
    try:
        return placements_on(axes, [slice(g.start, g.stop) for g in grids], batch, along)
    except ValueError:
        raise _unknown(module, op, shape, batch, grids, decomposed) from None


def reduced(value: Tensor, placement: Placement, psi: Psi, *, overwrite: bool = False) -> Tensor:
    """The map of (some samples of) a term on its own grid, shape (samples, 1, *extents)."""
    return drawn(*arranged(value, placement), placement, psi, overwrite=overwrite)


def drawn(
    view: Tensor,
    positions: Sequence[int],
    placement: Placement,
    psi: Psi,
    *,
    overwrite: bool = False,
) -> Tensor:
    """The map of a term as :func:`~fullgrad.axes.placement.arranged` gives it.

    Returns:
        Shape (samples, 1, *extents).
    """
    channels = [d for d in range(1, view.dim()) if d not in positions]
    apart = zip(positions, placement.positions, strict=False)
    steps = [d for d, p in apart if p in placement.steps]
    values = rescaled_sum(view, channels, psi, steps=steps, overwrite=overwrite)
    return on_grid(values, placement)

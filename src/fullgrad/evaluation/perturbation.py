"""Pixel perturbation: remove pixels in the order of a map, and see how much the output changes.

Srinivas & Fleuret 2019, section 5.1: with the k % least salient pixels set to black, a good map
leaves the output of the predicted class as it was; with the most salient ones, it does not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from fullgrad.engine.model_state import guarded
from fullgrad.engine.targets import main_tensor
from fullgrad.errors import InputError
from fullgrad.evaluation.removal import Fill, constant, count_of, first_of, order_of
from fullgrad.maps.regions import pooled

Order: TypeAlias = Literal["least", "most"]


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """Holds what removing pixels did, for each sample and fraction.

    Args:
        target: the class predicted on the whole image, shape (B,).
        before: its logit, shape (B,).
        after: its logit with pixels removed, shape (B, fractions).
        relative: |after - before| / |before|, the paper's measure, same shape.
        probability: change of the class's probability, same shape.
        class_unchanged: whether the class is still the predicted one, same shape.
    """

    target: Tensor
    before: Tensor
    after: Tensor
    relative: Tensor
    probability: Tensor
    class_unchanged: Tensor

    @property
    def kept(self) -> Tensor:
        """The old name of ``class_unchanged``."""
        warnings.warn("kept is now class_unchanged", DeprecationWarning, stacklevel=2)
        return self.class_unchanged


def logits_of(
    model: nn.Module,
    x: Tensor,
    jobs: Sequence[tuple[Tensor, int]],
    fill: Fill,
    seeds: list[int],
    batch_size: int = 32,
) -> Tensor:
    """Return the outputs of many perturbations of the same images, in common batches.

    Args:
        model: with an output of shape (B, classes); in evaluation mode, called under no_grad.
        x: shape (B, C, *positions).
        jobs: places and how many of them are removed, one pair for each perturbation.
        fill: what is put there.
        seeds: for the fill, one for each image.
        batch_size: how many images go through the model together.

    Returns:
        Shape (jobs, B, classes), float64.
    """

    def images() -> Iterator[Tensor]:
        for places, count in jobs:
            yield fill(x, first_of(places, count, x.shape), seeds)

    done: list[Tensor] = []
    waiting: list[Tensor] = []
    for batch in images():
        waiting.append(batch)
        if len(waiting) * len(x) >= batch_size:
            done += _outputs(model, torch.cat(waiting), batch_size)
            waiting = []
    if waiting:
        done += _outputs(model, torch.cat(waiting), batch_size)
    return torch.cat(done).view(len(jobs), len(x), -1)


def compared(whole: Tensor, logits: Tensor, target: Tensor) -> Changes:
    """Return what perturbations did to the outputs.

    Args:
        whole: logits of the whole images, shape (B, classes).
        logits: shape (jobs, B, classes).
        target: the class that is looked at, shape (B,).
    """
    logits = logits.transpose(0, 1)
    index = target[:, None, None].expand(-1, logits.shape[1], 1)
    before, after = whole.gather(1, target[:, None])[:, 0], logits.gather(2, index)[..., 0]
    p_before = whole.softmax(1).gather(1, target[:, None])
    p_after = logits.softmax(2).gather(2, index)[..., 0]
    return Changes(
        target=target,
        before=before,
        after=after,
        relative=(after - before[:, None]).abs() / before[:, None].abs(),
        probability=p_after - p_before,
        class_unchanged=logits.argmax(2) == target[:, None],
    )


def changes(
    model: nn.Module,
    x: Tensor,
    maps: Tensor,
    fractions: Sequence[float],
    *,
    order: Order = "least",
    fill: Fill | Tensor | float = 0.0,
    seed: int = 0,
    batch_size: int = 32,
) -> Changes:
    """Perturb a batch by its maps.

    Args:
        model: an image classifier with an output of shape (B, classes); lent in evaluation mode.
        x: shape (B, C, *positions).
        maps: shape (B, 1, *positions).
        fractions: of the pixels that are removed, each in (0, 1].
        order: least salient first (the paper's test) or most salient first.
        fill: what removed pixels become: a fill of :func:`fullgrad.evaluation.removal.fill_named`,
            or in the model's input space a number, or one for each channel.
        seed: breaks ties in the maps, and is the fill's.
        batch_size: how many perturbed images go through the model together.

    Raises:
        ValueError: an unknown order, no fractions, or one outside of (0, 1].
        InputError: maps that do not fit.
    """
    if len(fractions) == 0:
        raise ValueError("at least one fraction is needed")
    if maps.shape[2:] != x.shape[2:] or len(maps) != len(x):
        raise InputError(f"maps of shape {tuple(maps.shape)} for inputs of {tuple(x.shape)}")
    places = order_of(maps, order, seed)
    jobs = [(places, count_of(f, places.shape[1])) for f in fractions]
    filling = fill if callable(fill) else constant(fill)
    x = x.detach()
    with guarded(model, evaluate=True), torch.no_grad():
        whole = torch.cat(_outputs(model, x, batch_size))
        logits = logits_of(model, x, jobs, filling, [seed] * len(x), batch_size)
    return compared(whole, logits, whole.argmax(1))


def _outputs(model: nn.Module, x: Tensor, batch_size: int) -> list[Tensor]:
    return [main_tensor(model(part))[0].double() for part in x.split(batch_size)]


@dataclass(frozen=True, slots=True)
class AreaEffect:
    """What happens to the explained number when areas of one image are removed.

    Args:
        cells: how many cells were removed at a time.
        share: of all cells.
        drop: of the explained number without the cells that the map says raise it most.
        random: the drops without as many cells drawn at random.
    """

    cells: int
    share: float
    drop: float
    random: tuple[float, ...]

    def text(self, what: str) -> str:
        """Say it in a sentence.

        Args:
            what: is explained: ``"logit"``, ``"margin"``.
        """
        drawn = torch.tensor(self.random, dtype=torch.float64)
        return (
            f"checked: without the {self.cells} cells ({self.share:.0%}) that the map says raise "
            f"it most the {what} falls by {self.drop:.3g}; without as many random cells by "
            f"{float(drawn.mean()):.3g} (from {float(drawn.min()):.3g} to "
            f"{float(drawn.max()):.3g} in {len(drawn)} draws; filled with the image's mean color)"
        )


def area_effect(
    model: nn.Module,
    x: Tensor,
    values: Tensor,
    explained: Callable[[Tensor], Tensor],
    *,
    cell: int = 16,
    share: float = 0.1,
    draws: int = 20,
    seed: int = 0,
    batch_size: int = 32,
) -> AreaEffect:
    """Remove the cells that a map says raise the output most, and as many random ones.

    A map says how the output is added up. This measures what removing does, in one image.

    Args:
        model: with an output of shape (B, classes); lent in evaluation mode.
        x: one image, shape (1, C, H, W).
        values: its map, shape (H, W).
        explained: from logits of shape (B, classes) to the explained numbers, shape (B,).
        cell: pixels along a cell's side.
        share: of the cells that are removed, in (0, 1]; at least one cell.
        draws: how often random cells are removed, at least once.
        seed: of the draws.
        batch_size: how many images go through the model together.

    Raises:
        ValueError: a share outside of (0, 1], or a cell or draws below 1.
        InputError: more than one image, or a map that does not fit it.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2, bias=False))
        >>> with torch.no_grad():
        ...     _ = model[1].weight.zero_()
        ...     model[1].weight[0, :8] = 1.0
        >>> x = torch.arange(64.0).view(1, 1, 8, 8)
        >>> found = area_effect(model, x, model[1].weight[0].detach().view(8, 8) * x[0, 0],
        ...                     lambda logits: logits[:, 0], cell=4, share=0.5)
        >>> found.cells, found.drop  # the first row is 0 + 1 + ... + 7, and becomes 8 x 31.5
        (2, -224.0)
    """
    if len(x) != 1 or values.shape != x.shape[2:]:
        raise InputError(
            f"one image and its map are needed, not {tuple(x.shape)} and {tuple(values.shape)}"
        )
    if cell < 1 or draws < 1:
        raise ValueError(f"cell and draws must be at least 1, not {cell} and {draws}")
    size = [max(1, round(n / cell)) for n in values.shape]
    sums = pooled(values[None, None].double(), size).flatten()
    count = count_of(share, len(sums))
    rows, columns = (
        torch.arange(n, device=x.device) * of // n for n, of in zip(values.shape, size, strict=True)
    )
    own = rows[:, None] * size[1] + columns
    generator = torch.Generator().manual_seed(seed)
    chosen = [sums.argsort(descending=True, stable=True)[:count].cpu()]
    for _ in range(draws):
        chosen.append(torch.randperm(len(sums), generator=generator, device="cpu")[:count])
    mean = x.mean((2, 3), keepdim=True)
    images = [torch.where(torch.isin(own, c.to(x.device)), mean, x) for c in chosen]
    with guarded(model, evaluate=True), torch.no_grad():
        outputs = torch.cat(_outputs(model, torch.cat([x, *images]), batch_size))
    before, *after = explained(outputs).tolist()
    first, *random = (before - a for a in after)
    return AreaEffect(count, count / len(sums), first, tuple(random))

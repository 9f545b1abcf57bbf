"""Pixel perturbation: remove pixels in the order of a map, and see how much the output changes.

Srinivas & Fleuret 2019, section 5.1: with the k % least salient pixels set to black, a good map
leaves the output of the predicted class as it was; with the most salient ones, it does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from fullgrad.engine.model_state import guarded
from fullgrad.engine.targets import main_tensor
from fullgrad.errors import InputError
from fullgrad.evaluation.fills import Fill

Order: TypeAlias = Literal["least", "most"]


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """What removing pixels did, for each sample and fraction.

    Args:
        target: the class predicted on the whole image, shape (B,).
        before: its logit, shape (B,).
        after: its logit with pixels removed, shape (B, fractions).
        relative: |after - before| / |before|, the paper's measure, same shape.
        probability: change of the class's probability, same shape.
        kept: whether the class is still the predicted one, same shape.
    """

    target: Tensor
    before: Tensor
    after: Tensor
    relative: Tensor
    probability: Tensor
    kept: Tensor


def order_of(maps: Tensor, order: Order, seed: int = 0) -> Tensor:
    """The places of each map in the order of their removal.

    Args:
        maps: shape (B, 1, *positions).
        order: least or most salient first.
        seed: equal numbers are in random order.

    Returns:
        Shape (B, P), indices into the flattened positions.

    Raises:
        ValueError: an unknown order.
        InputError: maps of another shape, or with NaN.
    """
    if order not in ("least", "most"):
        raise ValueError(f"order must be 'least' or 'most', not {order!r}")
    if maps.dim() < 3 or maps.shape[1] != 1 or not bool(torch.isfinite(maps).all()):
        raise InputError(
            f"maps must be finite, of shape (B, 1, positions...), not {tuple(maps.shape)}"
        )
    flat = maps.flatten(1)
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(flat.shape[1], generator=generator).to(flat.device)
    ranks = flat[:, shuffled].argsort(dim=1, descending=order == "most", stable=True)
    return shuffled[ranks]


def first_of(places: Tensor, count: int, shape: Sequence[int]) -> Tensor:
    """Which positions are removed.

    Args:
        places: shape (B, P), from :func:`order_of`.
        count: how many of the first ones.
        shape: of the inputs, (B, C, *positions).

    Returns:
        Shape (B, 1, *positions), True where removed.
    """
    gone = torch.zeros(places.shape, dtype=torch.bool, device=places.device)
    gone.scatter_(1, places[:, :count], True)
    return gone.view(len(places), 1, *shape[2:])


def constant(value: Tensor | float) -> Fill:
    """A fill with a number, or one for each channel, shape (C,), in the model's input space."""

    def fill(x: Tensor, gone: Tensor, seeds: list[int]) -> Tensor:
        values = torch.as_tensor(value, dtype=x.dtype, device=x.device)
        filled: Tensor = torch.where(gone, values.view(1, -1, *[1] * (x.dim() - 2)), x)
        return filled

    return fill


def count_of(fraction: float, places: int) -> int:
    """How many of the places a fraction of them is: at least one, rounded.

    Raises:
        ValueError: not a fraction.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fractions must lie in (0, 1], not {fraction!r}")
    return max(1, round(fraction * places))


def logits_of(
    model: nn.Module,
    x: Tensor,
    jobs: Sequence[tuple[Tensor, int]],
    fill: Fill,
    seeds: list[int],
    batch_size: int = 32,
) -> Tensor:
    """The outputs of many perturbations of the same images, in common batches.

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
    """What perturbations did to the outputs.

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
        kept=logits.argmax(2) == target[:, None],
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
        fill: what removed pixels become: one of :mod:`fullgrad.evaluation.fills`, or in the
            model's input space a number, or one for each channel.
        seed: breaks ties in the maps, and is the fill's.
        batch_size: how many perturbed images go through the model together.

    Raises:
        ValueError: an unknown order, or no fraction.
        InputError: maps that do not fit.
    """
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

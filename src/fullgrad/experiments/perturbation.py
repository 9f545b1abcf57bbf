"""Pixel perturbation: remove pixels in the order of a map, and see how much the output changes.

Srinivas & Fleuret 2019, section 5.1: with the k % least salient pixels set to black, a good map
leaves the output of the predicted class as it was; with the most salient ones, it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from fullgrad.errors import InputError
from fullgrad.isolation import guarded
from fullgrad.targets import main_tensor

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


def removed(x: Tensor, places: Tensor, count: int, fill: Tensor | float) -> Tensor:
    """Inputs with the first places in an order replaced.

    Args:
        x: shape (B, C, *positions).
        places: shape (B, P), from :func:`order_of`.
        count: how many places of each sample.
        fill: what is put there: a number, or one for each channel, shape (C,).
    """
    gone = torch.zeros(places.shape, dtype=torch.bool, device=x.device)
    gone.scatter_(1, places[:, :count], True)
    mask = gone.view(len(x), 1, *x.shape[2:])
    values = torch.as_tensor(fill, dtype=x.dtype, device=x.device)
    shape = (1, -1, *[1] * (x.dim() - 2)) if values.dim() else ()
    return torch.where(mask, values.reshape(shape), x)


def count_of(fraction: float, places: int) -> int:
    """How many of the places a fraction of them is: at least one, rounded.

    Raises:
        ValueError: not a fraction.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fractions must lie in (0, 1], not {fraction!r}")
    return max(1, round(fraction * places))


def changes(
    model: nn.Module,
    x: Tensor,
    maps: Tensor,
    fractions: Sequence[float],
    *,
    order: Order = "least",
    fill: Tensor | float = 0.0,
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
        fill: what removed pixels become, in the model's input space; one number, or one for each
            channel.
        seed: breaks ties in the maps.
        batch_size: how many perturbed images go through the model together.

    Raises:
        ValueError: an unknown order, or no fraction.
        InputError: maps that do not fit.
    """
    if maps.shape[2:] != x.shape[2:] or len(maps) != len(x):
        raise InputError(f"maps of shape {tuple(maps.shape)} for inputs of {tuple(x.shape)}")
    places = order_of(maps, order, seed)
    counts = [count_of(f, places.shape[1]) for f in fractions]
    with guarded(model, evaluate=True), torch.no_grad():
        whole = _logits(model, x.detach(), batch_size)
        target = whole.argmax(1)
        perturbed = torch.cat([removed(x.detach(), places, n, fill) for n in counts])
        logits = _logits(model, perturbed, batch_size).unflatten(0, (len(counts), len(x)))
    logits = logits.transpose(0, 1)
    index = target[:, None, None].expand(-1, len(counts), 1)
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


def _logits(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    return torch.cat([main_tensor(model(part))[0].double() for part in x.split(batch_size)])

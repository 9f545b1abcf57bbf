"""From maps to ranks, and from ranks to images with pixels removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fullgrad.errors import InputError
from fullgrad.evaluation.perturbation import count_of
from fullgrad.evaluation.retraining.data import Colours
from fullgrad.evaluation.retraining.imputation import imputed

Array: TypeAlias = np.ndarray[Any, Any]

ROAD = "road"
FILLS = ("mean", "black", ROAD)
MOST_PIXELS = 2**16


def ranks_of(maps: Tensor, seed: int) -> Array:
    """Each pixel's place in the order from the most to the least salient.

    Args:
        maps: finite, shape (B, 1, *positions).
        seed: equal numbers are in random order, another one for each image.

    Returns:
        uint16 of shape (B, P); each row is a permutation of 0 to P - 1.

    Raises:
        InputError: NaN, infinity, or more positions than can be numbered.
    """
    flat = maps.detach().flatten(1).cpu().double()
    if flat.shape[1] > MOST_PIXELS:
        raise InputError(f"images of more than {MOST_PIXELS} pixels cannot be ranked")
    if not bool(torch.isfinite(flat).all()):
        raise InputError("maps must be finite")
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.rand(flat.shape, generator=generator).argsort(1)
    places = flat.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    order = shuffled.gather(1, places)
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(flat.shape[1]).expand_as(order))
    return ranks.numpy().astype(np.uint16)


def removed(ranks: Array, fraction: float, order: str) -> Tensor:
    """Which pixels go.

    Args:
        ranks: uint16 of shape (N, P).
        fraction: of the pixels; 0 removes none.
        order: ``most`` salient first, or ``least``.

    Returns:
        bool of shape (N, P).
    """
    places = ranks.shape[1]
    count = count_of(fraction, places) if fraction else 0
    gone = ranks < count if order == "most" else ranks >= places - count
    return torch.from_numpy(gone)


def fill_colour(fill: str, colours: Colours) -> tuple[int, ...]:
    """A colour by name, ``mean`` or ``black``: for each channel a whole step of 0 to 255."""
    return tuple(round(m) if fill == "mean" else 0 for m in colours.mean)


def without(images: Tensor, gone: Tensor, colour: Sequence[int]) -> Tensor:
    """Images with pixels removed.

    Args:
        images: uint8, shape (N, C, H, W).
        gone: bool, shape (N, P).
        colour: for each channel.
    """
    mask = gone.view(len(images), 1, *images.shape[2:])
    filling = torch.tensor(list(colour), dtype=torch.uint8).view(1, -1, 1, 1)
    return torch.where(mask, filling, images)


def filled(
    images: Tensor,
    gone: Tensor,
    fill: str,
    colours: Colours,
    seed: int,
    first: int = 0,
    device: str = "cpu",
) -> Tensor:
    """Images with pixels removed, as a retrained network gets them.

    Args:
        images: uint8, shape (N, C, H, W).
        gone: bool, shape (N, P).
        fill: ``mean`` or ``black``, a colour, or ``road``, noisy linear imputation.
        colours: of the training images.
        seed: of imputation's noise.
        first: number of the first image; the noise depends on it.
        device: where pixels are imputed.

    Raises:
        InputError: an image to be imputed is gone as a whole.
    """
    if fill == ROAD:
        return imputed(images, gone, seed, first, device)
    return without(images, gone, fill_colour(fill, colours))


def as_images(gone: Tensor, like: Tensor) -> Tensor:
    """Masks as images: removed pixels white, the others black.

    Args:
        gone: bool, shape (N, P).
        like: images of the same shape, (N, C, H, W).
    """
    mask = gone.view(len(like), 1, *like.shape[2:]).to(torch.uint8) * 255
    return mask.expand(like.shape).contiguous()

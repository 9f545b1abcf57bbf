"""From maps to the order of pixels, to the pixels that are removed, to what becomes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fullgrad._optional import require
from fullgrad.errors import InputError
from fullgrad.evaluation.datasets import Colors
from fullgrad.evaluation.imputation import imputed, solved
from fullgrad.evaluation.plan import check_fractions, check_order
from fullgrad.vision.images import Preprocessing

Array: TypeAlias = np.ndarray[Any, Any]
# From the inputs (B, C, H, W), which pixels are removed (B, 1, H, W) and a seed for each sample,
# to the inputs with those pixels replaced.
Fill: TypeAlias = Callable[[Tensor, Tensor, list[int]], Tensor]

ROAD = "road"
IMAGE_FILLS = ("mean", "black", ROAD)  # of images in memory, see filled()
MOST_PIXELS = 2**16
_BLUR = 0.05  # standard deviation, as a share of the image's side


def order_of(maps: Tensor, order: str, seed: int = 0, *, apart: bool = False) -> Tensor:
    """Return the places of each map in the order of their removal.

    Args:
        maps: finite, shape (B, 1, *positions).
        order: ``least`` or ``most`` salient first.
        seed: equal numbers are in random order.
        apart: that order is another one for each map.

    Returns:
        Shape (B, P), indices into the flattened positions.

    Raises:
        ValueError: an unknown order.
        InputError: maps of another shape, or with NaN.
    """
    check_order(order)
    if maps.dim() < 3 or maps.shape[1] != 1 or not bool(torch.isfinite(maps).all()):
        raise InputError(
            f"maps must be finite, of shape (B, 1, positions...), not {tuple(maps.shape)}"
        )
    flat = maps.flatten(1)
    generator = torch.Generator().manual_seed(seed)
    if apart:
        shuffled = (
            torch.rand(flat.shape, generator=generator, device="cpu").argsort(1).to(flat.device)
        )
    else:
        one = torch.randperm(flat.shape[1], generator=generator, device="cpu").to(flat.device)
        shuffled = one.expand_as(flat)
    values = flat.gather(1, shuffled)
    return shuffled.gather(1, values.argsort(dim=1, descending=order == "most", stable=True))


def ranks_of(maps: Tensor, seed: int) -> Array:
    """Return each pixel's place in the order from the most to the least salient.

    Args:
        maps: finite, shape (B, 1, *positions).
        seed: equal numbers are in random order, another one for each image.

    Returns:
        uint16 of shape (B, P); each row is a permutation of 0 to P - 1.

    Raises:
        InputError: NaN, infinity, or more positions than can be numbered.
    """
    count = maps[0].numel()
    if count > MOST_PIXELS:
        raise InputError(f"images of more than {MOST_PIXELS} pixels cannot be ranked")
    order = order_of(maps.detach().cpu().double(), "most", seed, apart=True)
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(count).expand_as(order))
    return ranks.numpy().astype(np.uint16)


def count_of(fraction: float, places: int) -> int:
    """Return how many places a fraction of them is: rounded, at least one.

    Raises:
        ValueError: not a fraction.

    Example:
        >>> count_of(0.1, 25)
        2
    """
    check_fractions([fraction])
    return max(1, round(fraction * places))


def first_of(places: Tensor, count: int, shape: Sequence[int]) -> Tensor:
    """Return which positions are removed.

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


def removed(ranks: Array, fraction: float, order: str) -> Tensor:
    """Return which pixels go.

    Args:
        ranks: uint16 of shape (N, P).
        fraction: of the pixels; 0 removes none.
        order: ``most`` salient first, or ``least``.

    Returns:
        bool of shape (N, P).

    Raises:
        ValueError: an unknown order, or a fraction outside of [0, 1].
    """
    check_order(order)
    places = ranks.shape[1]
    count = count_of(fraction, places) if fraction else 0
    gone = ranks < count if order == "most" else ranks >= places - count
    return torch.from_numpy(gone)


def constant(value: Tensor | float) -> Fill:
    """Fill with a number, or one for each channel, shape (C,), in the model's input space."""

    def fill(x: Tensor, gone: Tensor, seeds: list[int]) -> Tensor:
        values = torch.as_tensor(value, dtype=x.dtype, device=x.device)
        filled: Tensor = torch.where(gone, values.view(1, -1, *[1] * (x.dim() - 2)), x)
        return filled

    return fill


def fill_named(name: str, preprocessing: Preprocessing) -> Fill:
    """Return a fill by name, in the input space of a model with this preprocessing.

    Args:
        name: ``black``; ``mean`` (the image's own mean color); ``blur`` (the image blurred);
            ``noise`` (uniform, each pixel and channel by itself); ``road`` (noisy linear
            imputation from the neighbors, Rong et al. 2022).
        preprocessing: from photograph to input.

    Raises:
        ValueError: an unknown name.
    """
    if name not in FILLS:
        raise ValueError(f"unknown fill {name!r}; known: {', '.join(FILLS)}")
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return FILLS[name](mean, std)


def _black(mean: Tensor, std: Tensor) -> Fill:
    return constant((-mean / std).flatten())


def _mean(mean: Tensor, std: Tensor) -> Fill:
    return lambda x, gone, seeds: torch.where(gone, x.mean((2, 3), keepdim=True), x)


def _blur(mean: Tensor, std: Tensor) -> Fill:
    functional: Any = require("torchvision.transforms.functional", "vision")

    def fill(x: Tensor, gone: Tensor, seeds: list[int]) -> Tensor:
        sigma = _BLUR * max(x.shape[2:])
        half = min(math.ceil(2.5 * sigma), min(x.shape[2:]) - 1)
        return torch.where(gone, functional.gaussian_blur(x, 2 * half + 1, sigma), x)

    return fill


def _drawn(x: Tensor, seeds: list[int], draw: Callable[..., Tensor]) -> Tensor:
    """Draw random numbers for each image from its own seed."""
    generators = (torch.Generator().manual_seed(seed) for seed in seeds)
    return torch.stack([draw(x.shape[1:], generator=g, device="cpu") for g in generators])


def _noise(mean: Tensor, std: Tensor) -> Fill:
    return lambda x, gone, seeds: torch.where(
        gone, ((_drawn(x, seeds, torch.rand) - mean) / std).to(x), x
    )


def _road(mean: Tensor, std: Tensor) -> Fill:
    def fill(x: Tensor, gone: Tensor, seeds: list[int]) -> Tensor:
        if bool(gone.flatten(1).all(1).any()):
            raise ValueError("road cannot impute an image of which every pixel is removed")
        guessed = solved(x.float(), gone) + _ROAD_NOISE * _drawn(x, seeds, torch.randn).to(x)
        return torch.where(gone, guessed.to(x), x)

    return fill


_ROAD_NOISE = 0.01  # in the model's input space, as in the grad-cam package
FILLS: dict[str, Callable[[Tensor, Tensor], Fill]] = {
    "black": _black,
    "mean": _mean,
    "blur": _blur,
    "noise": _noise,
    ROAD: _road,
}


def fill_color(fill: str, colors: Colors) -> tuple[int, ...]:
    """Return a color by name, ``mean`` or ``black``: for each channel a whole step of 0 to 255.

    Raises:
        ValueError: another name.
    """
    if fill not in ("mean", "black"):
        raise ValueError(f"the color must be 'mean' or 'black', not {fill!r}")
    return tuple(round(m) if fill == "mean" else 0 for m in colors.mean)


def without(images: Tensor, gone: Tensor, color: Sequence[int]) -> Tensor:
    """Return images with pixels removed.

    Args:
        images: uint8, shape (N, C, H, W).
        gone: bool, shape (N, P).
        color: for each channel.
    """
    mask = gone.view(len(images), 1, *images.shape[2:])
    filling = torch.tensor(list(color), dtype=torch.uint8).view(1, -1, 1, 1)
    return torch.where(mask, filling, images)


def filled(
    images: Tensor,
    gone: Tensor,
    fill: str,
    colors: Colors,
    seed: int,
    first: int = 0,
    device: str = "cpu",
) -> Tensor:
    """Return images with pixels removed, as a retrained network gets them.

    Args:
        images: uint8, shape (N, C, H, W).
        gone: bool, shape (N, P).
        fill: ``mean`` or ``black``, a color, or ``road``, noisy linear imputation.
        colors: of the training images.
        seed: of imputation's noise.
        first: number of the first image; the noise depends on it.
        device: where pixels are imputed.

    Raises:
        ValueError: an unknown fill.
        InputError: an image to be imputed is gone as a whole.
    """
    if fill == ROAD:
        return imputed(images, gone, seed, first, device)
    return without(images, gone, fill_color(fill, colors))


def as_images(gone: Tensor, like: Tensor) -> Tensor:
    """Return masks as images: removed pixels white, the others black.

    Args:
        gone: bool, shape (N, P).
        like: images of the same shape, (N, C, H, W).
    """
    mask = gone.view(len(like), 1, *like.shape[2:]).to(torch.uint8) * 255
    return mask.expand(like.shape).contiguous()

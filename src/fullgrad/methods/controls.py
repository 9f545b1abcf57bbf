"""Maps that know nothing of the model: what any method must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullgrad.axes.layouts import InputLayout
from fullgrad.methods.gradients import NoOptions
from fullgrad.methods.positions import channels_first, letters
from fullgrad.methods.registry import Method

NOISE = ("random", "random_blobs")  # want another seed for other samples


@dataclass(frozen=True, slots=True)
class RandomOptions:
    """Which random numbers.

    Args:
        seed: equal seeds make equal maps.

    Raises:
        ValueError: a seed that is no integer.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        if type(self.seed) is not int:
            raise ValueError(f"seed must be an integer, not {self.seed!r}")


@dataclass(frozen=True, slots=True)
class BlobsOptions:
    """Which random numbers, and how large the blobs are.

    Args:
        seed: equal seeds make equal maps.
        grid: how many numbers are drawn along each side. Blobs are as large as those of Grad-CAM
            where the grid is as fine as its layer's.

    Raises:
        ValueError: a seed that is no integer, a grid that is no integer of at least 2.
    """

    seed: int = 0
    grid: int = 7

    def __post_init__(self) -> None:
        if type(self.seed) is not int:
            raise ValueError(f"seed must be an integer, not {self.seed!r}")
        if type(self.grid) is not int or self.grid < 2:
            raise ValueError(f"grid must be an integer of at least 2, not {self.grid!r}")


def _dtype(x: Tensor) -> torch.dtype:
    return x.dtype if x.dtype in {torch.float32, torch.float64} else torch.float32


def _image(inputs: Tensor, layout: InputLayout) -> Tensor:
    """The inputs as (B, C, *positions)."""
    return channels_first(inputs, letters(inputs, layout))


def random(
    model: nn.Module,
    inputs: Tensor,
    target: Any,
    *,
    seed: int,
    layout: InputLayout = None,
    **call: Any,
) -> Tensor:
    """Uniform numbers in [0, 1), shape (B, 1, *positions).

    A sample's numbers depend on the seed and on its place in the inputs alone, not on how many
    samples follow, on the batch size or on the device. The next call starts again: give another
    seed for other samples.
    """
    x = _image(inputs, layout)
    return _noise(len(x), seed, x.shape[2:]).to(x.device, _dtype(x))


def random_blobs(
    model: nn.Module,
    inputs: Tensor,
    target: Any,
    *,
    seed: int,
    grid: int,
    layout: InputLayout = None,
    **call: Any,
) -> Tensor:
    """Uniform numbers on a coarse grid, interpolated linearly, shape (B, 1, *positions).

    A method whose maps are coarse removes whole areas. These maps do so, too, and know nothing.
    Seeds and samples as in :func:`random`.
    """
    x = _image(inputs, layout)
    positions = x.shape[2:]
    coarse = _noise(len(x), seed, (grid,) * len(positions))
    mode = ("linear", "bilinear", "trilinear")[len(positions) - 1]
    maps = F.interpolate(coarse, positions, mode=mode, align_corners=False)
    return maps.to(x.device, _dtype(x))


def _noise(samples: int, seed: int, shape: Sequence[int]) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack(
        [
            torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
            for _ in range(samples)
        ]
    )[:, None]


def sobel(
    model: nn.Module, inputs: Tensor, target: Any, *, layout: InputLayout = None, **call: Any
) -> Tensor:
    """The sum over channels of the size of the image's gradient, shape (B, 1, *positions)."""
    x = _image(inputs, layout).detach().to(_dtype(inputs))
    rank = x.dim() - 2
    flat = x.reshape(-1, 1, *x.shape[2:])
    for axis in range(rank):
        flat = _padded(flat, 2 + axis)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    squares = torch.zeros_like(x)
    for axis in range(rank):
        slope = convolve(flat, _kernel(rank, axis, x)).reshape(x.shape)
        squares += slope * slope
    return squares.sqrt().sum(1, keepdim=True)


def _padded(x: Tensor, axis: int) -> Tensor:
    """One more of the first and of the last along an axis."""
    size = x.shape[axis]
    return torch.cat([x.narrow(axis, 0, 1), x, x.narrow(axis, size - 1, 1)], axis)


def _kernel(rank: int, axis: int, like: Tensor) -> Tensor:
    """Sobel's filter: the difference along one axis, smoothed along the others."""
    kernel = torch.ones([1] * (rank + 2), dtype=like.dtype, device=like.device)
    for k in range(rank):
        line = torch.tensor([-1.0, 0.0, 1.0] if k == axis else [1.0, 2.0, 1.0])
        shape = [1] * (rank + 2)
        shape[2 + k] = 3
        kernel = kernel * line.to(kernel).reshape(shape)
    return kernel


METHODS = (
    Method(
        "random",
        random,
        options=RandomOptions,
        signed=False,
        direct=True,
        call_options=("layout",),
        about="Uniform noise, the floor that every method must beat.",
    ),
    Method(
        "random_blobs",
        random_blobs,
        options=BlobsOptions,
        signed=False,
        direct=True,
        call_options=("layout",),
        about="Noise as coarse as the maps of late layers, the floor for methods that mark areas.",
    ),
    Method(
        "sobel",
        sobel,
        options=NoOptions,
        signed=False,
        direct=True,
        call_options=("layout",),
        about="The edges of the input by Sobel filters, which look plausible and explain nothing.",
        reference="Adebayo, Gilmer, Muelly, Goodfellow, Hardt & Kim 2018, Sanity Checks for "
        "Saliency Maps",
    ),
)

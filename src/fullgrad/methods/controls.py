"""Maps that say nothing of what a model does with an input: what any method must beat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullgrad.axes.layouts import InputLayout
from fullgrad.methods.attribution import attribute
from fullgrad.methods.choice import MethodChoice
from fullgrad.methods.gradients import NoOptions
from fullgrad.methods.positions import channels_first, letters
from fullgrad.methods.registry import Method

NOISE = ("random", "random_blobs", "random_phase")  # want another seed for other samples
BLIND = ("random", "random_blobs", "sobel", "center", "contrast")  # need no model
CELL = 16


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


@dataclass(frozen=True, slots=True)
class ContrastOptions:
    """How large a cell is.

    Args:
        cell: positions along a cell's side; where the input is no multiple of it, cells differ in
            size by one.

    Raises:
        ValueError: a cell that is no positive integer.
    """

    cell: int = CELL

    def __post_init__(self) -> None:
        if type(self.cell) is not int or self.cell < 1:
            raise ValueError(f"cell must be a positive integer, not {self.cell!r}")


@dataclass(frozen=True, slots=True)
class PhaseOptions:
    """Which method's map is taken, and which random numbers.

    Args:
        of: another method, ``NAME`` or ``NAME:OPTION=VALUE``; a semicolon stands between several
            options, as in ``integrated_gradients:n_steps=20;signed=True``.
        seed: equal seeds make equal phases.

    Raises:
        ValueError: no such method or option, noise, or a seed that is no integer.
    """

    of: str = "fullgrad"
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.of, str):
            raise ValueError(  # noqa: TRY004
                f"of must be METHOD or METHOD:OPTION=VALUE;OPTION=VALUE, not {self.of!r}"
            )
        if self.choice.name in NOISE:
            raise ValueError(f"of must be a method that is not noise itself, not {self.of!r}")
        if type(self.seed) is not int:
            raise ValueError(f"seed must be an integer, not {self.seed!r}")

    @property
    def choice(self) -> MethodChoice:
        """The method with its options."""
        return MethodChoice.parse(self.of.replace(";", ","))


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


def _noise(samples: int, seed: int, shape: Sequence[int], normal: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn if normal else torch.rand
    return torch.stack(
        [
            draw(shape, generator=generator, dtype=torch.float64, device="cpu")
            for _ in range(samples)
        ]
    )[:, None]


def random_phase(
    model: nn.Module,
    inputs: Tensor,
    target: Any,
    *,
    of: str,
    seed: int,
    layout: InputLayout = None,
    batch_size: int | None = None,
    additional_forward_args: Any = None,
    **call: Any,
) -> Tensor:
    """Another method's map with the phases of its Fourier transform drawn at random.

    Amplitudes and mean are kept, so the map is as coarse and as strong as it was, and is elsewhere.
    The phases are those of white noise. Its negative has each of them turned by half a circle, so
    a map is as probable as its mirror image about its mean. Seeds and samples as in :func:`random`.

    Returns:
        Shape (B, 1, *positions). Numbers may be negative where the method's are not.
    """
    choice = PhaseOptions(of, seed).choice
    maps = attribute(
        choice.name,
        model,
        inputs,
        target,
        layout=layout,
        batch_size=batch_size,
        additional_forward_args=additional_forward_args,
        **choice.options,
    )
    positions = maps.shape[2:]
    axes = tuple(range(2, maps.dim()))
    spectrum = torch.fft.rfftn(maps.cpu().double(), dim=axes)
    phases = torch.fft.rfftn(_noise(len(maps), seed, positions, normal=True), dim=axes).sgn()
    constant = (slice(None), slice(None), *[0] * len(axes))
    phases[constant] = spectrum[constant].sgn()
    found: Tensor = torch.fft.irfftn(spectrum.abs() * phases, s=positions, dim=axes)
    return found.to(maps.device, maps.dtype)


def center(
    model: nn.Module, inputs: Tensor, target: Any, *, layout: InputLayout = None, **call: Any
) -> Tensor:
    """How near to the center a position is, shape (B, 1, *positions).

    Minus the squared distance to the center, each side scaled to 1, plus a constant that makes the
    corners 0.
    """
    x = _image(inputs, layout)
    positions = x.shape[2:]
    found = torch.full(positions, len(positions) / 4, dtype=torch.float64)
    for axis, size in enumerate(positions):
        line = (torch.arange(size, dtype=torch.float64) + 0.5) / size - 0.5
        found -= line.square().view([-1 if k == axis else 1 for k in range(len(positions))])
    return found.to(x.device, _dtype(x)).expand(len(x), 1, *positions).clone()


def contrast(
    model: nn.Module,
    inputs: Tensor,
    target: Any,
    *,
    cell: int,
    layout: InputLayout = None,
    **call: Any,
) -> Tensor:
    """The standard deviation of the input's numbers in each cell, shape (B, 1, *positions).

    Over all channels, divided by the count (not one less), drawn on the whole cell.
    """
    x = _image(inputs, layout).detach().to(_dtype(inputs))
    labels = cells_of(x.shape[2:], cell).flatten().to(x.device)
    count = labels.bincount().to(x)

    def mean(numbers: Tensor) -> Tensor:
        """Each position's mean over channels and its cell, from (B, C, N) to (B, 1, N)."""
        sums = numbers.new_zeros(len(numbers), len(count))
        sums.index_add_(1, labels, numbers.mean(1))
        return (sums / count)[:, None, labels]

    flat = x.flatten(2)
    squares = (flat - mean(flat)).square()
    return mean(squares).sqrt().view(len(x), 1, *x.shape[2:])


def cells_of(positions: Iterable[int], cell: int) -> Tensor:
    """Return the number of the cell that each position lies in.

    Args:
        positions: how many along each axis.
        cell: how many along a cell's side; where a size is no multiple, cells differ by one.

    Example:
        >>> cells_of((2, 4), 2)
        tensor([[0, 0, 1, 1],
                [0, 0, 1, 1]])
    """
    found = torch.zeros(1, dtype=torch.long)
    for size in positions:
        count = max(1, round(size / cell))
        found = found[..., None] * count + torch.arange(size) * count // size
    return found[0]


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
    Method(
        "center",
        center,
        options=NoOptions,
        signed=False,
        direct=True,
        call_options=("layout",),
        about="Nearness to the center, where photographers put what they show.",
    ),
    Method(
        "contrast",
        contrast,
        options=ContrastOptions,
        signed=False,
        direct=True,
        call_options=("layout",),
        about="The spread of the input's numbers in each cell, which shows where something is.",
    ),
    Method(
        "random_phase",
        random_phase,
        options=PhaseOptions,
        signed=False,
        direct=True,
        call_options=("layout",),
        about="Noise with the spectrum of another method's map, as coarse and as strong as it is.",
    ),
)

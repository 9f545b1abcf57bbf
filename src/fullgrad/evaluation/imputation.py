"""Removed pixels guessed from what is left of their image (ROAD, Rong et al. 2022).

Noisy linear imputation: every removed pixel is the weighted mean of its eight neighbors, removed
ones included, which is one system of linear equations for each image; then noise is added. The
mask's edges, which a constant color shows to the retrained network, are blurred so.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fullgrad.errors import FullGradError, InputError

NOISE = 0.01  # standard deviation, as a share of the range of colors
_SIDE, _CORNER = 1 / 6, 1 / 12  # weights of neighbors, as in the source
_CHUNK = 500  # images at a time
_CLOSE = 4e-6  # of the largest value: what every equation must hold to
_LOOK = 10  # iterations between two looks whether it does
_APART = 3_000_017  # between the seeds of two runs' noise


class ImputationError(FullGradError):
    """The equations were not solved."""


def imputed(
    images: Tensor,
    gone: Tensor,
    seed: int,
    first: int = 0,
    device: str | torch.device = "cpu",
    noise: float = NOISE,
) -> Tensor:
    """Return images whose removed pixels are guessed from the others.

    Args:
        images: uint8, shape (N, C, H, W).
        gone: bool, shape (N, P); no row may be all True.
        seed: of the noise.
        first: number of the first image, so that the noise differs between sets.
        device: where the equations are solved.
        noise: its standard deviation, as a share of the range of colors.

    Returns:
        uint8 of the same shape, on the CPU.

    Raises:
        InputError: an image is gone as a whole.
        ImputationError: the equations were not solved.
    """
    if bool(gone.all(1).any()):
        raise InputError("an image of which every pixel is removed cannot be imputed")
    parts = []
    for start in range(0, len(images), _CHUNK):
        part = slice(start, start + _CHUNK)
        mask = gone[part].view(-1, 1, *images.shape[2:])
        means = solved(images[part].to(device).float(), mask.to(device)).cpu()
        generator = torch.Generator().manual_seed((seed + 1) * _APART + first + start)
        drawn = torch.randn(means.shape, generator=generator, device="cpu")
        guessed = (means + 255 * noise * drawn).round().clamp(0, 255).to(torch.uint8)
        parts.append(torch.where(mask, guessed, images[part]))
    return torch.cat(parts)


def _neighbors(x: Tensor) -> Tensor:
    """Weighted sum of each pixel's eight neighbors, black beyond the rim.

    By sums and not by a convolution, which a GPU may round to TensorFloat-32.

    Args:
        x: shape (B, C, H, W).
    """
    height, width = x.shape[-2:]
    padded = F.pad(x, (1, 1, 1, 1))

    def at(down: int, right: int) -> Tensor:
        return padded[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    sides = at(-1, 0) + at(1, 0) + at(0, -1) + at(0, 1)
    corners = at(-1, -1) + at(-1, 1) + at(1, -1) + at(1, 1)
    return _SIDE * sides + _CORNER * corners


def solved(images: Tensor, mask: Tensor) -> Tensor:
    """Return images whose unknown pixels solve the equations, without noise.

    By conjugate gradients: the equations are a graph's Laplacian with the kept pixels given.

    Args:
        images: float32, shape (B, C, H, W).
        mask: bool, shape (B, 1, H, W); True where the pixel is unknown.

    Raises:
        ImputationError: an equation does not hold in the end.
    """
    free, kept = mask.float(), (~mask).float()
    total = _neighbors(torch.ones_like(images[:1, :1]))  # less than 1 at the image's rim

    def applied(x: Tensor) -> Tensor:
        return free * (total * x - _neighbors(x))

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((2, 3), keepdim=True)

    close = _CLOSE * float(images.abs().max())
    mean = dot(images, kept) / kept.sum((2, 3), keepdim=True)
    x = free * mean
    given = free * _neighbors(images * kept)
    rest = given - applied(x)
    direction, size = rest, dot(rest, rest)
    for step in range(images[0, 0].numel() + _LOOK):
        if step % _LOOK == 0 and float(rest.abs().max()) <= close:
            rest = given - applied(x)  # the one carried along does not see how x was rounded
            if float(rest.abs().max()) <= close:
                return torch.where(mask, x, images)
            direction, size = rest, dot(rest, rest)
        towards = applied(direction)
        length = size / dot(direction, towards).clamp_min(1e-30)
        x = x + length * direction
        rest = rest - length * towards
        before, size = size, dot(rest, rest)
        direction = rest + size / before.clamp_min(1e-30) * direction
    raise ImputationError(
        f"the removed pixels' equations were not solved: {float(rest.abs().max()):.3g} is left"
    )

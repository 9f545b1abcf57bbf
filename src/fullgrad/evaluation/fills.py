"""What removed pixels become."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fullgrad._optional import require
from fullgrad.vision.images import Preprocessing

# From the inputs (B, C, H, W), which pixels are removed (B, 1, H, W) and a seed for each sample,
# to the inputs with those pixels replaced.
Fill: TypeAlias = Callable[[Tensor, Tensor, list[int]], Tensor]

_BLUR = 0.05  # standard deviation, as a share of the image's side


def fill_named(name: str, preprocessing: Preprocessing) -> Fill:
    """A fill by name, in the input space of a model with this preprocessing.

    Args:
        name: ``black``; ``mean`` (the image's own mean colour); ``blur`` (the image blurred);
            ``noise`` (uniform, each pixel and channel by itself); ``road`` (noisy linear
            imputation from the neighbours, Rong et al. 2022, by the grad-cam package).
        preprocessing: from photograph to input.

    Raises:
        ValueError: an unknown name.
        MissingDependencyError: grad-cam is needed and not installed.
    """
    if name not in FILLS:
        raise ValueError(f"unknown fill {name!r}; known: {', '.join(FILLS)}")
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return FILLS[name](mean, std)


def _black(mean: Tensor, std: Tensor) -> Fill:
    return lambda x, gone, seeds: torch.where(gone, (-mean / std).to(x), x)


def _mean(mean: Tensor, std: Tensor) -> Fill:
    return lambda x, gone, seeds: torch.where(gone, x.mean((2, 3), keepdim=True), x)


def _blur(mean: Tensor, std: Tensor) -> Fill:
    functional: Any = require("torchvision.transforms.functional", "vision")

    def fill(x: Tensor, gone: Tensor, seeds: list[int]) -> Tensor:
        sigma = _BLUR * max(x.shape[2:])
        half = min(math.ceil(2.5 * sigma), min(x.shape[2:]) - 1)
        return torch.where(gone, functional.gaussian_blur(x, 2 * half + 1, sigma), x)

    return fill


def _noise(mean: Tensor, std: Tensor) -> Fill:
    def fill(x: Tensor, gone: Tensor, seeds: list[int]) -> Tensor:
        drawn = [torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds]
        return torch.where(gone, ((torch.stack(drawn) - mean) / std).to(x), x)

    return fill


def _road(mean: Tensor, std: Tensor) -> Fill:
    imputer: Any = require("pytorch_grad_cam.metrics.road", "bench").NoisyLinearImputer()

    def fill(x: Tensor, gone: Tensor, seeds: list[int]) -> Tensor:
        filled = []
        for image, removed, seed in zip(x.cpu(), gone.cpu(), seeds, strict=True):
            if bool(removed.all()):
                raise ValueError("road cannot impute an image of which every pixel is removed")
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "__array_wrap__", DeprecationWarning)
                torch.manual_seed(seed)
                filled.append(imputer(image.float(), (~removed[0]).float()))
        return torch.where(gone, torch.stack(filled).to(x), x)

    return fill


FILLS: dict[str, Callable[[Tensor, Tensor], Fill]] = {
    "black": _black,
    "mean": _mean,
    "blur": _blur,
    "noise": _noise,
    "road": _road,
}

"""Do maps stay when the input changes a little, and when all logits are shifted alike?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullgrad.engine.targets import main_tensor
from fullgrad.evaluation.options import Option
from fullgrad.evaluation.tests.evaluate.measure import Measure, Score, correlation
from fullgrad.evaluation.tests.evaluate.subject import NUMBERS, Explained

NOISE = 0.05
_SALT = 4
_COARSE = 7  # numbers along a side of the pattern that shifts logits


@dataclass(frozen=True)
class Stability(Measure):
    """Correlates maps of an image and of the image with a little noise.

    Args:
        noise: standard deviation, as a share of the range of the image's numbers.

    Raises:
        ValueError: noise that is not positive.
    """

    noise: float = NOISE

    name = "stability"
    title = "correlation of maps of an image with and without a little noise"
    options: ClassVar[Sequence[Option]] = (
        Option("--noise", "standard deviation, as a share of the input's range", NOISE, float),
    )

    def __post_init__(self) -> None:
        if not self.noise > 0:
            raise ValueError(f"noise must be positive, not {self.noise}")

    def scores(self, explained: Explained) -> Iterator[Score]:
        """Yield a score for each image."""
        x = explained.x
        drawn = [
            torch.randn(x.shape[1:], generator=g, device="cpu") for g in explained.generators(_SALT)
        ]
        reach = (x.flatten(1).amax(1) - x.flatten(1).amin(1)).view(-1, 1, 1, 1)
        noisy = x + self.noise * reach * torch.stack(drawn).to(x)
        found = correlation(explained.maps, explained.explain(x=noisy))
        for number, value in zip(explained.numbers, found.tolist(), strict=True):
            yield Score(number, value, f"noise {self.noise:g}")


@dataclass(frozen=True)
class LogitShift(Measure):
    """Adds one function of the input to all logits, which changes no probability.

    Srinivas & Fleuret 2021: maps of a logit can be given any look so. The maps of log-probability
    and margin should not change. The function is linear, a smooth random pattern times the image.

    Args:
        numbers: what is explained, each on its own.

    Raises:
        ValueError: an unknown number.
    """

    numbers: tuple[str, ...] = NUMBERS

    name = "logit-shift"
    title = "correlation of maps before and after all logits are shifted alike"
    options: ClassVar[Sequence[Option]] = (
        Option("--numbers", "what is explained", NUMBERS, choices=NUMBERS),
    )

    def __post_init__(self) -> None:
        if not self.numbers or set(self.numbers) - set(NUMBERS):
            raise ValueError(f"numbers must be of {', '.join(NUMBERS)}, not {self.numbers}")

    def scores(self, explained: Explained) -> Iterator[Score]:
        """Yield a score for each image and explained number."""
        x = explained.x
        own = explained.subject.model.module
        shifted = Shifted(own, pattern(x, explained.subject.logits, explained.seed))
        for name in self.numbers:
            before = explained.explain(number=name)
            after = explained.explain(number=name, module=shifted)
            found = correlation(before, after)
            for number, value in zip(explained.numbers, found.tolist(), strict=True):
                yield Score(number, value, name)


class Shifted(nn.Module):
    """A model to all of whose logits the same function of the input is added.

    Args:
        model: from (B, C, H, W) to (B, classes).
        weights: of the linear function, shape (C, H, W).
    """

    weights: Tensor

    def __init__(self, model: nn.Module, weights: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("weights", weights)

    def forward(self, x: Tensor) -> Any:
        """Return the shifted logits, shape (B, classes)."""
        logits, _ = main_tensor(self.model(x))
        return logits + (x * self.weights).flatten(1).sum(1, keepdim=True)


def pattern(x: Tensor, logits: Tensor, seed: int) -> Tensor:
    """Return smooth random weights; times an image they give about as much as its top logit.

    Args:
        x: images, shape (B, C, H, W).
        logits: of all images, shape (N, classes).
        seed: of the pattern.

    Returns:
        Shape (C, H, W), the same for all batches of equal shape but for its size.
    """
    generator = torch.Generator().manual_seed(seed + _SALT)
    coarse = torch.randn(1, 1, _COARSE, _COARSE, generator=generator, device="cpu")
    smooth = F.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False)
    weights = smooth[0].to(x).expand(x.shape[1:])
    size = float(logits.amax(1).abs().mean()) / weights.norm()
    scaled: Tensor = weights * size / weights[0, 0].numel() ** 0.5
    return scaled

"""Does a map change when the model's weights become random, as it should (Hedström et al. 2023)?"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fullgrad._optional import require
from fullgrad.evaluation.options import Option
from fullgrad.evaluation.tests.evaluate.measure import Measure, Score, correlation
from fullgrad.evaluation.tests.evaluate.subject import Explained

BINS = 100
_SPREAD = 0.1  # standard deviation of sMPRT's noise, as a share of the input's range
_SALT = 5


@dataclass(frozen=True)
class Randomization(Measure):
    """Compares maps with those of the same network with random weights.

    ``eMPRT``: how much the entropy of the map's histogram rises, relative to what it was; a map
    that follows the model becomes less ordered. ``minus correlation``: of the two maps, where lower
    is better, so its sign is turned. ``minus sMPRT``: the same of the ranks of two mean maps over
    noisy copies of the image, the last of them without noise, which takes so many maps as well.

    Args:
        bins: of the histogram.
        copies: of each image for sMPRT; 0 leaves it out.

    Raises:
        ValueError: fewer than 2 bins, or a negative number of copies.
    """

    bins: int = BINS
    copies: int = 0

    name = "randomization"
    title = "rise of the map's entropy when the model's weights become random (eMPRT)"
    options: ClassVar[Sequence[Option]] = (
        Option("--bins", "bins of a map's histogram", BINS, int),
        Option("--copies", "noisy copies of each image, for sMPRT; 0 leaves it out", 0, int),
    )

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ValueError(f"a histogram needs at least 2 bins, not {self.bins}")
        if self.copies < 0:
            raise ValueError(f"the number of copies must not be negative, not {self.copies}")

    def scores(self, explained: Explained) -> Iterator[Score]:
        """Yield two or three scores for each image."""
        module = randomized(explained.subject.model.module, explained.seed)
        after = explained.explain(module=module)
        before, then = (entropy(maps, self.bins) for maps in (explained.maps, after))
        rise = torch.where(before > 0, (then - before) / before.clamp_min(1e-300), 0.0)
        alike = correlation(explained.maps, after)
        found = {"eMPRT": rise, "minus correlation": -alike}
        if self.copies:
            own = self._smooth(explained, explained.maps, None)
            other = self._smooth(explained, after, module)
            found[f"minus sMPRT, copies {self.copies}"] = -correlation(ranks(own), ranks(other))
        for setting, values in found.items():
            for number, value in zip(explained.numbers, values.tolist(), strict=True):
                yield Score(number, value, setting)

    def _smooth(self, explained: Explained, total: Tensor, module: nn.Module | None) -> Tensor:
        """Add maps of noisy copies to a map; return the sums' sizes, shape (B, 1, H, W)."""
        x, generators = explained.x, explained.generators(_SALT)
        reach = (x.flatten(1).amax(1) - x.flatten(1).amin(1)).view(-1, 1, 1, 1)
        for _ in range(self.copies - 1):
            drawn = [torch.randn(x.shape[1:], generator=g, device="cpu") for g in generators]
            noisy = x + _SPREAD * reach * torch.stack(drawn).to(x)
            total = total + explained.explain(x=noisy, module=module)
        return total.abs()


def entropy(maps: Tensor, bins: int) -> Tensor:
    """Return the entropy of each map's histogram of equal bins, in nats, shape (B,)."""
    stats = require("scipy.stats", "bench")
    found = [
        float(stats.entropy(np.histogram(m.cpu().double().numpy(), bins=bins)[0])) for m in maps
    ]
    return torch.tensor(found, dtype=torch.float64)


def ranks(maps: Tensor) -> Tensor:
    """Return each number's place in its map, equal ones share theirs, float64 of the same shape."""
    stats = require("scipy.stats", "bench")
    placed = [stats.rankdata(m.cpu().numpy()).reshape(m.shape) for m in maps]
    return torch.from_numpy(np.stack(placed))


@lru_cache(maxsize=2)
def randomized(module: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a model whose parts with weights are initialized again.

    As Quantus does it, by each part's ``reset_parameters``; parameters of other modules are drawn
    from a normal distribution with their own mean and standard deviation.

    Args:
        module: is not changed.
        seed: of the weights; the random state is left as it was.
    """
    copied = copy.deepcopy(module)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        with torch.no_grad():
            for part in copied.modules():
                _reset(part)
    return copied


def _reset(part: nn.Module) -> None:
    own = list(part.parameters(recurse=False))
    if not own and not list(part.buffers(recurse=False)):
        return
    if callable(reset := getattr(part, "reset_parameters", None)):
        reset()
        return
    for parameter in own:
        if parameter.numel() > 1:
            std, mean = torch.std_mean(parameter.float())
            parameter.copy_(torch.randn_like(parameter) * std + mean)

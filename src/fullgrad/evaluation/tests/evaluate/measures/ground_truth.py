"""Does a map lie on what is known to count? For images with a mask of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fullgrad._optional import require
from fullgrad.evaluation.sources import DataError
from fullgrad.evaluation.tests.evaluate.measure import Measure, Score
from fullgrad.evaluation.tests.evaluate.subject import Explained, Subject
from fullgrad.vision.images import preprocess


@dataclass(frozen=True)
class GroundTruth(Measure):
    """Compares maps with masks of what is known to count.

    ``mass``: the share of the map's positive part that lies in the mask (0 for a map without one);
    a flat map has the mask's share of the image, which stands beside it as ``area``. ``rank``: how
    probable it is that a pixel of the mask has more than one outside (the area under the ROC
    curve); a flat map and a random one have 0.5.

    Images count whose label is the predicted class, since only then is it known that the model has
    seen what counts; or that have a mask and no label.
    """

    name = "ground-truth"
    title = "relevance on the parts of generated images, or of masks, that are known to count"

    def cases(self, subject: Subject) -> int:
        """How many images of a subject have a mask and are classified right."""
        return len(_known(subject, range(len(subject))))

    def scores(self, explained: Explained) -> Iterator[Score]:
        """Yield two scores for each image of which it is known what counts.

        Raises:
            DataError: no image has a mask.
        """
        subject = explained.subject
        if all(item.mask is None for item in subject.source.items):
            raise DataError(
                "ground-truth needs images of which it is known what counts: give --images "
                "generated:shapes or generated:shortcut, or a CSV with a column 'mask'"
            )
        numbers = _known(subject, explained.numbers)
        if not numbers:
            return
        masks = masks_of(subject, numbers).to(explained.x.device).flatten(1)
        chosen = [explained.numbers.index(n) for n in numbers]
        maps = explained.maps[chosen].flatten(1).double()
        positive = maps.clamp_min(0)
        whole, inside = positive.sum(1), (positive * masks).sum(1)
        mass = torch.where(whole > 0, inside / whole.clamp_min(1e-300), 0.0)
        area = masks.double().mean(1).tolist()
        for setting, values in (("mass", mass), ("rank", ranked(maps, masks))):
            for number, value, size in zip(numbers, values.tolist(), area, strict=True):
                yield Score(number, value, setting, more={"area": size})


def masks_of(subject: Subject, numbers: Sequence[int]) -> Tensor:
    """Return where images count, as the model sees them, bool of shape (B, 1, H, W).

    Args:
        subject: the model with its images.
        numbers: of images with a mask.
    """
    plain = replace(
        subject.model.preprocessing, interpolation="nearest", mean=(0.0,) * 3, std=(1.0,) * 3
    )
    found = []
    for item in subject.items(numbers):
        assert item.mask is not None
        found.append(preprocess(item.mask()[0], plain)[:1] > 0.5)
    return torch.stack(found)


def ranked(maps: Tensor, masks: Tensor) -> Tensor:
    """Return how probable more inside of a mask than outside is, equal numbers as half, shape (B,).

    Args:
        maps: shape (B, P).
        masks: bool, shape (B, P); neither empty nor full.

    Example:
        >>> ranked(torch.tensor([[3.0, 1.0, 1.0, 0.0]]), torch.tensor([[True, True, False, False]]))
        tensor([0.8750], dtype=torch.float64)
    """
    stats = require("scipy.stats", "bench")
    found = []
    for values, mask in zip(maps.cpu().numpy(), masks.cpu().numpy(), strict=True):
        inside = int(mask.sum())
        above = stats.rankdata(values)[mask].sum() - inside * (inside + 1) / 2
        found.append(above / (inside * (mask.size - inside)))
    return torch.tensor(found, dtype=torch.float64)


def _known(subject: Subject, numbers: Sequence[int]) -> tuple[int, ...]:
    """Return the images with a mask, neither empty nor full, that are not classified wrong."""
    found = []
    for number, item in zip(numbers, subject.items(numbers), strict=True):
        right = item.label is None or item.label == int(subject.predicted[number])
        if item.mask is not None and right:
            share = float(masks_of(subject, [number]).double().mean())
            if 0 < share < 1:
                found.append(number)
    return tuple(found)

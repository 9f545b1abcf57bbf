"""The grid pointing game (Rao, Böhle & Schiele 2022): does a map find its class in a mosaic?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fullgrad.evaluation.options import Option
from fullgrad.evaluation.tests.evaluate.measure import Measure, Score
from fullgrad.evaluation.tests.evaluate.subject import Explained, Subject

SIDES = (2,)
SURE = 0.8
_SALT = 3


@dataclass(frozen=True)
class GridPointing(Measure):
    """Shares positive relevance among the images of a mosaic; the right one should have it.

    Each image that the model is sure of becomes one cell of a mosaic as large as the input, at a
    random place; the other cells are sure images of other classes, all made smaller. The score is
    the share of the map's positive part that lies in its own cell (0 for a map without one).

    Args:
        sides: images along a mosaic's side, 2 or more.
        sure: the least probability of the predicted class in each image.

    Raises:
        ValueError: a side below 2, or a probability outside [0, 1).
    """

    sides: tuple[int, ...] = SIDES
    sure: float = SURE

    name = "grid-pointing"
    title = "share of positive relevance in the right image of a mosaic"
    options: ClassVar[Sequence[Option]] = (
        Option("--sides", "images along a mosaic's side", SIDES, int),
        Option("--sure", "least probability of the classes in a mosaic", SURE, float),
    )

    def __post_init__(self) -> None:
        if not self.sides or min(self.sides) < 2:
            raise ValueError(f"a mosaic has at least 2 images along its side, not {self.sides}")
        if not 0 <= self.sure < 1:
            raise ValueError(f"a probability lies in [0, 1), not {self.sure}")

    @classmethod
    def chance_in(cls, setting: str) -> float | None:
        """Return the share of the mosaic that an image has."""
        side = setting.partition(" ")[0]
        return 1 / int(side) ** 2 if side.isdecimal() else None

    def cases(self, subject: Subject) -> int:
        """How many images of a subject can be the one that is looked for."""
        return int((subject.sureness >= self.sure).sum())

    def scores(self, explained: Explained) -> Iterator[Score]:
        """Yield a score for each sure image and size of mosaic."""
        for side in self.sides:
            make = partial(mosaics, explained, side, self.sure)
            made = explained.shared(("mosaics", side, self.sure), make)
            if made is None:
                continue
            part = replace(explained, numbers=made.numbers)
            maps = part.explain(x=made.x).clamp_min(0).double()
            whole = maps.flatten(1).sum(1)
            own = (maps * made.own).flatten(1).sum(1)
            found = torch.where(whole > 0, own / whole.clamp_min(1e-300), 0.0)
            for number, value in zip(made.numbers, found.tolist(), strict=True):
                yield Score(number, value, f"{side} x {side}")


@dataclass(frozen=True, slots=True, eq=False)
class Mosaics:
    """Mosaics and where their own images are.

    Args:
        numbers: of the images that are looked for.
        x: shape (B, C, H, W).
        own: 1 where the image is that is looked for, shape (B, 1, H, W).
    """

    numbers: tuple[int, ...]
    x: Tensor
    own: Tensor


def mosaics(explained: Explained, side: int, sure: float) -> Mosaics | None:
    """Return a mosaic for each image that the model is sure of; None where there is none.

    Args:
        explained: the images.
        side: images along a mosaic's side.
        sure: the least probability.
    """
    subject = explained.subject
    known = subject.sureness >= sure
    numbers, images, owns = [], [], []
    for number, generator in zip(explained.numbers, explained.generators(_SALT), strict=True):
        if not known[number]:
            continue
        members, classes = [number], {int(subject.predicted[number])}
        for other in torch.randperm(len(subject), generator=generator).tolist():
            if len(members) == side * side:
                break
            if known[other] and int(subject.predicted[other]) not in classes:
                members.append(other)
                classes.add(int(subject.predicted[other]))
        if len(members) < side * side:
            continue
        places = torch.randperm(side * side, generator=generator).tolist()
        image, own = _mosaic(subject.inputs(members), places, side)
        numbers.append(number)
        images.append(image)
        owns.append(own)
    if not numbers:
        return None
    return Mosaics(tuple(numbers), torch.stack(images), torch.stack(owns))


def _mosaic(x: Tensor, places: list[int], side: int) -> tuple[Tensor, Tensor]:
    """Put images side by side; return the mosaic and where the first image is."""
    height, width = x.shape[2:]
    canvas, own = torch.zeros_like(x[0]), torch.zeros_like(x[0, :1])
    for i, place in enumerate(places):
        row, column = divmod(place, side)
        rows = slice(row * height // side, (row + 1) * height // side)
        columns = slice(column * width // side, (column + 1) * width // side)
        size = (rows.stop - rows.start, columns.stop - columns.start)
        small = F.interpolate(x[i : i + 1], size, mode="bilinear", antialias=True)
        canvas[:, rows, columns] = small[0]
        if i == 0:
            own[:, rows, columns] = 1
    return canvas, own

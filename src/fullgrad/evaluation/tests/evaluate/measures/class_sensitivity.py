"""Class sensitivity: how alike the maps of two classes of one image are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from fullgrad.evaluation.tests.evaluate.measure import Measure, Score, correlation
from fullgrad.evaluation.tests.evaluate.subject import Explained

_SALT = 2


@dataclass(frozen=True)
class ClassSensitivity(Measure):
    """Correlates the map of the predicted class with those of another one and of the second one.

    The other class is drawn from the less probable half. A map that is the same for each class says
    where something is, not what speaks for a class. After the random logit test of Sixt, Granz &
    Landgraf 2020.
    """

    name = "class-sensitivity"
    title = "correlation of the maps of two classes of one image"
    better = "lower"

    def scores(self, explained: Explained) -> Iterator[Score]:
        """Yield a score for each image and other class."""
        order = explained.logits.argsort(1)
        unlikely = order.shape[1] // 2
        drawn = [
            int(torch.randint(max(1, unlikely), (), generator=g))
            for g in explained.generators(_SALT)
        ]
        index = torch.tensor(drawn, device=order.device)[:, None]
        others = {"unlikely class": order.gather(1, index)[:, 0], "second class": explained.rivals}
        for setting, classes in others.items():
            found = correlation(explained.maps, explained.explain(classes=classes))
            for number, value in zip(explained.numbers, found.tolist(), strict=True):
                yield Score(number, value, setting)

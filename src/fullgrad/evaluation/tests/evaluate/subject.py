"""A model with its images, and one method's maps of some of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fullgrad import methods, targets
from fullgrad.engine.model_state import guarded
from fullgrad.engine.targets import main_tensor
from fullgrad.evaluation.plan import MethodChoice
from fullgrad.evaluation.sources import Item, Source
from fullgrad.methods.controls import NOISE
from fullgrad.vision.models import LoadedModel

NUMBERS = ("logit", "log-probability", "margin")
_TOGETHER, _ON_CPU = 50, 8  # images that go through the model together; caches are small
_KEPT = 256  # images in memory, prepared
_SHARED = 8  # things in memory that all methods take
_T = TypeVar("_T")
_APART = 1_000_003  # between the seeds of two random orders


@dataclass(frozen=True, eq=False)
class Subject:
    """A classifier and the images on which its explanations are tested.

    Args:
        name: of the model, in tables.
        model: loaded.
        source: the images.
    """

    name: str
    model: LoadedModel
    source: Source

    def __len__(self) -> int:
        return len(self.source.items)

    def items(self, numbers: Sequence[int]) -> list[Item]:
        """Return some of the images, not decoded."""
        return [self.source.items[n] for n in numbers]

    @property
    def together(self) -> int:
        """How many images go through the model together; that changes rounding only."""
        return _ON_CPU if self.model.device.type == "cpu" else _TOGETHER

    def inputs(self, numbers: Sequence[int]) -> Tensor:
        """Return some images as the model takes them, shape (B, C, H, W)."""
        return torch.stack([self._input(n) for n in numbers]).to(self.model.device)

    @cached_property
    def _input(self) -> Callable[[int], Tensor]:
        """Prepares one image; those that are asked for again are not decoded again."""

        @lru_cache(maxsize=_KEPT)
        def prepared(number: int) -> Tensor:
            return self.source.items[number].input(self.model.preprocessing)

        return prepared

    @cached_property
    def _shared(self) -> dict[Any, Any]:
        """What all methods take of the last batches; see :meth:`Explained.shared`."""
        return {}

    def outputs(self, x: Tensor, module: nn.Module | None = None) -> Tensor:
        """Return logits, float64 of shape (B, classes).

        Args:
            x: shape (B, C, H, W).
            module: another model in its place.
        """
        module = module or self.model.module
        with guarded(module, evaluate=True), torch.no_grad():
            parts = [main_tensor(module(part))[0].double() for part in x.split(self.together)]
        return torch.cat(parts)

    @cached_property
    def logits(self) -> Tensor:
        """The outputs for all images, shape (N, classes), on the CPU."""
        numbers = range(len(self))
        parts = [numbers[i : i + self.together] for i in range(0, len(self), self.together)]
        return torch.cat([self.outputs(self.inputs(part)).cpu() for part in parts])

    @cached_property
    def predicted(self) -> Tensor:
        """The predicted class of each image, shape (N,)."""
        return self.logits.argmax(1)

    @cached_property
    def sureness(self) -> Tensor:
        """The predicted class's probability for each image, shape (N,)."""
        return self.logits.softmax(1).amax(1)

    def known(self) -> dict[str, float]:
        """Return images, classes, mean probability, and accuracy where images have labels."""
        found = {
            "images": float(len(self)),
            "classes": float(self.logits.shape[1]),
            "probability": float(self.sureness.mean()),
        }
        labels = [item.label for item in self.source.items]
        right = [
            int(p) == label
            for p, label in zip(self.predicted, labels, strict=True)
            if label is not None
        ]
        return found | ({"accuracy": sum(right) / len(right)} if right else {})


@dataclass(frozen=True, eq=False)
class Explained:
    """Some images of a subject and one method; what a test of maps is given.

    Args:
        subject: the model with its images.
        choice: the method.
        numbers: of the images.
        number: what is explained, one of :data:`NUMBERS`.
        seed: of noise, ties and everything else that is drawn.
        run: which one of several maps of noise.
    """

    subject: Subject
    choice: MethodChoice
    numbers: tuple[int, ...]
    number: str = "logit"
    seed: int = 0
    run: int = 0

    @cached_property
    def x(self) -> Tensor:
        """The images, shape (B, C, H, W)."""
        return self.subject.inputs(self.numbers)

    @cached_property
    def logits(self) -> Tensor:
        """The model's outputs for them, shape (B, classes)."""
        return self.subject.logits[list(self.numbers)].to(self.x.device)

    @property
    def classes(self) -> Tensor:
        """The predicted classes, shape (B,)."""
        return self.logits.argmax(1)

    @cached_property
    def rivals(self) -> Tensor:
        """The second most probable classes, shape (B,)."""
        return self.logits.topk(2, 1).indices[:, 1]

    @cached_property
    def maps(self) -> Tensor:
        """The maps of the predicted classes, shape (B, 1, H, W)."""
        return self.explain()

    def explain(
        self,
        x: Tensor | None = None,
        classes: Tensor | None = None,
        module: nn.Module | None = None,
        number: str | None = None,
    ) -> Tensor:
        """Return other maps of the same method.

        Args:
            x: other inputs, as many.
            classes: other classes, shape (B,).
            module: another model.
            number: another one of :data:`NUMBERS`.

        Returns:
            Shape (B, 1, H, W).

        Raises:
            ValueError: an unknown number.
        """
        x = self.x if x is None else x
        classes = self.classes if classes is None else classes
        module = module or self.subject.model.module
        number = _known(number or self.number)
        others = self._other(classes)
        options = dict(self.choice.options)
        size = self.subject.together
        if self.choice.name in NOISE:
            first = self.numbers[0] if self.numbers else 0
            options["seed"] = options.get("seed", 0) + self.seed + _APART * self.run + first
            size = len(x)  # what is drawn depends on the images beside one
        parts = []
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            target: Any = classes[part]
            if number == "log-probability":
                target = targets.log_probability(target)
            elif number == "margin":
                target = targets.margin(target, others[part])
            parts.append(methods.attribute(self.choice.name, module, x[part], target, **options))
        return torch.cat(parts)

    def shared(self, key: Any, make: Callable[[], _T]) -> _T:
        """Return what does not depend on the method, made for the first method of these images.

        Args:
            key: tells it apart from others of the same images and seed.
            make: gives it.
        """
        kept, key = self.subject._shared, (key, self.numbers, self.seed)
        if key not in kept:
            if len(kept) >= _SHARED:
                kept.pop(next(iter(kept)))
            kept[key] = make()
        found: _T = kept[key]
        return found

    def measured(self, logits: Tensor) -> Tensor:
        """Return the explained number of the predicted classes for other outputs.

        Args:
            logits: shape (..., B, classes).

        Returns:
            Shape (..., B).

        Raises:
            ValueError: an unknown number.
        """
        if _known(self.number) == "log-probability":
            logits = logits.log_softmax(-1)
        own = self._of(logits, self.classes)
        return own - self._of(logits, self.rivals) if self.number == "margin" else own

    def _other(self, classes: Tensor) -> Tensor:
        """For each class the most probable one beside it."""
        others = self.logits.scatter(1, classes[:, None], -torch.inf)
        return others.argmax(1)

    @staticmethod
    def _of(logits: Tensor, classes: Tensor) -> Tensor:
        index = classes.view(*[1] * (logits.dim() - 2), -1, 1).expand(*logits.shape[:-1], 1)
        return logits.gather(-1, index)[..., 0]

    def generators(self, salt: int) -> list[torch.Generator]:
        """Return a source of random numbers for each image, whatever the batch it is in."""
        return [torch.Generator().manual_seed(self._seed(salt, n)) for n in self.numbers]

    def _seed(self, salt: int, number: int) -> int:
        return ((self.seed * _APART + salt) * _APART + number) % 2**63


def _known(number: str) -> str:
    if number not in NUMBERS:
        raise ValueError(f"number must be one of {', '.join(NUMBERS)}, not {number!r}")
    return number

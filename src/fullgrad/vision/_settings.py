"""What a user states of a model: classes and preprocessing; and what is assumed without it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from fullgrad.errors import ModelLoadError
from fullgrad.vision.images import Preprocessing

FIELDS = ("resize", "crop", "interpolation", "mean", "std")
STATED = ("num_classes", *FIELDS)
"""Names of the options of commands that state something of a model."""


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What is stated of a model beside its name and weights; None where nothing is.

    Args:
        num_classes: of its last layer, for models by name.
        mean: subtracted from each channel of values in [0, 1]; as many numbers as channels.
        std: then divided by; as many.
        resize: length of the shorter side, aspect ratio kept; or (height, width), stretched.
        crop: (height, width) cut out of the center. Without it a stated ``resize`` is the input's
            size: its square, or all of (height, width).
        interpolation: see :class:`~fullgrad.vision.images.Preprocessing`.
    """

    num_classes: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    interpolation: str | None = None

    def values(self) -> dict[str, Any]:
        """What is stated, by name."""
        return {k: v for k, v in asdict(self).items() if v is not None}

    def text(self) -> str:
        """What is stated, for plans; empty where nothing is."""
        return json.dumps(self.values(), sort_keys=True) if self.values() else ""

    def applied(
        self, own: Preprocessing, stated: frozenset[str], origin: str, way_out: str
    ) -> tuple[Preprocessing, tuple[str, ...]]:
        """A model's preprocessing with what is stated, and what had to be assumed, in words.

        Args:
            own: what is known of the model.
            stated: its fields that the model states itself.
            origin: where the other ones come from, for people.
            way_out: what else states them, for people.

        Raises:
            ModelLoadError: values that do not fit each other.
        """
        given = {k: v for k, v in self.values().items() if k in FIELDS}
        if self.resize is not None and self.crop is None:
            side = self.resize
            given["crop"] = (side, side) if isinstance(side, int) else side
        if self.crop is not None and self.resize is None and not _fits(own, self.crop):
            given["resize"] = max(self.crop)
        alone = [k for k in ("mean", "std") if k in given]
        if len(alone) == 1:
            other = "std" if alone[0] == "mean" else "mean"
            if len(given[alone[0]]) != len(getattr(own, other)):
                count = len(given[alone[0]])
                raise ModelLoadError(
                    f"--{alone[0]} has {count} number{'s' * (count != 1)}, and {other} "
                    f"{len(getattr(own, other))}: give --{other} as well, one for each channel"
                )
        try:
            found = replace(own, **given)
        except ValueError as error:
            raise ModelLoadError(f"the preprocessing that is asked for: {error}") from error
        missing = [f for f in FIELDS if f not in stated and f not in given]
        if not missing:
            return found, ()
        values = "; ".join(f"{name} {_written(getattr(found, name))}" for name in missing)
        options = ", ".join(f"--{name}" for name in missing)
        return found, (f"assumed {origin}: {values}. State them with {options}{way_out}",)


def _fits(own: Preprocessing, crop: tuple[int, int]) -> bool:
    sides = (own.resize,) * 2 if isinstance(own.resize, int) else own.resize
    return crop[0] <= sides[0] and crop[1] <= sides[1]


def _written(value: Any) -> str:
    return " ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)


def from_options(options: Mapping[str, Any]) -> ModelSettings:
    """The settings among options of a command; lists become tuples."""
    found: dict[str, Any] = {k: options.get(k) for k in STATED}
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    return ModelSettings(**given)

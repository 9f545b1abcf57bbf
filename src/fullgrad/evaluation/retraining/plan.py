"""What a ROAR run is asked for, and the stages that it takes, each with its digest."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from fullgrad import methods
from fullgrad._version import __version__
from fullgrad.evaluation.plan import ORDERS, MethodChoice, check_asked, digest_of
from fullgrad.evaluation.retraining.networks import NetworkChoice
from fullgrad.evaluation.retraining.removal import FILLS
from fullgrad.evaluation.retraining.training import Settings
from fullgrad.methods.controls import NOISE

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
CONTROLS = (*NOISE, "sobel")  # know nothing of the network
NONE = "none"  # in tables: the control without removal
IMAGES, MASKS = "images", "masks"
CHUNK = 1000  # images whose maps are one stage
_APART = 1_000_003  # between the seeds of two runs


@dataclass(frozen=True, slots=True)
class RoarPlan:
    """A ROAR run: all that its numbers depend on, but for the machine's rounding.

    Args:
        data: where the images come from.
        content: digest of the images.
        counts: training and test images.
        network: that is trained.
        training: how.
        choices: the methods.
        fractions: of the pixels that are removed, ascending, in (0, 1].
        runs: networks trained for each method and fraction.
        mask_runs: networks trained on the masks alone, for each method and fraction.
        order: ``most`` salient first, the paper's, or ``least``.
        fill: what removed pixels become: the training images' ``mean`` colour, ``black``, or
            what ``road``, noisy linear imputation, guesses from the pixels that are left.
        seed: of weights, orders, ties and random maps, from 0 to below 2**40.
        map_batch: images explained together; the maps depend on it by rounding only, but for
            the numbers of random ones.

    Raises:
        ValueError: no method or one twice, fractions or numbers out of range, an unknown order.
    """

    data: str
    content: str
    counts: tuple[int, int]
    network: NetworkChoice
    training: Settings
    choices: tuple[MethodChoice, ...]
    fractions: tuple[float, ...] = FRACTIONS
    runs: int = 3
    mask_runs: int = 1
    order: str = "most"
    fill: str = "mean"
    seed: int = 0
    map_batch: int = 50

    def __post_init__(self) -> None:
        check_asked(self.choices, self.fractions)
        if NONE in {c.label for c in self.choices}:
            raise ValueError(f"{NONE!r} stands for no removal, which is always measured")
        if self.order not in ORDERS:
            raise ValueError(f"order must be 'least' or 'most', not {self.order!r}")
        if self.fill not in FILLS:
            raise ValueError(f"fill must be one of {', '.join(FILLS)}, not {self.fill!r}")
        for name, least in (("runs", 1), ("mask_runs", 0), ("map_batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not 0 <= self.seed < 2**40:
            raise ValueError(f"the seed must be at least 0 and below 2**40, not {self.seed}")
        if CHUNK % self.map_batch:
            raise ValueError(f"map_batch must divide {CHUNK}, not {self.map_batch}")

    def values(self) -> dict[str, Any]:
        """As JSON can hold it."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        found["network"] = self.network.values()
        found["choices"] = [c.label for c in self.choices]
        return found

    def run_seed(self, run: int) -> int:
        """Of the networks of one run: the same for all methods and fractions."""
        return self.seed + _APART * run

    def _trained(self, run: int) -> dict[str, Any]:
        return {
            "fullgrad": __version__,
            "content": self.content,
            "network": self.network.values(),
            "training": asdict(self.training),
            "seed": self.run_seed(run),
        }

    def base(self) -> NetworkStage:
        """The network that is explained: the first run without removal."""
        return self.networks(NONE)[0]

    def networks(self, label: str = "") -> list[NetworkStage]:
        """The networks of one method, or of all: without removal first, then by fraction, run."""
        return [s for s in _networks(self) if label in ("", s.label)]

    def ranks(self, choice: MethodChoice) -> list[RanksStage]:
        """The parts of one method's maps, training images first."""
        key = self.ranks_key(choice)
        return [
            RanksStage(
                choice, split, start, min(start + CHUNK, count), f"{key}-{split}-{start:06d}"
            )
            for split, count in zip(("train", "test"), self.counts, strict=True)
            for start in range(0, count, CHUNK)
        ]

    def ranks_key(self, choice: MethodChoice) -> str:
        """Digest of all that a method's maps depend on."""
        settings = methods.get(choice.name).settings(choice.options)
        source = {} if choice.name in CONTROLS else {"base": self._trained(0)}
        return digest_of(
            {
                "kind": "ranks",
                "fullgrad": __version__,
                "content": self.content,
                **source,
                "method": choice.name,
                "code": _own_code(choice.name),
                "options": {f.name: repr(getattr(settings, f.name)) for f in fields(settings)},
                "seed": self.seed,
                "batch": self.map_batch,
            }
        )


def _own_code(name: str) -> str:
    """The source of a user's method, which may change under the same name."""
    function = methods.get(name).function
    if getattr(function, "__module__", "").startswith("fullgrad."):
        return ""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return getattr(function, "__qualname__", type(function).__qualname__)


@dataclass(frozen=True, slots=True)
class RanksStage:
    """The maps of a method for some images.

    Args:
        choice: the method.
        split: ``train`` or ``test``.
        start: the first image.
        stop: behind the last one.
        digest: of all it depends on.
    """

    choice: MethodChoice
    split: str
    start: int
    stop: int
    digest: str


@dataclass(frozen=True, slots=True)
class NetworkStage:
    """A network, trained and tested.

    Args:
        choice: the method whose pixels are removed; None for no removal.
        fraction: of the pixels; 0 for no removal.
        run: number, from 0.
        content: ``images``, or ``masks`` for the masks alone.
        digest: of all it depends on.
    """

    choice: MethodChoice | None
    fraction: float
    run: int
    content: str
    digest: str

    @property
    def label(self) -> str:
        """The method, in tables and figures."""
        return self.choice.label if self.choice else NONE


def _networks(plan: RoarPlan) -> Iterator[NetworkStage]:
    for run in range(plan.runs):
        digest = digest_of({"kind": "network", **plan._trained(run)})
        yield NetworkStage(None, 0.0, run, IMAGES, digest)
    for choice in plan.choices:
        key = plan.ranks_key(choice)
        for fraction in plan.fractions:
            for content, runs in ((IMAGES, plan.runs), (MASKS, plan.mask_runs)):
                for run in range(runs):
                    values = {
                        "kind": "network",
                        **plan._trained(run),
                        "ranks": key,
                        "fraction": fraction,
                        "order": plan.order,
                        "input": content,
                    }
                    if content == IMAGES:
                        values["fill"] = plan.fill
                    yield NetworkStage(choice, fraction, run, content, digest_of(values))

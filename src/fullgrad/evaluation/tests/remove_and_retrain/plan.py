"""What a run is asked for, and the stages that it takes, each with its digest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from fullgrad import methods
from fullgrad._code import code_digest
from fullgrad.evaluation._own_sources import own_sources
from fullgrad.evaluation.plan import (
    MethodChoice,
    Plan,
    check_fractions,
    check_least,
    check_order,
    digest_of,
)
from fullgrad.evaluation.removal import IMAGE_FILLS
from fullgrad.evaluation.training.loop import Settings
from fullgrad.evaluation.training.networks import NetworkChoice
from fullgrad.methods.controls import BLIND

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
CONTROLS = BLIND  # know nothing of the network
NONE = "none"  # in tables: the control without removal
IMAGES, MASKS = "images", "masks"
CHUNK = 1000  # images whose maps are one stage
_APART = 1_000_003  # between the seeds of two runs


_HERE = "fullgrad.evaluation.tests.remove_and_retrain"
# Plans and methods decide which networks are trained; they do not change what comes out.
_DECIDE = ("fullgrad.methods", "fullgrad.evaluation.plan", f"{_HERE}.plan")


def training_code() -> str:
    """Return the digest of the code that trains networks."""
    return code_digest(f"{_HERE}.retraining", apart=_DECIDE)


def maps_code() -> str:
    """Return the digest of the code that makes maps."""
    return code_digest(f"{_HERE}.explaining", apart=_DECIDE[1:])


@dataclass(frozen=True, kw_only=True)
class RetrainPlan(Plan):
    """Holds all that a run's numbers depend on, but for the code and the machine's rounding.

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
        fill: what removed pixels become: the training images' ``mean`` color, ``black``, or
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
    fractions: tuple[float, ...] = FRACTIONS
    runs: int = 3
    mask_runs: int = 1
    order: str = "most"
    fill: str = "mean"
    seed: int = 0
    map_batch: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fractions(self.fractions)
        if NONE in {c.label for c in self.choices}:
            raise ValueError(f"{NONE!r} stands for no removal, which is always measured")
        check_order(self.order)
        if self.fill not in IMAGE_FILLS:
            raise ValueError(f"fill must be one of {', '.join(IMAGE_FILLS)}, not {self.fill!r}")
        check_least(self, runs=1, mask_runs=0, map_batch=1)
        if not 0 <= self.seed < 2**40:
            raise ValueError(f"the seed must be at least 0 and below 2**40, not {self.seed}")
        if CHUNK % self.map_batch:
            raise ValueError(f"map_batch must divide {CHUNK}, not {self.map_batch}")

    def values(self) -> dict[str, Any]:
        """Return the plan as JSON can hold it."""
        return super().values() | {"network": self.network.values()}

    def run_seed(self, run: int) -> int:
        """Return the seed of a run's networks: the same for all methods and fractions."""
        return self.seed + _APART * run

    def _trained(self, run: int) -> dict[str, Any]:
        return {
            "code": training_code(),
            "content": self.content,
            "network": self.network.values(),
            "training": asdict(self.training),
            "seed": self.run_seed(run),
        }

    def base(self) -> NetworkStage:
        """Return the network that is explained: the first run without removal."""
        return self.networks(NONE)[0]

    def networks(self, label: str = "") -> list[NetworkStage]:
        """Return the networks of one method, or of all, those without removal first."""
        return [s for s in _networks(self) if label in ("", s.label)]

    def ranks(self, choice: MethodChoice) -> list[RanksStage]:
        """Return the parts of one method's maps, training images first."""
        key = self.ranks_key(choice)
        return [
            RanksStage(
                choice, split, start, min(start + CHUNK, count), f"{key}-{split}-{start:06d}"
            )
            for split, count in zip(("train", "test"), self.counts, strict=True)
            for start in range(0, count, CHUNK)
        ]

    def ranks_key(self, choice: MethodChoice) -> str:
        """Return a digest of all that a method's maps depend on."""
        settings = methods.get(choice.name).settings(choice.options)
        source = {} if choice.name in CONTROLS else {"base": self._trained(0)}
        return digest_of(
            {
                "kind": "ranks",
                "maps": maps_code(),
                "content": self.content,
                **source,
                "method": choice.name,
                "code": own_sources([choice]),
                "options": {f.name: repr(getattr(settings, f.name)) for f in fields(settings)},
                "seed": self.seed,
                "batch": self.map_batch,
            }
        )


@dataclass(frozen=True, slots=True)
class RanksStage:
    """Names the maps of a method for some images.

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
    """Names a network that is trained and tested.

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


def _networks(plan: RetrainPlan) -> Iterator[NetworkStage]:
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

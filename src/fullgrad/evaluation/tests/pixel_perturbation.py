"""The pixel-perturbation test over a set of images (Srinivas & Fleuret 2019, section 5.1).

A batch of images becomes rows: maps of every method once, then every order, fill and fraction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fullgrad.engine.model_state import guarded
from fullgrad.evaluation import statistics
from fullgrad.evaluation.images_test import APART, Batch, ImagesPlan, ImagesTest
from fullgrad.evaluation.options import Option
from fullgrad.evaluation.perturbation import compared, logits_of
from fullgrad.evaluation.plan import FRACTIONS, ORDERS, check_fractions, check_order
from fullgrad.evaluation.removal import FILLS, count_of, fill_named, order_of
from fullgrad.evaluation.statistics import Table
from fullgrad.evaluation.store import Store
from fullgrad.viz.curves import perturbation_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORWARD = 32  # perturbed images that go through the model together
_TEST = ["order", "fill"]
_GROUP = ["method", *_TEST, "fraction"]


@dataclass(frozen=True, kw_only=True)
class PerturbationPlan(ImagesPlan):
    """Holds what a run is asked for.

    Args:
        fractions: of the pixels that are removed, ascending.
        orders: ``least`` (the paper's), ``most`` or both.
        fills: see :data:`fullgrad.evaluation.removal.FILLS`.

    Raises:
        ValueError: fractions out of range, or an unknown order.
    """

    fractions: tuple[float, ...] = FRACTIONS
    orders: tuple[str, ...] = ("least",)
    fills: tuple[str, ...] = ("black",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fractions(self.fractions)
        for order in self.orders:
            check_order(order)


@dataclass(frozen=True, eq=False)
class PixelPerturbation(ImagesTest):
    """Removes pixels in the order of each method's map, and measures the output's change."""

    name = "pixel-perturbation"
    title = "remove pixels in the order of each method's map, and measure the output's change"
    description = """\
Removes the k % least (or most) salient pixels of each image by each method's map, and measures
|f(x') - f(x)| / |f(x)| of the predicted class's logit (Srinivas & Fleuret 2019, section 5.1).

Writes into the results folder
  results.parquet, results.csv   one row for each image, method, order, fill and fraction
  summary.csv, ranking.csv       means over images with bootstrap 95 % intervals
  differences.csv                paired differences between methods
  curves.png                     the paper's figure
  record.json                    what is needed to run it again, and what it took
An interrupted run resumes when it is started again; a finished one is not repeated.
"""
    epilog = """\
examples:
  fullgrad bench pixel-perturbation --images photos/ --out results
  fullgrad bench pixel-perturbation --images labels.csv --order both --fill black blur --out results
  fullgrad bench pixel-perturbation --images photos/ --out results \\
      --methods fullgrad fullgrad:terms=explicit fullgrad:psi=channel grad_cam random

exit code: 0 all done; 1 some images could not be read, the others are done; 2 a mistake in the
arguments or work that had to stop.
"""
    options = (
        *ImagesTest.options,
        Option("--fractions", "shares of the pixels that are removed, in (0, 1]", FRACTIONS, float),
        Option(
            "--order",
            "least salient pixels first, as in the paper, most salient first, or both",
            "least",
            choices=(*ORDERS, "both"),
        ),
        Option("--fill", "what removed pixels become", ("black",), choices=tuple(FILLS)),
    )
    columns = frozenset({"image", "order", "fill", "fraction", "relative_change"})
    types: ClassVar[Mapping[str, str]] = {
        "label": "Int64",
        "correct_before": "boolean",
        "correct_after": "boolean",
    }
    meanings: ClassVar[Mapping[str, str]] = {
        "order": "which pixels are removed first, the least or the most salient ones",
        "fill": "what a removed pixel becomes",
        "images": "how many images the mean is over",
        "relative_change": "mean over images of |change of the output| / |output|",
        "area": "relative change, averaged along the logarithmic axis of fractions; the least is "
        "best where the least salient go first, else the largest",
        "probability_change": "mean change of the class's probability",
        "class_unchanged": "share of images whose predicted class stays",
    }
    plan_type = PerturbationPlan

    plan: PerturbationPlan

    @classmethod
    def prepare(  # type: ignore[override]
        cls, *, fractions: tuple[float, ...], order: str, fill: tuple[str, ...], **more: Any
    ) -> ImagesTest:
        """Read the images and load the model."""
        orders = ("least", "most") if order == "both" else (order,)
        return super().prepare(
            fractions=tuple(sorted(fractions)), orders=orders, fills=tuple(fill), **more
        )

    def check(self) -> None:
        """Try every method and fill on the first image."""
        for fill in self.plan.fills:
            fill_named(fill, self.model.preprocessing)
        super().check()

    def rows_of(
        self, batch: Batch, maps: Tensor, fixed: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """Yield a row for each image, order, fill and fraction."""
        plan = self.plan
        counts = [count_of(f, maps[0].numel()) for f in plan.fractions]
        seeds = [plan.seed * APART + batch.start + i for i in range(len(batch.x))]
        for order in plan.orders:
            places = order_of(maps, order, plan.seed)
            jobs = [(places, n) for n in counts]
            for fill in plan.fills:
                filling = fill_named(fill, self.model.preprocessing)
                with guarded(self.model.module, evaluate=True), torch.no_grad():
                    logits = logits_of(self.model.module, batch.x, jobs, filling, seeds, _FORWARD)
                yield from self._each(
                    batch, logits, counts, {**fixed, "order": order, "fill": fill}
                )

    def _each(
        self, batch: Batch, logits: Tensor, counts: list[int], fixed: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        found = compared(batch.whole, logits, batch.target)
        sure = batch.whole.softmax(1).gather(1, batch.target[:, None])[:, 0]
        predicted = logits.argmax(2)
        for i, item in enumerate(self.source.items[batch.start :][: len(batch.x)]):
            known = item.label is not None
            for j, fraction in enumerate(self.plan.fractions):
                yield {
                    "image": item.name,
                    "label": item.label,
                    "target": int(batch.target[i]),
                    **fixed,
                    "fraction": fraction,
                    "pixels": counts[j],
                    "output_before": float(found.before[i]),
                    "output_after": float(found.after[i, j]),
                    "relative_change": float(found.relative[i, j]),
                    "probability_before": float(sure[i]),
                    "probability_change": float(found.probability[i, j]),
                    "class_unchanged": bool(found.class_unchanged[i, j]),
                    "correct_before": int(batch.target[i]) == item.label if known else None,
                    "correct_after": int(predicted[j, i]) == item.label if known else None,
                }

    @classmethod
    def scores(cls, rows: Table, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Return each method's mean area under each order and fill; the higher, the better."""
        found = {}
        for (order, fill), group in areas(rows).groupby(_TEST, sort=False):
            scores = group.groupby("method", sort=False)["area"].mean()
            found[f"{order} first, {fill}"] = -scores if order == "least" else scores
        return found

    def tables(self, rows: Table) -> dict[str, Table]:
        """Return means, ranking and differences."""
        each = areas(rows)
        return {
            "summary": summary(rows),
            "ranking": statistics.ranking(
                each, _TEST, lambda test: test["order"] == "most", cases="images"
            ),
            "differences": statistics.differences(each, _TEST, "image"),
        }

    def figures(self, tables: Mapping[str, Table], store: Store) -> dict[str, Figure]:
        """Draw the paper's figure."""
        note = f"{len(self.source.items)} images, {self.model.spec}."
        return {"curves": perturbation_curves(tables["summary"], note)}

    def text(self, tables: Mapping[str, Table]) -> str:
        """Return the rankings for people."""
        parts = []
        for (order, fill), group in tables["ranking"].groupby(_TEST, sort=False):
            better = "lower" if order == "least" else "higher"
            head = (
                f"{order} salient first, filled {fill}: mean |change| / |output| over the "
                f"logarithmic axis ({better} is better)"
            )
            parts.append("\n".join([head, *statistics.ranking_text(group, cases="images")]))
        return "\n\n".join(parts)


def summary(rows: Table) -> Table:
    """Return means over the images with intervals, by method, order, fill and fraction."""
    values = ["relative_change", "probability_change", "class_unchanged"]
    each = rows.groupby(["image", *_GROUP], sort=False, observed=True)[values].mean()
    return statistics.summary(each.reset_index(), _GROUP, values[0], "images", means=values[1:])


def areas(rows: Table) -> Table:
    """Return the mean change along the logarithmic axis, by image, method, order and fill.

    The area under the curve over the logarithm of the fraction, divided by the axis' length; the
    change itself where there is one fraction. Several runs of a method are averaged first.
    """
    keys = ["image", "method", *_TEST]
    each = rows.groupby([*keys, "fraction"], sort=False, observed=True)["relative_change"].mean()

    def area(group: Table) -> float:
        ordered = group.sort_values("fraction")
        logarithms = np.log(ordered["fraction"].to_numpy())
        return statistics.area(logarithms, ordered["relative_change"].to_numpy())

    grouped = each.reset_index().groupby(keys, sort=False, observed=True)
    return grouped[["fraction", "relative_change"]].apply(area).rename("area").reset_index()

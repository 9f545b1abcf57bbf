"""Scores of a detector's boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from fullgrad.engine.targets import Described
from fullgrad.errors import TargetError
from fullgrad.targets.words import whole, words

Form: TypeAlias = Literal["xyxy", "cxcywh"]
Box: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Instance(Described):
    """The score of one box of a detector; made by :func:`instance`.

    Args:
        row: the box's number; None for the one that overlaps ``box`` best.
        box: corners (left, top, right, bottom).
        c: the class whose score it is; None for the detector's own choice.
        form: how the output writes boxes.
    """

    row: int | list[int] | None
    box: Box | None
    c: int | None
    form: Form
    of_batch = True

    def __call__(self, output: Any) -> Tensor:
        """The score of each sample's box, shape (B,).

        Raises:
            TargetError: no box fits, or the output holds no boxes.
        """
        found = _detections(output)
        rows = self.row if isinstance(self.row, list) else [self.row] * len(found)
        if len(rows) != len(found):
            raise TargetError(f"boxes of {len(rows)} samples for a batch of {len(found)}")
        scores = [
            self._score(d, i, row) for i, (d, row) in enumerate(zip(found, rows, strict=True))
        ]
        return torch.stack(scores)

    def _score(self, found: _Boxes, sample: int, row: Any) -> Tensor:
        at = self._row(found, sample, row)
        scores = found.scores[at]
        if scores.dim() == 0:
            return scores
        c = int(scores.detach().argmax()) if self.c is None else self.c
        if not 0 <= c < len(scores):
            raise TargetError(f"target {c} is out of range for boxes of {len(scores)} classes")
        return scores[c]

    def _row(self, found: _Boxes, sample: int, row: Any) -> int:
        count = len(found.boxes)
        if row is not None:
            if not 0 <= row < count:
                raise TargetError(f"box {row} is out of range: sample {sample} has {count} boxes")
            return int(row)
        assert self.box is not None
        own = torch.tensor(self.box, dtype=torch.float64, device=found.boxes.device)
        overlaps = _overlaps(_corners(found.boxes.detach().double(), self.form), own)
        if found.labels is not None and self.c is not None:
            overlaps = torch.where(found.labels == self.c, overlaps, 0.0)
        if count == 0 or not float(overlaps.max()) > 0:
            of = "" if found.labels is None or self.c is None else f" of class {self.c}"
            raise TargetError(
                f"none of the {count} boxes of sample {sample}{of} overlaps "
                f"{_written(self.box)}; boxes are written as {self.form} in the output"
            )
        return int(overlaps.argmax())

    @property
    def is_open(self) -> bool:
        """Whether the output decides which box it is, or of which class."""
        return not isinstance(self.row, list)

    def settled(self, output: Any, samples: int | None = None) -> Instance:
        """The same with the numbers of boxes, where an output's boxes keep their numbers.

        Those of a detector that sorts and drops boxes do not: they are found again each time.
        """
        found = _detections(output)
        if found and found[0].labels is not None:
            return self
        rows = [self._row(d, i, self.row) for i, d in enumerate(found)]
        return replace(self, row=rows)

    def changed(self, change: Callable[[Any], Any]) -> Instance:
        """The same with the numbers of boxes changed, where each sample has one."""
        return replace(self, row=change(self.row)) if isinstance(self.row, list) else self

    def describe(self, names: Sequence[str] | None = None) -> str:
        """What is explained: ``score of class 1 of box 3``."""
        of = "score" if self.c is None else f"score of {words(self.c, names)}"
        if self.box is not None:
            return f"{of} of the box that overlaps {_written(self.box)} best"
        rows = self.row if isinstance(self.row, list) else [self.row]
        at = rows[:1] if len(set(rows)) == 1 else rows
        return f"{of} of box{'es' if len(at) > 1 else ''} {', '.join(map(str, at))}"


@dataclass(frozen=True, slots=True, eq=False)
class _Boxes:
    """One sample's boxes, shape (N, 4), their scores, (N,) or (N, classes), and labels, (N,)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor | None


def _detections(output: Any) -> list[_Boxes]:
    if isinstance(output, (tuple, list)) and output and all(_is_detection(d) for d in output):
        return [_Boxes(d["boxes"], d["scores"], d["labels"]) for d in output]
    entries = output
    if is_dataclass(output) and not isinstance(output, type):
        entries = {f.name: getattr(output, f.name) for f in fields(output)}
    if isinstance(entries, Mapping):
        boxes, logits = entries.get("pred_boxes"), entries.get("logits", entries.get("pred_logits"))
        if isinstance(boxes, Tensor) and isinstance(logits, Tensor):
            if boxes.dim() == 3 and logits.dim() == 3 and boxes.shape[:2] == logits.shape[:2]:
                return [_Boxes(b, s, None) for b, s in zip(boxes, logits, strict=True)]
    raise TargetError(
        f"instance finds no boxes in the model's output ({type(output).__name__}): it knows lists "
        "with boxes, scores and labels of each sample, and logits with pred_boxes; for others "
        "use a callable target"
    )


def _is_detection(value: Any) -> bool:
    return isinstance(value, Mapping) and {"boxes", "scores", "labels"} <= set(value)


def _corners(boxes: Tensor, form: Form) -> Tensor:
    if form == "xyxy":
        return boxes
    middle, size = boxes[:, :2], boxes[:, 2:]
    return torch.cat([middle - size / 2, middle + size / 2], 1)


def _overlaps(boxes: Tensor, box: Tensor) -> Tensor:
    """Intersection over union of each box with another one, shape (N,)."""
    least, most = torch.maximum(boxes[:, :2], box[:2]), torch.minimum(boxes[:, 2:], box[2:])
    common = (most - least).clamp(min=0).prod(1)
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return common / (sizes - common).clamp(min=torch.finfo(boxes.dtype).tiny)


def _written(box: Box) -> str:
    return f"({', '.join(f'{v:g}' for v in box)})"


def instance(
    row: int | None = None,
    *,
    box: Sequence[float] | None = None,
    c: int | None = None,
    form: Form = "xyxy",
) -> Instance:
    """The score of one box that a detector returns: why is this a bicycle?

    The output is a list with ``boxes``, ``scores`` and ``labels`` of each sample (torchvision's
    detectors), or holds ``pred_boxes`` (B, N, 4) and ``logits`` (B, N, classes) (DETR, its like).

    Args:
        row: number of the box, from 0.
        box: instead: the box that overlaps these corners best (left, top, right, bottom), in the
            output's own scale.
        c: the class; of logits, whose number is explained (None: the highest of that box), of a
            list, of which class the box must be.
        form: how the output writes boxes: ``"xyxy"``, or ``"cxcywh"`` (middle and size).

    Raises:
        TargetError: neither or both of row and box, or corners that make no box.

    Example:
        >>> str(instance(box=(10, 20, 60, 90), c=2))
        'score of class 2 of the box that overlaps (10, 20, 60, 90) best'
    """
    if (row is None) == (box is None):
        raise TargetError("instance needs either the number of a box, or box=(left, top, ...)")
    if form not in ("xyxy", "cxcywh"):
        raise TargetError(f"form must be 'xyxy' or 'cxcywh', not {form!r}")
    of = None if c is None else whole(c, "the class of an instance")
    if box is None:
        return Instance(whole(row, "the number of a box"), None, of, form)
    corners = tuple(float(v) for v in box)
    if len(corners) != 4 or not (corners[0] < corners[2] and corners[1] < corners[3]):
        raise TargetError(
            f"box must be (left, top, right, bottom) with left < right and top < bottom, not "
            f"{tuple(box)}"
        )
    return Instance(None, corners, of, form)

"""Photographs through a model and several methods: classes, maps, and the record of it all."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fullgrad import methods
from fullgrad._files import printable
from fullgrad.errors import FullGradError, LayoutError, MethodError, ModelError
from fullgrad.evaluation.plan import MethodChoice
from fullgrad.vision.image_result import logits_of, model_record, versions
from fullgrad.vision.images import Photograph, display_image, preprocess
from fullgrad.vision.models import LoadedModel
from fullgrad.viz.compare import NOT_APPLICABLE

KIND = "fullgrad comparison"
FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Cell:
    """One method on one photograph: a map, or why there is none.

    Args:
        method: with its options.
        map: float32 of shape (height, width).
        seconds: that it took.
        reason: why there is no map.
        applies: whether that is a failure, and not the model's kind.
    """

    method: str
    map: np.ndarray[Any, Any] | None
    seconds: float
    reason: str = ""
    applies: bool = True

    @property
    def shown(self) -> np.ndarray[Any, Any] | str:
        """The map, or the words in its place."""
        return self.word if self.map is None else self.map

    @property
    def word(self) -> str:
        """What is said where there is no map."""
        return FAILED if self.applies else NOT_APPLICABLE

    def values(self) -> dict[str, Any]:
        """As JSON can hold them."""
        if self.map is None:
            return {"method": self.method, "applies": self.applies, "reason": self.reason}
        least, most = float(self.map.min()), float(self.map.max())
        return {
            "method": self.method,
            "applies": True,
            "least": least,
            "most": most,
            "seconds": round(self.seconds, 4),
        }


@dataclass(frozen=True, slots=True)
class Row:
    """One photograph with all its maps.

    Args:
        photograph: the file.
        view: what the model saw of it.
        target: the explained class.
        chosen: ``predicted`` or ``given``.
        name: of that class.
        logit: its output.
        probability: its softmax.
        cells: one for each method.
    """

    photograph: Photograph
    view: Any
    target: int
    chosen: str
    name: str
    logit: float
    probability: float
    cells: tuple[Cell, ...]


def compared(
    model: LoadedModel,
    photograph: Photograph,
    choices: Sequence[MethodChoice],
    names: tuple[str, ...] | None,
    target: int | None,
    tick: Callable[[int], None],
) -> Row:
    """One photograph through all methods.

    Args:
        model: the classifier.
        photograph: the file.
        choices: methods with their options.
        names: of the classes, if they are known.
        target: class to explain; None for the predicted one.
        tick: called with the number of maps that are done.

    Raises:
        FullGradError: the model cannot classify the photograph. What goes wrong with one method
            is told in its cell.
    """
    x = preprocess(photograph.image, model.preprocessing)[None].to(model.device)
    logits = logits_of(model, x)[0].double().cpu()
    if not bool(torch.isfinite(logits).all()):
        raise ModelError("the model's output holds NaN or infinite values")
    index = int(logits.argmax()) if target is None else target
    cells = []
    for k, choice in enumerate(choices):
        tick(k)
        cells.append(_cell(model, x, index, choice))
    return Row(
        photograph=photograph,
        view=display_image(photograph.image, model.preprocessing),
        target=index,
        chosen="predicted" if target is None else "given",
        name=names[index] if names else f"class {index}",
        logit=float(logits[index]),
        probability=float(logits.softmax(0)[index]),
        cells=tuple(cells),
    )


def _cell(model: LoadedModel, x: torch.Tensor, target: int, choice: MethodChoice) -> Cell:
    start = time.monotonic()
    try:
        found = methods.attribute(choice.name, model.module, x, target, **choice.options)
    except (MethodError, LayoutError, ModelError) as error:
        reason = said(error).removeprefix(f"{choice.name} does not apply to the model: ")
        return Cell(choice.label, None, 0.0, reason, applies=False)
    except (FullGradError, RuntimeError, MemoryError, ValueError) as error:
        return Cell(choice.label, None, 0.0, said(error))
    seconds = time.monotonic() - start
    return Cell(choice.label, found[0, 0].detach().float().cpu().numpy(), seconds)


def said(error: BaseException) -> str:
    """What went wrong, on one line."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return "out of memory"
    text = str(error) if isinstance(error, FullGradError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def told(row: Row) -> str:
    """One photograph, for people."""
    lines = [
        f"{printable(row.photograph.path)}: {row.name} [{row.target}], "
        f"probability {row.probability:.1%}, logit {row.logit:.4g}"
    ]
    for cell in row.cells:
        if cell.map is None:
            lines.append(f"  {cell.method} {cell.word}: {cell.reason}")
    return "\n".join(lines)


def reasons(rows: Sequence[Row]) -> list[str]:
    """Why methods have no map, one line for each method, with the photographs it is said of."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        for cell in row.cells:
            if cell.map is None:
                said_of = found.setdefault(f"{cell.method} {cell.word}", {})
                said_of.setdefault(cell.reason, []).append(printable(row.photograph.path.name))
    lines = []
    for what, said_of in found.items():
        reason, names = next(iter(said_of.items()))
        others = sum(map(len, said_of.values())) - len(names)
        where = f" ({', '.join(names)}" if len(names) < len(rows) else ""
        more = f"; {others} more in other words or numbers, which the record has" if others else ""
        lines.append(f"{what}: {reason}{where}{more}{')' if where else ''}")
    return lines


def record(
    model: LoadedModel,
    rows: Sequence[Row],
    choices: Sequence[MethodChoice],
    failed: Sequence[tuple[Path, str]],
    command: Sequence[str],
) -> dict[str, Any]:
    """All that is needed to trust and to repeat the sheet, as JSON-ready values."""
    return {
        "kind": KIND,
        "rows": [
            {
                "image": {
                    "path": printable(row.photograph.path),
                    "sha256": row.photograph.sha256,
                    "width": row.photograph.size[0],
                    "height": row.photograph.size[1],
                },
                "target": {
                    "index": row.target,
                    "name": row.name,
                    "chosen": row.chosen,
                    "logit": row.logit,
                    "probability": row.probability,
                },
                "maps": [cell.values() for cell in row.cells],
            }
            for row in rows
        ],
        "failed": [{"image": printable(path), "reason": text} for path, text in failed],
        "methods": [
            {
                "label": c.label,
                "name": c.name,
                "options": {k: str(v) for k, v in c.options.items()},
                "about": methods.get(c.name).about,
                "reference": methods.get(c.name).reference,
            }
            for c in choices
        ],
        "model": model_record(model),
        "versions": versions(),
        "command": shlex.join(map(printable, command)),
    }

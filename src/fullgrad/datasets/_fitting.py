"""Whether what a caller gives fits the model and its samples."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fullgrad.datasets._inputs import Value
from fullgrad.datasets.explaining import classes_of
from fullgrad.errors import UsageError


def check_names(names: Sequence[str] | None, model: nn.Module, inputs: Value) -> None:
    """Refuse another number of class names than of classes.

    Args:
        names: of the classes, if they are known.
        model: on the inputs' device.
        inputs: a batch.
    """
    classes = None if names is None else classes_of(model, inputs)
    if names is not None and classes is not None and len(names) != classes:
        some = f"{', '.join(names[:5])}{', ...' * (len(names) > 5)}"
        raise UsageError(
            f"the model has {classes} classes, and {len(names)} names are given for them ({some}): "
            "give one for each, with class_names=, --labels FILE, or CLASSES in the model's file"
        )


def check_tokens(tokens: int | None, dims: Sequence[Sequence[str]]) -> None:
    """Refuse a number of tokens where no texts are explained.

    Args:
        tokens: that are kept, where it was said.
        dims: names of the axes of each map.
    """
    if tokens is not None and not any("token" in own for own in dims):
        raise UsageError(
            "tokens= (--tokens) is how much of each text is kept, and no texts are explained here: "
            "leave it out"
        )

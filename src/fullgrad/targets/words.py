"""Targets in words, and what several kinds of them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fullgrad.engine.targets import Described, main_tensor, name_of
from fullgrad.errors import TargetError

_SHOWN = 4  # classes of a batch


def words(target: Any, names: Sequence[str] | None = None) -> str:
    """A target in words: ``class 3``, or the class's name.

    Args:
        target: any.
        names: of the classes, if they are known.

    Example:
        >>> words(1, ["cat", "dog"]), words([0, 1]), words((5, 80, 120))
        ('dog', 'classes 0, 1', 'output (5, 80, 120)')
    """
    if target is None:
        return "the predicted class"
    if isinstance(target, Described):
        return target.describe(names)
    if isinstance(target, tuple):
        return f"output {target}"
    if isinstance(target, Sequence):
        shown = ", ".join(_named(k, names) for k in target[:_SHOWN])
        shown += ", …" if len(target) > _SHOWN else ""
        word = "" if names else "classes " if len(target) > 1 else "class "
        return word + shown
    if callable(target):
        return name_of(target)
    return _named(target, names) if names else f"class {target}"


def _named(index: Any, names: Sequence[str] | None) -> str:
    known = names is not None and isinstance(index, int) and 0 <= index < len(names)
    return names[index] if known and names is not None else str(index)


def plain(target: Any) -> Any:
    """Tensors and arrays as lists, which can be compared and shown."""
    if isinstance(target, range):
        return list(target)
    return target.tolist() if hasattr(target, "tolist") else target


def logits_of(output: Any, name: str) -> Tensor:
    """The output of shape (batch, classes) in what a model returned.

    Args:
        output: whatever the model returned.
        name: of the target that needs it.

    Raises:
        TargetError: it has another shape.
    """
    tensor, _ = main_tensor(output)
    if tensor.dim() != 2:
        raise TargetError(
            f"{name} needs an output of shape (batch, classes), not {tuple(tensor.shape)}: pass a "
            "callable from the output to shape (batch,)"
        )
    return tensor


def whole(value: Any, what: str) -> int:
    """A whole number, where an index is meant.

    Raises:
        TargetError: it is not such a text.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TargetError(f"{what} must be a whole number, not {value!r}")
    return int(value)

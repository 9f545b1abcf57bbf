"""Names of classes, and classes by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from fullgrad._files import AnyPath, printable
from fullgrad._optional import require
from fullgrad.errors import ModelLoadError, TargetError

_SUGGESTED = 5


def imagenet_names() -> tuple[str, ...]:
    """The 1000 class names of ImageNet-1k, as torchvision writes them.

    Raises:
        MissingDependencyError: torchvision is not installed.
    """
    models = require("torchvision.models", "vision")
    return tuple(models.ResNet18_Weights.DEFAULT.meta["categories"])


def read_labels(path: AnyPath) -> tuple[str, ...]:
    """Class names from a text file, one a line, the first for class 0.

    Raises:
        ModelLoadError: the file cannot be read, is empty or has empty lines.
    """
    name = printable(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelLoadError(f"the labels file {name} is not UTF-8 text") from error
    except OSError as error:
        raise ModelLoadError(f"the labels file {name} cannot be read: {error.strerror}") from error
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if not lines:
        raise ModelLoadError(f"the labels file {name} is empty")
    if "" in lines:
        raise ModelLoadError(f"line {lines.index('') + 1} of the labels file {name} is empty")
    return tuple(lines)


def class_index(target: str, names: Sequence[str] | None, classes: int) -> int:
    """The class that a user means.

    Args:
        target: an index, or a name in any case.
        names: of the classes, if they are known.
        classes: how many there are.

    Returns:
        The index.

    Raises:
        TargetError: out of range, an unknown name (with those that are close), a name that
            several classes bear, or a name where none are known.
    """
    text = target.strip()
    if text.removeprefix("-").isdecimal():
        if not 0 <= int(text) < classes:
            raise TargetError(f"target {text} is out of range: the classes are 0 to {classes - 1}")
        return int(text)
    if names is None:
        raise TargetError(
            f"the target {text!r} is no index, and this model's class names are not known: give "
            "an index, or the names with --labels FILE"
        )
    lower = [name.lower() for name in names]
    found = [i for i, name in enumerate(lower) if name == text.lower()]
    if len(found) == 1:
        return found[0]
    if found:
        raise TargetError(
            f"several classes are named {text!r}: give one of the indices "
            f"{', '.join(map(str, found))}"
        )
    close = _close(text.lower(), lower)
    hint = f"; did you mean {', '.join(repr(names[i]) for i in close)}?" if close else ""
    raise TargetError(f"no class is named {text!r}{hint}")


def _close(text: str, lower: Sequence[str]) -> list[int]:
    containing = [name for name in lower if text and text in name.replace("-", " ").split()]
    similar = difflib.get_close_matches(text, lower, n=_SUGGESTED, cutoff=0.7)
    names = list(dict.fromkeys([*containing, *similar]))[:_SUGGESTED]
    return [lower.index(name) for name in names]

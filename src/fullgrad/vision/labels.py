"""Names of classes, and classes by name."""

from __future__ import annotations

from pathlib import Path

from fullgrad._files import AnyPath, printable
from fullgrad._optional import require
from fullgrad.errors import ModelLoadError
from fullgrad.targets.names import class_index as class_index  # noqa: PLC0414


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

"""How a result was made: model, versions, command and options."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch

from fullgrad._files import printable
from fullgrad._version import __version__
from fullgrad.vision.models import LoadedModel

if TYPE_CHECKING:
    from fullgrad.vision.schema import ModelInfo, Provenance


PACKAGES = ("torchvision", "timm", "numpy", "pillow", "matplotlib")


def versions() -> dict[str, str | None]:
    """Return the versions of Python, fullgrad and the packages that have a part in the result."""
    found: dict[str, str | None] = {"fullgrad": __version__}
    found["python"] = platform.python_version()
    found["torch"] = torch.__version__  # with its build: "+cu132", which metadata leaves out
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def model_info(model: LoadedModel) -> ModelInfo:
    """Return which model it was, for records."""
    from fullgrad.vision.schema import ModelInfo

    return ModelInfo(
        spec=printable(model.spec),
        weights=model.weights,
        trained=model.trained,
        checkpoint=printable(model.checkpoint) if model.checkpoint else None,
        sha256=model.sha256,
        device=str(model.device),
        preprocessing={k: _plain(v) for k, v in asdict(model.preprocessing).items()},
        assumed=model.assumed,
    )


def provenance(
    model: LoadedModel, command: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> Provenance:
    """Return how results are made: model, versions, command line and its options.

    Args:
        model: that was explained.
        command: words of the command line; empty where there was none.
        options: of the command, defaults filled in.
    """
    from fullgrad.vision.schema import Provenance

    return Provenance(
        model=model_info(model),
        versions=versions(),
        command=shlex.join(map(printable, command)),
        options={k: _plain(v) for k, v in (options or {}).items()},
    )


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    known = isinstance(value, (str, int, float, bool, type(None)))
    return value if known else printable(str(value))

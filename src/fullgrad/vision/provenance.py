"""How a result was made: model, versions, command and options."""

from __future__ import annotations

import hashlib
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from fullgrad._files import printable
from fullgrad._version import __version__
from fullgrad.vision.models import LoadedModel

if TYPE_CHECKING:
    from fullgrad.vision.schema import ModelInfo, Provenance


PACKAGES = ("torchvision", "timm", "numpy", "pillow", "matplotlib")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # of functions that a module shows; never the same


def versions() -> dict[str, str | None]:
    """Return the versions of Python, fullgrad and the packages that have a part in the result."""
    found: dict[str, str | None] = {"fullgrad": __version__}
    found["python"] = platform.python_version()
    found["fullgrad code"] = _code()
    found["torch"] = torch.__version__  # with its build: "+cu132", which metadata leaves out
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


@cache
def _code() -> str:
    """A digest of the library's files, of those too that only show numbers: quick and careful."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def state_digest(model: LoadedModel) -> str:
    """Return a digest of what a model computes: 16 hexadecimal digits.

    It is of modules, parameters, buffers and, where a Python file makes the model, of that file;
    what the file imports is not a part of it. It is the same in every process and on every device.
    """
    modules = _ADDRESS.sub("", repr(model.module))
    digest = hashlib.sha256(f"{modules} {model.source}".encode())
    for name, value in model.module.state_dict().items():
        digest.update(f"{name} ".encode())
        if isinstance(value, Tensor) and not is_lazy(value):
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


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
        state=state_digest(model),
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

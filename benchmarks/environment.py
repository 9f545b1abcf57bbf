"""Where and with what the numbers were measured."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import fullgrad

_PACKAGE = Path(fullgrad.__file__).parent
_NOT_MEASURED = {"app", "cli", "report", "viz"}  # these parts have no influence on any number
_NOTES = {"commit", "date"}  # told, but two environments may differ in them


@dataclass(frozen=True, slots=True)
class Environment:
    """Everything that a number depends on.

    Args:
        device: ``cpu`` or ``cuda``.
        device_name: of the GPU; on the CPU that of the CPU.
        cpu: model of the CPU.
        threads: of PyTorch on the CPU.
        python: version.
        torch: version.
        torchvision: version, empty if it is not installed.
        captum: version, empty if it is not installed.
        grad_cam: version, empty if it is not installed.
        fullgrad: version.
        source: digest of fullgrad's source files, as far as they take part.
        commit: of the checkout, empty outside of one.
        date: of the first measurement.
    """

    device: str
    device_name: str
    cpu: str
    threads: int
    python: str
    torch: str
    torchvision: str
    captum: str
    grad_cam: str
    fullgrad: str
    source: str
    commit: str
    date: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def differences(self, other: dict[str, Any]) -> list[str]:
        """In what a stored environment differs, in words; nothing if they are the same."""
        return [
            f"{name} was {other.get(name, 'unknown')}, is {value}"
            for name, value in asdict(self).items()
            if name not in _NOTES and other.get(name) != value
        ]


def here(device: str) -> Environment:
    """The environment of this process.

    Args:
        device: ``cpu`` or ``cuda``.

    Returns:
        The environment.
    """
    cpu = _cpu()
    return Environment(
        device=device,
        device_name=torch.cuda.get_device_name() if device == "cuda" else cpu,
        cpu=cpu,
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        torchvision=_version("torchvision"),
        captum=_version("captum"),
        grad_cam=_version("grad-cam"),
        fullgrad=fullgrad.__version__,
        source=source_digest(),
        commit=_commit(),
        date=datetime.date.today().isoformat(),
    )


def source_digest(package: Path = _PACKAGE) -> str:
    """Twelve hexadecimal digits that change with the measured code."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        if place.parts[0] not in _NOT_MEASURED:
            digest.update(place.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str:
    try:
        found = subprocess.run(
            ["git", "-C", str(_PACKAGE), "rev-parse", "--short=12", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()

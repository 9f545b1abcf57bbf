"""Files: their digests, their names as text, and writing them whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TypeAlias

AnyPath: TypeAlias = str | PathLike[str]


def sha256_of(path: AnyPath) -> str:
    """Hexadecimal SHA-256 of a file.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def printable(path: AnyPath) -> str:
    """A path as one line of text that can be shown and stored anywhere."""
    text = str(path).encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever sees half of it, killed processes included.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_together(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files under temporary names in the same folder, then rename them all.

    Args:
        folder: must exist.
        contents: from file name to content.

    Returns:
        The files' paths.

    Raises:
        OSError: one could not be written; none of them is there then, half or whole, that was
            not there before.
    """
    temporary = {name: folder / f".{name}.{os.getpid()}.tmp" for name in contents}
    try:
        for name, content in contents.items():
            temporary[name].write_bytes(content)
        for name, path in temporary.items():
            os.replace(path, folder / name)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
    return [folder / name for name in contents]

"""Files: their digests, their names as text, and writing them whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from os import PathLike
from pathlib import Path, PurePath
from typing import TypeAlias

from fullgrad.errors import UsageError

AnyPath: TypeAlias = str | PathLike[str]

_LONGEST = 150  # bytes of a stem: most file systems allow 255 for a name


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


def stored_name(path: PurePath) -> str:
    """A relative path as text that can be stored: other bytes than UTF-8 as escapes."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


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


def write_together(
    folder: Path, contents: Mapping[str, bytes], gone: Collection[str] = ()
) -> list[Path]:
    """Write files under temporary names in the same folder, then rename them all.

    The last one is renamed last, and an old file of its name goes before any other is replaced: a
    killed process leaves it beside the files that it was written with, or not at all.

    Args:
        folder: must exist.
        contents: from file name to content.
        gone: names of files that are removed, as soon as the last one's old file is.

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
        for name in (*list(contents)[-1:], *gone):
            (folder / name).unlink(missing_ok=True)
        for name, path in temporary.items():
            os.replace(path, folder / name)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
    return [folder / name for name in contents]


def may_run(process: int) -> bool:
    """Whether a process of this machine is running; yes where the system cannot be asked.

    Only POSIX systems take signal 0 for a question. On Windows it would end the process.
    """
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def check_folder(folder: Path) -> None:
    """Refuse an output folder that can be seen to be unusable, without making it.

    Raises:
        UsageError: it, or what it should lie in, is a file.
    """
    for path in (folder, *folder.parents):
        if path.is_dir():
            return
        if path.exists() or path.is_symlink():
            raise UsageError(
                f"the output folder {printable(folder)} cannot be made: {printable(path)} is "
                "not a folder"
            )


def make_folder(folder: Path) -> None:
    """Make the output folder, and see that files can be written into it.

    Raises:
        UsageError: they cannot.
    """
    probe = folder / f".fullgrad-{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"cannot write to the output folder {printable(folder)}: {error.strerror}"
        ) from error


def unique_names(names: Sequence[str]) -> list[str]:
    """A name for the output files of each image, no two alike, in any case.

    The first image of a name keeps it (``pets/cat``); the others are numbered (``pets/cat-2``).

    Args:
        names: that are wanted, folders with ``/``.

    Returns:
        A name for each.
    """
    wanted = [_shortened(name) for name in names]
    taken = {name.casefold() for name in wanted}
    used: set[str] = set()
    unique_ones = []
    for name in wanted:
        unique, number = name, 1
        while unique.casefold() in (taken if number > 1 else used):
            number += 1
            unique = f"{name}-{number}"
        used.add(unique.casefold())
        taken.add(unique.casefold())
        unique_ones.append(unique)
    return unique_ones


def _shortened(name: str) -> str:
    folder, slash, stem = name.rpartition("/")
    return folder + slash + (os.fsencode(stem)[:_LONGEST].decode("utf-8", "replace") or "image")

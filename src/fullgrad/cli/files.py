"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fullgrad._files import printable
from fullgrad.cli import UsageError

_LONGEST = 150  # bytes of a stem: most file systems allow 255 for a name


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


def unique_stems(paths: Sequence[Path]) -> list[str]:
    """A stem for the output files of each image, no two alike, in any case.

    The first image of a name keeps it (``cat``); the others are numbered (``cat-2``, ``cat-3``).

    Args:
        paths: of the images.

    Returns:
        A stem for each.
    """
    wanted = [_shortened(path.stem) for path in paths]
    taken = {stem.casefold() for stem in wanted}
    used: set[str] = set()
    stems = []
    for stem in wanted:
        unique, number = stem, 1
        while unique.casefold() in (taken if number > 1 else used):
            number += 1
            unique = f"{stem}-{number}"
        used.add(unique.casefold())
        taken.add(unique.casefold())
        stems.append(unique)
    return stems


def _shortened(stem: str) -> str:
    return os.fsencode(stem)[:_LONGEST].decode("utf-8", "replace") or "image"

"""Image files in folders: which there are, and the classes that folders stand for."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fullgrad._files import AnyPath, printable
from fullgrad.errors import ImageError

SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
OVERLAY_SUFFIX = ".overlay.png"  # pictures that fullgrad made are no photographs


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image file that was found.

    Args:
        path: of the file.
        name: the path below the folder that was given, without the ending and with ``/`` between
            its parts; of a file that was given itself, its stem.
    """

    path: Path
    name: str


def found_images(paths: Iterable[AnyPath]) -> list[FoundImage]:
    """Files as they are given, folders as the image files in them and in their subfolders.

    Args:
        paths: files and folders. In folders, links are followed; hidden files and folders and
            fullgrad's own pictures (``*.overlay.png``) are left out.

    Returns:
        The files, each once, in order: a folder's own in the order of their names, then those of
        its subfolders. Whether they can be read is found out on reading.

    Raises:
        ImageError: an empty path, a folder without image files, or that cannot be listed.
    """
    found: dict[Path, FoundImage] = {}
    given = list(paths)
    if not all(map(os.fspath, given)):
        raise ImageError("the path of an image is empty; '.' is the current folder")
    for path in map(Path, given):
        inside = _images_in(path) if _is_folder(path) else [FoundImage(path, path.stem)]
        for image in inside:
            found.setdefault(image.path.resolve(), image)
    return list(found.values())


def find_images(paths: Iterable[AnyPath]) -> list[Path]:
    """The paths of :func:`found_images`."""
    return [image.path for image in found_images(paths)]


def class_folders(paths: Iterable[AnyPath]) -> tuple[str, ...] | None:
    """The names of the classes, where one path is given and it is a folder of class folders.

    Args:
        paths: as :func:`found_images` takes them.

    Returns:
        The names of the folders that hold images, in alphabetical order, as torchvision's
        ``ImageFolder`` counts classes; None where it is anything else.
    """
    folders = [p for p in map(Path, paths) if _is_folder(p)]
    if len(folders) != 1 or any(map(is_image, folders[0].iterdir())):
        return None
    inside = sorted(p for p in folders[0].iterdir() if p.is_dir() and not p.name.startswith("."))
    return tuple(p.name for p in inside if any(map(is_image, p.iterdir()))) or None


def _images_in(folder: Path) -> list[FoundImage]:
    def fail(error: OSError) -> None:
        name = printable(error.filename or folder)
        raise ImageError(f"{name} cannot be listed: {error.strerror}") from error

    found, seen = [], set()
    for place, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        here = Path(place)
        if here.resolve() in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(here.resolve())
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in map(here.joinpath, sorted(files)):
            if is_image(path):
                found.append(FoundImage(path, path.relative_to(folder).with_suffix("").as_posix()))
    if not found:
        known = ", ".join(s[1:] for s in SUFFIXES)
        raise ImageError(f"the folder {printable(folder)} holds no image files ({known})")
    return found


def exists(path: Path) -> bool:
    """Whether there is such a file; yes where that cannot be told: reading it says why."""
    try:
        return path.exists()
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def is_image(path: Path) -> bool:
    """Whether a file is an image by its ending, not hidden, and no picture of fullgrad's own."""
    hidden, own = path.name.startswith("."), path.name.endswith(OVERLAY_SUFFIX)
    return path.suffix.lower() in SUFFIXES and not (hidden or own) and path.is_file()

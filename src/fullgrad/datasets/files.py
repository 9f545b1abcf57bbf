"""Files of a store: on this machine, or at an fsspec address, each written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from fullgrad import _optional
from fullgrad._files import AnyPath, may_run, printable
from fullgrad._optional import require
from fullgrad.errors import MissingDependencyError
from fullgrad.evaluation.store import StoreError

EXTRA = "datasets"
_SCRATCH = ".tmp"  # beside the files, on the same file system
_ABANDONED = 24 * 3600.0  # seconds, after which another machine's unfinished file is removed


class Files(Protocol):
    """Files by name, with slashes; every error of the place is a :class:`StoreError`."""

    address: str

    def sizes(self) -> dict[str, int]:
        """Every file with its length, in one listing; empty where there is no such place."""

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is no such file."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, in place of what is there."""

    def create(self, name: str, content: bytes) -> bool:
        """Write a file if there is none of this name; whether it was written."""

    def remove(self, name: str) -> None:
        """Remove a file; it may be gone already."""


def files_at(address: AnyPath) -> Files:
    """Return the files of a folder, or of an fsspec address (``s3://bucket/maps``).

    Raises:
        StoreError: the address cannot be used.
        MissingDependencyError: a package that the address needs is not installed.
    """
    text = os.fspath(address)
    kind, found, rest = text.partition("://")
    if not found:
        return Local(Path(text))
    return Local(Path(rest)) if kind in {"file", "local"} else Remote(text)


class Local:
    """A folder of this machine, or of a file system that several machines share.

    Args:
        folder: made when the first file is written.
    """

    def __init__(self, folder: Path) -> None:
        self.address = str(folder)
        self._folder = folder

    def sizes(self) -> dict[str, int]:
        """See :class:`Files`."""
        found: dict[str, int] = {}
        with self._reading(self._folder):
            if self._folder.exists() and not self._folder.is_dir():
                raise StoreError(f"{printable(self._folder)} is not a folder")
            for place, folders, names in os.walk(self._folder):
                folders[:] = [f for f in folders if f != _SCRATCH]
                for name in names:
                    path = Path(place, name)
                    with contextlib.suppress(FileNotFoundError):
                        found[path.relative_to(self._folder).as_posix()] = path.stat().st_size
        return found

    def read(self, name: str) -> bytes | None:
        """See :class:`Files`."""
        path = self._folder / name
        with self._reading(path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """See :class:`Files`."""
        with self._scratch(name, content) as (scratch, path):
            scratch.replace(path)

    def create(self, name: str, content: bytes) -> bool:
        """See :class:`Files`; a hard link fails where the name is taken."""
        with self._scratch(name, content) as (scratch, path):
            try:
                os.link(scratch, path)
            except FileExistsError:
                return False
        return True

    def remove(self, name: str) -> None:
        """See :class:`Files`."""
        path = self._folder / name
        with self._writing():
            path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what killed processes left unfinished."""
        here, now = socket.gethostname(), time.time()
        for path in (self._folder / _SCRATCH).glob("*.tmp"):
            host, _, process = path.stem.rpartition("-")[0].rpartition("-")
            with contextlib.suppress(OSError):
                old = now - path.stat().st_mtime > _ABANDONED
                if old or (host == here and not may_run(int(process))):
                    path.unlink(missing_ok=True)

    @contextmanager
    def _scratch(self, name: str, content: bytes) -> Iterator[tuple[Path, Path]]:
        """A finished file under another name, and the path that it is meant for."""
        path = self._folder / name
        unique = f"{socket.gethostname()}-{os.getpid()}-{time.monotonic_ns():x}.tmp"
        scratch = self._folder / _SCRATCH / unique
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch.parent.mkdir(exist_ok=True)
            try:
                with scratch.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                yield scratch, path
            finally:
                scratch.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"cannot write to {printable(self._folder)}: {error.strerror or error}"
            ) from error

    @contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"{printable(path)} cannot be read: {error.strerror}") from error


class Remote:
    """Files at an fsspec address.

    Args:
        address: with its protocol, as ``s3://bucket/maps``.

    Raises:
        StoreError: fsspec does not know the protocol, or cannot reach the place.
        MissingDependencyError: fsspec, or the protocol's package, is not installed.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        core: Any = require("fsspec.core", EXTRA)
        protocol = address.partition("://")[0]
        try:
            self._fs, self._root = core.url_to_fs(address)
        except ImportError as error:
            extra = f" ({_optional.install_command('s3')})" if protocol == "s3" else ""
            raise MissingDependencyError(f"{printable(address)}: {error}{extra}") from error
        except ValueError as error:
            raise StoreError(f"{printable(address)} cannot be used: {error}") from error
        self._root = self._root.rstrip("/")

    def sizes(self) -> dict[str, int]:
        """See :class:`Files`."""
        start = f"{self._root}/"
        with self._at():
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(self._root, detail=True)
            except FileNotFoundError:
                return {}
        return {name.removeprefix(start): int(info["size"]) for name, info in found.items()}

    def read(self, name: str) -> bytes | None:
        """See :class:`Files`."""
        with self._at():
            try:
                content: bytes = self._fs.cat_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """See :class:`Files`."""
        with self._at():
            self._fs.pipe_file(f"{self._root}/{name}", content)

    def create(self, name: str, content: bytes) -> bool:
        """See :class:`Files`; a conditional put."""
        with self._at():
            try:
                self._fs.pipe_file(f"{self._root}/{name}", content, mode="create")
            except FileExistsError:
                return False
        return True

    def remove(self, name: str) -> None:
        """See :class:`Files`."""
        with self._at(), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{name}")

    def sweep(self) -> None:
        """Do nothing: a put that is not finished leaves nothing."""

    @contextmanager
    def _at(self) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # each protocol has its own errors
            text = f"{type(error).__name__}: {error}"
            raise StoreError(f"{printable(self.address)} cannot be used: {text}") from error

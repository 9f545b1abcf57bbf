"""Pieces of work in a folder: one file for each, named by the digest of all it depends on."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fullgrad._files import may_run, printable, write_whole
from fullgrad.errors import FullGradError

Array: TypeAlias = np.ndarray[Any, Any]

RECORD, TABLE, STAGES = "record.json", "results", "stages"  # of a results folder
OLD_PLAN = "plan.json"  # in results folders of older versions
MARKER, FORMAT = "store.json", 2
_OLD_MARKER = "roar-store.json"
_MAGIC = b"fullgrad stage 2\n"


class StoreError(FullGradError):
    """A results folder cannot be used."""


class DamagedError(Exception):
    """A stage's file is not what was written."""


class OtherError(DamagedError):
    """A whole file holds something else."""


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """Holds what a stage found.

    Args:
        values: JSON-ready.
        arrays: by name.
    """

    values: Mapping[str, Any]
    arrays: Mapping[str, Array] = field(default_factory=dict)


class Store:
    """Keeps stages that are done.

    A stage's file is written under another name and renamed when it is complete, and begins with
    the SHA-256 of what follows. A damaged file counts as not there, which is reported to ``say``.

    Args:
        folder: made when the first stage is written.
        say: called with one line for each damaged file.

    Raises:
        StoreError: the folder holds something else, or cannot be read.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = print) -> None:
        self.folder = folder
        self._say = say
        self._ready = False
        self._told: set[Path] = set()
        try:
            present = [p.name for p in folder.iterdir()] if folder.is_dir() else []
            if folder.exists() and not folder.is_dir():
                raise StoreError(f"{printable(folder)} is not a folder")
            text = (folder / MARKER).read_text(encoding="utf-8") if MARKER in present else None
        except OSError as error:
            raise StoreError(f"{printable(folder)} cannot be read: {error.strerror}") from error
        if text is not None:
            self._check_format(text)
        elif _OLD_MARKER in present:
            raise StoreError(
                f"{printable(folder)} holds stages of an older version of fullgrad; give another "
                "folder"
            )
        elif any(not name.endswith(".tmp") for name in present):
            raise StoreError(
                f"{printable(folder)} holds other files and no stages; give an empty folder"
            )

    def _check_format(self, text: str) -> None:
        try:
            known = json.loads(text)["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{printable(self.folder / MARKER)} is damaged") from error
        if known != FORMAT:
            raise StoreError(
                f"{printable(self.folder)} holds stages in format {known}, this is {FORMAT}; give "
                "another folder"
            )

    def path(self, digest: str) -> Path:
        """Return the path of a stage's file."""
        return self.folder / f"{digest}.stage"

    def has(self, digest: str) -> bool:
        """Tell whether the stage is done and whole."""
        return self.get(digest) is not None

    def get(self, digest: str) -> Content | None:
        """Return what the stage found; None where it is not done or its file is damaged."""
        try:
            return self._read(self.path(digest), digest)
        except DamagedError as error:
            self._tell(self.path(digest), "to be done again", error)
            return None

    def done(self, digest: str) -> Content:
        """Return what a stage found that is known to be done.

        Raises:
            StoreError: it is not there, or damaged meanwhile.
        """
        found = self.get(digest)
        if found is None:
            raise StoreError(f"{printable(self.path(digest))} is gone; start the run again")
        return found

    def put(self, digest: str, content: Content) -> None:
        """Keep what a stage found, whole or not at all, and drop what was kept of its beginning.

        Raises:
            StoreError: it cannot be written.
        """
        self.prepare()
        self._write(self.path(digest), packed(content, digest))
        self._told.discard(self.path(digest))
        self._partial(digest).unlink(missing_ok=True)

    def put_together(self, contents: Mapping[str, Content]) -> None:
        """Keep what several stages found, all or none of it.

        It is first written as one file; :meth:`mend` resumes from there after a kill.

        Args:
            contents: by the stages' digests.

        Raises:
            StoreError: it cannot be written.
        """
        if len(contents) == 1:
            ((digest, content),) = contents.items()
            self.put(digest, content)
            return
        self.prepare()
        first = next(iter(contents))
        arrays = {f"{d}/{n}": a for d, c in contents.items() for n, a in c.arrays.items()}
        values = {d: dict(c.values) for d, c in contents.items()}
        self._write(self._group(first), packed(Content(values, arrays), first))
        self._part(first, contents)

    def _part(self, first: str, contents: Mapping[str, Content]) -> None:
        for digest, content in contents.items():
            self.put(digest, content)
        self._group(first).unlink(missing_ok=True)

    def _group(self, first: str) -> Path:
        return self.folder / f"{first}.group"

    def mend(self) -> None:
        """Put right what a killed process left between two files.

        Stages that were found together are completed; files half-written, and beginnings of stages
        that are done, are removed.

        Raises:
            StoreError: a file cannot be written.
        """
        sweep(self.folder)
        for path in sorted(self.folder.glob("*.group")):
            try:
                found = self._read(path, path.stem)
            except DamagedError as error:
                self._tell(path, "its stages are done again", error)
                path.unlink(missing_ok=True)
                continue
            if found is not None:
                self._part(path.stem, {d: _member(found, d) for d in found.values})
        for path in self.folder.glob("*.partial"):
            if self.has(path.stem):
                path.unlink(missing_ok=True)

    def _partial(self, digest: str) -> Path:
        return self.folder / f"{digest}.partial"

    def get_partial(self, digest: str, key: str) -> Content | None:
        """Return what was kept of a stage in its middle.

        Args:
            digest: of the stage.
            key: of what was in progress; what is there of others does not count.
        """
        try:
            return self._read(self._partial(digest), key)
        except OtherError:
            return None
        except DamagedError as error:
            self._tell(self._partial(digest), "its stage is begun again", error)
            return None

    def put_partial(self, digest: str, key: str, content: Content) -> None:
        """Keep a stage in its middle, until it is done.

        Raises:
            StoreError: it cannot be written.
        """
        self.prepare()
        self._write(self._partial(digest), packed(content, key))

    def _read(self, path: Path, key: str) -> Content | None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{printable(path)} cannot be read: {error.strerror}") from error
        return unpacked(content, key)

    def _tell(self, path: Path, then: str, error: DamagedError) -> None:
        if path not in self._told:
            self._told.add(path)
            self._say(f"damaged, {then}: {printable(path)} ({error})")

    def prepare(self) -> None:
        """Make the folder, and see that it can be written to.

        Raises:
            StoreError: it cannot.
        """
        if not self._ready:
            make_folder(self.folder)
            self._write(self.folder / MARKER, json.dumps({"format": FORMAT}).encode())
            self._ready = True

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write_whole(path, content)
        except OSError as error:
            raise unwritable(self.folder, error) from error


def unwritable(folder: Path, error: OSError) -> StoreError:
    """Return the error that says that a folder cannot be written to."""
    return StoreError(f"cannot write to {printable(folder)}: {error.strerror}")


def make_folder(folder: Path) -> None:
    """Make a folder, with those that it lies in.

    Raises:
        StoreError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def _member(together: Content, digest: str) -> Content:
    """Return one stage of those that were packed as one."""
    start = f"{digest}/"
    arrays = {n.removeprefix(start): a for n, a in together.arrays.items() if n.startswith(start)}
    return Content(together.values[digest], arrays)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder."""
    for path in folder.glob(".*.tmp"):
        owner = path.name.rsplit(".", 2)[-2]
        own = owner == str(os.getpid())
        if own or not (owner.isdecimal() and may_run(int(owner))):
            path.unlink(missing_ok=True)


def packed(content: Content, digest: str) -> bytes:
    """Return a stage as bytes: a first line, a checksum, a line of JSON, the arrays as ``.npz``."""
    with io.BytesIO() as file:
        np.savez(file, **dict(content.arrays))  # type: ignore[arg-type]
        head = json.dumps({"digest": digest, "values": dict(content.values)})
        body = head.encode() + b"\n" + file.getvalue()
    return _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def unpacked(content: bytes, digest: str) -> Content:
    """Return the stage that :func:`packed` made bytes of.

    Raises:
        DamagedError: the bytes are not those that were written.
        OtherError: they are another stage's.
    """
    if not content.startswith(_MAGIC):
        raise DamagedError("it does not begin as a stage's file")
    checksum, _, body = content[len(_MAGIC) :].partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != checksum:
        raise DamagedError("its checksum is wrong")
    line, _, arrays = body.partition(b"\n")
    head = json.loads(line)
    if head["digest"] != digest:
        raise OtherError(f"it is of another stage, {head['digest']}")
    with io.BytesIO(arrays) as file, np.load(file, allow_pickle=False) as found:
        return Content(head["values"], {name: found[name] for name in found.files})

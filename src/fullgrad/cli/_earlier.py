"""What the output folder of ``fullgrad explain`` holds already, and whether it still counts."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fullgrad._files import printable, sha256_of
from fullgrad.vision.images import FoundImage

if TYPE_CHECKING:
    from fullgrad.vision.schema import ImageRecord, Provenance

AnyKind = TypeVar("AnyKind")

FOLDER = "working folder"  # of relative paths, as a digest: records are shared, folders are not

# Options that change no number of a record, or that are a part of what it says of the model.
_APART = {
    *("images", "out", "batch_size", "quiet", "json", "overlay", "replace", "check"),
    *("model", "weights", "device", FOLDER),
}
_BEGINNING = re.compile(rb'\s*\{\s*"kind":\s*"([^"]*)"')  # of a record, however it goes on
_BLANK = b"\0 \r\n\t"  # what a machine that lost its power leaves of a file
_TOLD = 3  # of what differs, the shortest
_PACKAGES = ("fullgrad", "fullgrad code", "torch", "torchvision", "timm", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class Earlier:
    """The results of earlier runs for the photographs of this one.

    Args:
        complete: those with the same settings whose files are all there, by output name.
        changed: output names of those with other settings.
        difference: what differs, in words; of the first of them.
        others: files of something else that have the names of records.
        taken: output names of those whose records are of other photographs, and one of these.
    """

    complete: Mapping[str, ImageRecord]
    changed: Sequence[str]
    difference: str
    others: Sequence[Path] = ()
    taken: Mapping[str, str] = field(default_factory=dict)


def earlier(
    images: Mapping[str, FoundImage], folder: Path, suffixes: Collection[str], now: Provenance
) -> Earlier:
    """Look through an output folder.

    A photograph whose file has changed, and a result with a damaged record or a file that is not
    there, count as not explained yet. The record of a file in another place is another's, and so
    is one of which it is not known from which folder its relative path leads.

    Args:
        images: by output name.
        folder: of the results.
        suffixes: of the files that belong to a result, beside its record.
        now: how this run makes its results.
    """
    from fullgrad.vision.schema import ImageRecord

    complete: dict[str, ImageRecord] = {}
    changed, difference, others, taken = [], "", [], {}
    wanted = settings(now)
    for name, image in images.items():
        path = folder / f"{name}.json"
        try:
            record = record_in(path, ImageRecord)
            if record is None:
                continue
            if record.image.sha256 != sha256_of(image.path):
                if not _in_place(record, image.path):
                    taken[name] = record.image.path
                continue
        except ValueError:
            others.append(path)
            continue
        except OSError:  # of the photograph
            continue
        if found := _difference(settings(record), wanted):
            changed.append(name)
            difference = difference or found
        elif all((folder / f"{name}{suffix}").is_file() for suffix in suffixes):
            complete[name] = record
    return Earlier(complete, changed, difference, others, taken)


def folder_digest(folder: Path) -> str:
    """A digest of a folder's absolute path."""
    return hashlib.sha256(os.fsencode(os.path.abspath(folder))).hexdigest()[:16]


def _in_place(record: ImageRecord, path: Path) -> bool:
    """Whether a record is of the file that a path leads to today, whatever the file held then."""
    theirs, now = Path(record.image.path), os.path.abspath(path)
    made = record.options.get(FOLDER)
    folders = (Path.cwd(), *Path(now).parents)
    starts = (
        folders[:1] if theirs.is_absolute() else [f for f in folders if folder_digest(f) == made]
    )
    return any(printable(os.path.abspath(f / theirs)) == printable(now) for f in starts)


def settings(made: Provenance) -> dict[str, str]:
    """Return what a record's numbers depend on beside the photograph: names, and values as text."""
    model = made.model.model_dump(exclude={"checkpoint"})
    values = {k: v for k, v in made.options.items() if k not in _APART}
    values |= {f"model {k}": v for k, v in model.items()}
    values |= {f"version of {k}": made.versions.get(k) for k in _PACKAGES}
    return {k: json.dumps(v) for k, v in values.items()}


def record_in(path: Path, kind: type[AnyKind]) -> AnyKind | None:
    """The record of a kind in a file, None where there is no file or it is damaged.

    Raises:
        ValueError: the file holds something else.
    """
    from fullgrad.vision.schema import KINDS, RecordError, read_record

    try:
        content = path.read_bytes()
    except OSError:
        return None
    try:
        record = read_record(content, str(path))
    except RecordError:
        record = None
        if KINDS.get(_stated(content)) is kind or not content.strip(_BLANK):
            return None
    if not isinstance(record, kind):
        raise ValueError(f"{path} is another file")  # noqa: TRY004
    return record


def _stated(content: bytes) -> str:
    """The kind that JSON says it is of, cut off or damaged JSON too; empty where there is none."""
    try:
        found = json.loads(content)
    except ValueError:
        begins = _BEGINNING.match(content)
        return begins[1].decode("ascii", "replace") if begins else ""
    return str(found.get("kind")) if isinstance(found, dict) else ""


def _difference(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    names = [k for k in now.keys() | then.keys() if then.get(k) != now.get(k)]
    pairs = {k: (then.get(k, "not stored"), now.get(k, "not known")) for k in names}
    names.sort(key=lambda k: (k.startswith("model "), sum(map(len, pairs[k])), k))
    told = ", ".join(f"{k} {pairs[k][0]}, now {pairs[k][1]}" for k in names[:_TOLD])
    return f"{told}, and {len(names) - _TOLD} more" if len(names) > _TOLD else told

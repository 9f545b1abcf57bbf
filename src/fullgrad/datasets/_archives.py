"""WebDataset shards: ``.tar`` files in which a sample's files share a name. Each is a unit."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path, PurePosixPath
from typing import Any

from fullgrad._files import printable, stored_name
from fullgrad.datasets.samples import Sample, Samples
from fullgrad.evaluation.sources import DataError
from fullgrad.vision.images import SUFFIXES, image_of_bytes

_CLASS = ".cls"


@dataclass(frozen=True, slots=True)
class _Member:
    """Tells where a file lies within an archive."""

    suffix: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class _Archived:
    """Tells where a sample lies."""

    archive: str
    image: _Member
    label: _Member | None


def open_archives(spec: str) -> Samples:
    """Find the samples of archives; their headers alone are read.

    Args:
        spec: a ``.tar`` file, or ``webdataset:PATTERN`` with ``*`` and ``?``. Within an archive,
            files whose names are alike up to the first dot are a sample: an image, and perhaps
            ``.cls`` with the number of its class.

    Raises:
        DataError: no archive, one that cannot be read, or one without images.
    """
    pattern = spec.removeprefix("webdataset:")
    paths = sorted(glob(pattern)) if glob(pattern) else [pattern]
    found, ids, sizes, facts = [], [], [], []
    for path in paths:
        own = _samples(Path(path))
        start = f"{Path(path).name}/" if len(paths) > 1 else ""
        found += [sample for _, sample in own]
        ids += [f"{start}{key}" for key, _ in own]
        sizes.append(len(own))
        facts.append(Path(path).stat().st_size)
    return Samples(spec, ids, _Reader(found), tuple(sizes), facts)


def _samples(path: Path) -> list[tuple[str, _Archived]]:
    """The samples of one archive, in its order."""
    groups: dict[str, dict[str, _Member]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                if not info.isfile():
                    continue
                name = PurePosixPath(info.name)
                stem, dot, suffix = name.name.partition(".")
                key = stored_name(name.parent / stem)
                member = _Member(dot + suffix.lower(), info.offset_data, info.size)
                groups.setdefault(key, {})[member.suffix] = member
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"the archive {printable(path)} cannot be read: {error}") from error
    found = []
    for key, files in groups.items():
        image = next((m for suffix, m in files.items() if suffix in SUFFIXES), None)
        if image is not None:
            found.append((key, _Archived(str(path), image, files.get(_CLASS))))
    if not found:
        raise DataError(f"the archive {printable(path)} holds no images")
    return found


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads samples from where they lie; picklable."""

    samples: Sequence[_Archived]

    def __call__(self, number: int) -> Sample:
        sample = self.samples[number]
        with Path(sample.archive).open("rb") as file:
            content = _cut(file, sample.image)
            label = None if sample.label is None else _cut(file, sample.label).decode().strip()
        image = image_of_bytes(content, f"sample {number} of {sample.archive}")
        return image, int(label) if label and label.isdecimal() else None


def _cut(file: Any, member: _Member) -> bytes:
    file.seek(member.start)
    return bytes(file.read(member.length))

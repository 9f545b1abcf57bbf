"""What the output folder of ``fullgrad explain`` holds already, and whether it still counts."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fullgrad._files import sha256_of
from fullgrad.vision.images import FoundImage

if TYPE_CHECKING:
    from fullgrad.vision.schema import ImageRecord, Provenance

# Options that change no number of a record, or that are a part of what it says of the model.
_APART = {
    *("images", "out", "batch_size", "quiet", "json", "overlay", "replace", "check"),
    *("model", "weights", "device"),
}
_TOLD = 3  # of what differs, the shortest
_PACKAGES = ("fullgrad", "fullgrad code", "torch", "torchvision", "timm", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class Earlier:
    """The results of earlier runs for the photographs of this one.

    Args:
        complete: those with the same settings whose files are all there, by output name.
        changed: output names of those with other settings.
        difference: what differs, in words; of the first of them.
    """

    complete: Mapping[str, ImageRecord]
    changed: Sequence[str]
    difference: str


def earlier(
    images: Mapping[str, FoundImage], folder: Path, suffixes: Collection[str], now: Provenance
) -> Earlier:
    """Look through an output folder.

    A photograph whose file has changed, and a result with a damaged record or a file that is not
    there, count as not explained yet.

    Args:
        images: by output name.
        folder: of the results.
        suffixes: of the files that belong to a result, beside its record.
        now: how this run makes its results.
    """
    complete: dict[str, ImageRecord] = {}
    changed, difference = [], ""
    wanted = settings(now)
    for name, image in images.items():
        record = _record(folder / f"{name}.json", image.path)
        if record is None:
            continue
        if found := _difference(settings(record), wanted):
            changed.append(name)
            difference = difference or found
        elif all((folder / f"{name}{suffix}").is_file() for suffix in suffixes):
            complete[name] = record
    return Earlier(complete, changed, difference)


def settings(made: Provenance) -> dict[str, str]:
    """Return what a record's numbers depend on beside the photograph: names, and values as text."""
    model = made.model.model_dump(exclude={"checkpoint"})
    values = {k: v for k, v in made.options.items() if k not in _APART}
    values |= {f"model {k}": v for k, v in model.items()}
    values |= {f"version of {k}": made.versions.get(k) for k in _PACKAGES}
    return {k: json.dumps(v) for k, v in values.items()}


def _record(path: Path, image: Path) -> ImageRecord | None:
    """The record in a file, if it is one of an image as it is now."""
    from fullgrad.vision.schema import ImageRecord, RecordError, read_record

    try:
        record = read_record(path.read_bytes(), str(path))
        same = isinstance(record, ImageRecord) and record.image.sha256 == sha256_of(image)
    except (OSError, RecordError):
        return None
    return record if isinstance(record, ImageRecord) and same else None


def _difference(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    names = [k for k in now.keys() | then.keys() if then.get(k) != now.get(k)]
    pairs = {k: (then.get(k, "not stored"), now.get(k, "not known")) for k in names}
    names.sort(key=lambda k: (k.startswith("model "), sum(map(len, pairs[k])), k))
    told = ", ".join(f"{k} {pairs[k][0]}, now {pairs[k][1]}" for k in names[:_TOLD])
    return f"{told}, and {len(names) - _TOLD} more" if len(names) > _TOLD else told

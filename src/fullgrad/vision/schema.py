"""The records that commands write and reports read: one typed, versioned class for each.

A record is one JSON object with ``kind`` and ``schema_version``. A key that is missing, unknown or
of the wrong type is refused; numbers are finite.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from fullgrad._optional import require
from fullgrad.errors import FullGradError
from fullgrad.vision._record import VERSION, Model, Record
from fullgrad.vision._record import ModelInfo as ModelInfo  # noqa: PLC0414
from fullgrad.vision._record import Provenance as Provenance  # noqa: PLC0414
from fullgrad.vision.check_schema import CheckRecord

require("pydantic", "cli")
from pydantic import (  # noqa: E402
    JsonValue,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is not known",
    "string_type": "is not a text",
    "float_type": "is not a number",
    "int_type": "is not a whole number",
    "finite_number": "is not a finite number",
    "bool_type": "is not true or false",
    "tuple_type": "is not a list",
    "dict_type": "is not a JSON object",
    "model_type": "is not a JSON object",
    "model_attributes_type": "is not a JSON object",
}


class RecordError(FullGradError):
    """A file is not a record that this version of fullgrad can read."""


class ImageInfo(Model):
    """An image file; width and height are those of the file, before it is turned upright."""

    path: str
    sha256: str
    width: int
    height: int
    mode: str
    frames: int
    frame_used: int = 0


class RatherThanInfo(Model):
    """The class that the explained one is compared with: what is explained is then the margin."""

    index: int
    name: str | None
    logit: float
    margin: float


class TargetInfo(Model):
    """The explained class, or what else is explained, in words: then there is no class.

    ``rather_than`` and ``described`` are left out where they are None.
    """

    index: int | None
    name: str | None
    chosen: Literal["predicted", "given"]
    logit: float
    probability: float | None
    rather_than: RatherThanInfo | None = None
    described: str | None = None

    @model_validator(mode="after")
    def _check(self) -> TargetInfo:
        if (self.index is None) != (self.described is not None):
            raise ValueError("a target is a class, or it is described")
        return self

    @model_serializer(mode="wrap")
    def _short(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        may_lack = ("rather_than", "described")
        return {k: v for k, v in whole(self).items() if k not in may_lack or v is not None}

    @property
    def likely(self) -> str:
        """The class's probability for people; empty where there is none."""
        return "" if self.probability is None else f"{self.probability:.1%}"

    @property
    def explained(self) -> float:
        """The number that is explained: the logit, or the margin."""
        return self.logit if self.rather_than is None else self.rather_than.margin


class ClassInfo(Model):
    """One of the most probable classes."""

    index: int
    name: str | None
    probability: float


class ShareInfo(Model):
    """The part of the logit that comes from the input or from a stage."""

    of: str
    sum: float
    share: float | None


class SplitInfo(Model):
    """The exact decomposition of a logit; the residual is the logit minus all shares.

    ``linearization`` says which linear maps stood for the operations; older records leave it out.
    """

    residual: float
    relative_residual: float
    tolerance: float
    shares: tuple[ShareInfo, ...]
    linearization: str | None = None


class AreasInfo(Model):
    """A complete map in cells: what raises the explained number, lowers it, or has no place."""

    positive: float
    negative: float
    elsewhere: float
    cell: int


class SaliencyInfo(Model):
    """A map: how it was made, its size and its extreme numbers; of a complete map its areas.

    ``chosen`` says whether the method was asked for, ``reason`` why it is the default; older
    records leave both out.
    """

    method: str
    options: dict[str, JsonValue]
    height: int
    width: int
    least: float
    most: float
    areas: AreasInfo | None = None
    chosen: Literal["default", "given"] | None = None
    reason: str | None = None


class ImageRecord(Record):
    """One explained image, as ``fullgrad explain`` writes it (``NAME.json``).

    ``decomposition`` is None where the model cannot be decomposed; ``notes`` says why.
    """

    kind: Literal["fullgrad explanation"] = "fullgrad explanation"
    image: ImageInfo
    target: TargetInfo
    top: tuple[ClassInfo, ...]
    decomposition: SplitInfo | None
    saliency: SaliencyInfo
    notes: tuple[str, ...] = ()


class CellInfo(Model):
    """One method on one image: the extreme numbers of its map, or the reason why there is none.

    Without a map, ``applies`` says whether the method failed (true) or does not suit the model.
    """

    method: str
    applies: bool
    reason: str | None = None
    least: float | None = None
    most: float | None = None
    seconds: float | None = None

    @model_validator(mode="after")
    def _check(self) -> CellInfo:
        numbers = [v is not None for v in (self.least, self.most, self.seconds)]
        if numbers != [self.reason is None] * 3:
            raise ValueError("a map has its extreme numbers and seconds, or there is a reason")
        return self


class RowInfo(Model):
    """One image of a comparison, with a cell for each method."""

    image: ImageInfo
    target: TargetInfo
    maps: tuple[CellInfo, ...]


class FailureInfo(Model):
    """An image that is not in a comparison."""

    image: str
    reason: str


class MethodInfo(Model):
    """A method of a comparison; ``reason`` says why it is the recommended one among the default."""

    label: str
    name: str
    options: dict[str, str]
    about: str
    reference: str
    reason: str | None = None


class SheetInfo(Model):
    """The picture of a comparison, a file beside the record."""

    file: str
    sha256: str


class ComparisonRecord(Record):
    """Several methods on several images, as ``fullgrad compare`` writes it.

    ``chosen`` says whether the methods were asked for; older records leave it out.
    """

    kind: Literal["fullgrad comparison"] = "fullgrad comparison"
    rows: tuple[RowInfo, ...]
    failed: tuple[FailureInfo, ...]
    methods: tuple[MethodInfo, ...]
    scale: str
    rule: str
    sheet: SheetInfo
    chosen: Literal["default", "given"] | None = None


AnyRecord: TypeAlias = ImageRecord | ComparisonRecord | CheckRecord
KINDS: dict[str, type[AnyRecord]] = {
    "fullgrad explanation": ImageRecord,
    "fullgrad comparison": ComparisonRecord,
    "fullgrad check": CheckRecord,
}
_IMAGE_KEYS = {"image", "target", "decomposition", "saliency"}  # of records without a kind


def read_record(content: bytes, name: str) -> AnyRecord | None:
    """Read a record of any kind and of any version so far.

    Args:
        content: of the file.
        name: of the file, for messages.

    Returns:
        The record; None for a JSON object that is not a record.

    Raises:
        RecordError: no JSON object, a damaged record, or one of a later version.

    Example:
        >>> read_record(b'{"width": 3}', "other.json") is None
        True
    """
    try:
        found = TypeAdapter(dict[str, JsonValue]).validate_json(content)
    except ValidationError as error:
        text = error.errors()[0]
        if text["type"] == "dict_type":
            raise RecordError(f"{name} is not a JSON object") from error
        raise RecordError(f"{name} is not JSON: {text['msg']}") from error
    values = _upgraded(found)
    kind = KINDS.get(str(values.get("kind")))
    if kind is None:
        return None
    version = values.get("schema_version")
    if version != VERSION:
        raise RecordError(
            f"{name} has the schema version {version!r:.50}, and this fullgrad reads version "
            f"{VERSION}: make it again with the installed version, or install a newer fullgrad"
        )
    try:
        return kind.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise RecordError(f"{name}: {_described(error)}") from error


def _upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a record that was written before records had a version."""
    if "schema_version" in values:
        return dict(values)
    if values.keys() >= _IMAGE_KEYS:
        return {"kind": "fullgrad explanation", "schema_version": VERSION, **values}
    if values.get("kind") == "fullgrad comparison":
        return {"schema_version": VERSION, "options": {}, **values, "rows": _rows(values)}
    return dict(values)


def _rows(values: Mapping[str, Any]) -> Any:
    """Rows whose images have the mode and number of frames, which old comparisons left out."""
    rows = values.get("rows")
    if not isinstance(rows, list):
        return rows
    more = {"mode": "", "frames": 1}
    return [
        {**row, "image": {**more, **row["image"]}}
        if isinstance(row, dict) and isinstance(row.get("image"), dict)
        else row
        for row in rows
    ]


def _described(error: ValidationError) -> str:
    """The first thing that is wrong with a record: ``'target': 'logit' is not a number``."""
    first = error.errors(include_url=False)[0]
    place = ""
    for part in first["loc"]:
        place += f"[{part}]" if isinstance(part, int) else f"{': ' * bool(place)}{part!r}"
    return f"{place} {_WORDS.get(first['type'], first['msg'])}"

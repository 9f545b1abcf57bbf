"""What every record has: one frozen, strict class, and how the result was made."""

from __future__ import annotations

import json
from typing import Literal

from fullgrad._optional import require

require("pydantic", "cli")
from pydantic import BaseModel, ConfigDict, JsonValue  # noqa: E402

VERSION = 1


class Model(BaseModel):
    """The base of every part of a record: frozen, strict, without unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class ModelInfo(Model):
    """The model that was explained.

    ``checkpoint`` is the file of its weights, ``sha256`` that file's digest; ``assumed`` what
    nobody stated of it and was taken. ``state`` is a digest of what the model computes; older
    records leave it out.
    """

    spec: str
    weights: str
    trained: bool
    checkpoint: str | None
    sha256: str | None
    device: str
    preprocessing: dict[str, JsonValue]
    state: str | None = None
    assumed: tuple[str, ...] = ()


class Provenance(Model):
    """How a result was made: model, versions of packages, command line and its options."""

    model: ModelInfo
    versions: dict[str, str | None]
    command: str
    options: dict[str, JsonValue]


class Record(Provenance):
    """What all records have: what they are, the version of their form, and their provenance."""

    kind: str
    schema_version: Literal[1] = 1

    def text(self, indent: int | None = 2) -> str:
        """The content of the record's file; without an indent, one line."""
        values = {"kind": self.kind, "schema_version": VERSION, **self.model_dump(mode="json")}
        return json.dumps(values, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"

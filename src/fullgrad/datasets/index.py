"""The index of a store: one row for each map, one Parquet file for each unit."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fullgrad._optional import require
from fullgrad.datasets.files import EXTRA
from fullgrad.datasets.plan import FORMAT, TEXT, Plan
from fullgrad.evaluation.store import StoreError

KEY = b"fullgrad"  # of the metadata in each file
_STORED = ("scale", "zero", "shape")  # of a map
SHARE = "share."  # what the names of shares' columns begin with
WHERE_AND_WHEN = ("host", "time", "seconds", "attempt")  # in which equal runs differ
NUMBERS = (
    *("probability", "logit", "residual", "positive", "negative", "elsewhere"),
    f"{SHARE}input",
)


@dataclass(frozen=True, slots=True)
class Row:
    """Describes one map.

    Args:
        row: number of the map.
        id: of the sample.
        rank: which of the sample's targets.
        label: true class, where it is known.
        target: the explained class, where the target is one.
        prediction: class with the highest output, where the model is a classifier.
        numbers: of ``NUMBERS`` and of the stages' shares, those that there are.
        scale: of the stored numbers; None without a map.
        zero: of the stored numbers; None without a map.
        shape: of the map before pooling.
        tokens: of a text.
        more: scale, zero and shape of the maps of further inputs, by the input's name.
        error: why there is no map.
    """

    row: int
    id: str
    rank: int = 0
    label: int | None = None
    target: int | None = None
    prediction: int | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    scale: float | None = None
    zero: int | None = None
    shape: tuple[int, ...] | None = None
    tokens: tuple[str, ...] | None = None
    more: Mapping[str, tuple[float, int, tuple[int, ...]]] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """Says of a unit what its index file says beside the rows.

    Args:
        unit: its number.
        digest: of the plan.
        shards: from the array's name to ``sha256`` and ``bytes`` of the unit's shard.
        promise: ``bytes``: every run of the plan on this machine gives these bytes; ``close``: the
            same ids, predictions and errors, and maps within one step of the stored type.
        errors: how many rows have no map.
    """

    unit: int
    digest: str
    shards: Mapping[str, Mapping[str, Any]]
    promise: str
    errors: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Says where and when a unit was computed.

    Args:
        host: the machine.
        time: when it was done, in UTC.
        seconds: that the unit took.
        attempt: how often the unit had been tried in this run, from 1.
    """

    host: str
    time: datetime
    seconds: float
    attempt: int = 1


def schema(plan: Plan) -> Any:
    """Return the columns of a plan's index as pyarrow's schema."""
    pa: Any = require("pyarrow", EXTRA)
    numbers = [*NUMBERS, *(f"{SHARE}{stage}" for stage in plan.stages)]
    columns = [
        *(("row", pa.int64()), ("id", pa.string()), ("rank", pa.int32())),
        *((name, pa.int64()) for name in ("label", "target", "prediction")),
        *((name, pa.float64()) for name in numbers),
        *(("scale", pa.float64()), ("zero", pa.int16()), ("shape", pa.list_(pa.int32()))),
        *(
            (f"{name}.{kind}", column)
            for name in plan.more
            for kind, column in zip(
                _STORED, (pa.float64(), pa.int16(), pa.list_(pa.int32())), strict=True
            )
        ),
        *((("tokens", pa.list_(pa.string())),) if plan.dims == TEXT else ()),
        *(("digest", pa.string()), ("error", pa.string()), ("host", pa.string())),
        *(("time", pa.timestamp("us", tz="UTC")), ("seconds", pa.float64())),
        ("attempt", pa.int32()),
    ]
    return pa.schema(columns)


def packed(plan: Plan, rows: Sequence[Row], commit: Commit, origin: Origin) -> bytes:
    """Return a unit's index file."""
    pa: Any = require("pyarrow", EXTRA)
    parquet: Any = require("pyarrow.parquet", EXTRA)
    columns = schema(plan)
    shared = {
        "digest": commit.digest,
        "host": origin.host,
        "time": origin.time,
        "seconds": origin.seconds,
        "attempt": origin.attempt,
    }
    own = ("row", "id", "rank", "label", "target", "prediction", "scale", "zero", "tokens", "error")
    listed = [
        {
            **{name: getattr(row, name) for name in own if name in columns.names},
            "shape": None if row.shape is None else list(row.shape),
            **row.numbers,
            **{
                f"{name}.{kind}": list(v) if isinstance(v, tuple) else v
                for name, found in row.more.items()
                for kind, v in zip(_STORED, found, strict=True)
            },
            **shared,
        }
        for row in rows
    ]
    head = {
        "format": FORMAT,
        "unit": commit.unit,
        "digest": commit.digest,
        "shards": {name: dict(found) for name, found in commit.shards.items()},
        "promise": commit.promise,
        "errors": commit.errors,
    }
    table = pa.Table.from_pylist(listed, columns)
    table = table.replace_schema_metadata({KEY: json.dumps(head, sort_keys=True).encode()})
    with io.BytesIO() as file:
        parquet.write_table(table, file, compression="zstd", write_page_checksum=True)
        return file.getvalue()


def unpacked(content: bytes, name: str) -> tuple[Any, Commit]:
    """Return a unit's rows as a pyarrow table, and what the file says beside.

    Raises:
        StoreError: the file is damaged.
    """
    pa: Any = require("pyarrow", EXTRA)
    parquet: Any = require("pyarrow.parquet", EXTRA)
    try:
        file = parquet.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        table = file.read(use_threads=False)
        return table, _commit(table.schema.metadata)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())
        raise StoreError(f"{name} is damaged: {text}") from error


def commit_of(content: bytes, name: str) -> Commit:
    """Return what an index file says beside its rows, which are not read.

    Raises:
        StoreError: the file is damaged.
    """
    pa: Any = require("pyarrow", EXTRA)
    parquet: Any = require("pyarrow.parquet", EXTRA)
    try:
        return _commit(parquet.read_schema(pa.BufferReader(content)).metadata)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{name} is damaged: {' '.join(str(error).split())}") from error


def _commit(metadata: Mapping[bytes, bytes] | None) -> Commit:
    head = json.loads((metadata or {})[KEY])
    if head["format"] != FORMAT:
        raise ValueError(f"format {head['format']}, not {FORMAT}")
    return Commit(head["unit"], head["digest"], head["shards"], head["promise"], head["errors"])


def frame(tables: Iterable[Any], plan: Plan) -> Any:
    """Return rows of several units as a ``pandas.DataFrame``, indexed by ``row``.

    Whole numbers that may be missing are pandas' ``Int64`` and ``Int16``.
    """
    pa: Any = require("pyarrow", EXTRA)
    pandas: Any = require("pandas", EXTRA)
    columns = schema(plan)
    tables = [table.replace_schema_metadata(None) for table in tables]
    tables = [t if t.schema.equals(columns) else t.cast(columns) for t in tables]
    table = pa.concat_tables(tables) if tables else columns.empty_table()
    whole = {pa.int64(): pandas.Int64Dtype(), pa.int16(): pandas.Int16Dtype()}
    found = table.drop_columns(["row"]).to_pandas(types_mapper=whole.get)
    found.index = pandas.Index(table["row"].to_numpy(), name="row")
    return found

"""The part of a report on a sheet of ``fullgrad compare``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fullgrad._files import printable
from fullgrad._html import Html, joined, tag
from fullgrad.report.markup import Builder, details, kind_of
from fullgrad.report.provenance import again, made, model_facts, version_facts
from fullgrad.report.values import ReportError, read_bytes, shown
from fullgrad.vision.schema import ComparisonRecord, FailureInfo, MethodInfo, RowInfo
from fullgrad.viz.style import number


@dataclass(frozen=True, slots=True)
class Comparison:
    """The record of a sheet.

    Args:
        path: of the record.
        record: what it says.
    """

    path: Path
    record: ComparisonRecord


def section(builder: Builder, found: Comparison, problems: list[str]) -> Html:
    """One sheet.

    Args:
        builder: of the page.
        found: the record.
        problems: to which what is missing or wrong is added.

    Raises:
        ReportError: the record is not what ``fullgrad compare`` writes.
    """
    record = found.record
    rows, counted = record.rows, _many(len(record.methods), "method")
    title = f"{_many(len(rows), 'photograph')} by {counted} on {record.model.spec}"
    parts = [
        tag("h2", title, id=builder.name("compared")),
        _sheet(builder, found, problems),
        _classes(builder, rows),
        _failed(record.failed),
        tag("h3", "The methods"),
        tag("ul", *(_method(m) for m in record.methods)),
        _reasons(rows),
        details("The range of each map", _ranges(builder, rows)),
        made([*model_facts(record.model), *version_facts(record.versions)], "h3"),
        again(
            record.command,
            "h3",
            "In the folder where it was run. The photographs' SHA-256 digests in the table above "
            "tell whether they are the same files.",
        ),
    ]
    return tag("section", *parts)


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _sheet(builder: Builder, found: Comparison, problems: list[str]) -> Html:
    record, name = found.record, found.record.sheet.file
    try:
        if name != Path(name).name or name.startswith("."):
            raise ReportError(f"the sheet {printable(name)} is not beside its record")
        content = read_bytes(found.path.with_name(name))
    except ReportError as error:
        problems.append(f"No sheet: {error}")
        return tag("p", problems[-1], class_="warn")
    if hashlib.sha256(content).hexdigest() != record.sheet.sha256:
        problems.append(f"No sheet: {printable(name)} is not the one that its record tells of")
        return tag("p", problems[-1], class_="warn")
    kind = kind_of(content)
    if kind is None:
        said = (
            f"The sheet itself is in {name}, of a kind that a page cannot hold (for a picture "
            "here, let the sheet's --out end in .png or .svg)."
        )
        return tag("p", said)
    methods = ", ".join(m.label for m in record.methods)
    classes = ", ".join(_subject(r) for r in record.rows[:12])
    alt = f"A row for each photograph ({classes}), a column for each method: {methods}"
    return builder.picture(content, kind, alt, record.rule, wide=True)


def _classes(builder: Builder, rows: Sequence[RowInfo]) -> Html:
    compared = any(row.target.rather_than for row in rows)
    cells = [
        (
            row.image.path,
            _subject(row),
            row.target.likely,
            number(row.target.logit),
            *_compared(row, compared),
            tag("code", row.image.sha256),
        )
        for row in rows
    ]
    taken = (
        "Logit: the class's output; other logit: that of the class after 'rather than'; margin: "
        "the first less the second, whose gradient the methods take. Probability: the first "
        "class's, by the softmax of all logits."
        if compared
        else "Logit: the class's output, whose gradient the methods take. Probability: the softmax "
        "of all logits."
    )
    caption = f"What every row explains. {taken} SHA-256: of the photograph's file."
    heads = ("photograph", "explained class", "probability", "logit")
    more = ("other logit", "margin") if compared else ()
    numeric = range(2, 4 + len(more))
    return builder.table(caption, (*heads, *more, "SHA-256"), cells, numeric=numeric)


def _subject(row: RowInfo) -> str:
    """What a row explains: one class, or one rather than another."""
    if row.target.described is not None:
        return row.target.described
    both = (row.target, row.target.rather_than)
    return " rather than ".join(c.name or f"class {c.index}" for c in both if c is not None)


def _compared(row: RowInfo, compared: bool) -> tuple[str, ...]:
    other = row.target.rather_than
    if not compared:
        return ()
    return ("", "") if other is None else (number(other.logit), number(other.margin))


def _failed(failed: Sequence[FailureInfo]) -> Html:
    if not failed:
        return Html("")
    rows = (tag("li", f"{f.image}: {f.reason}") for f in failed)
    return joined([tag("h3", "Photographs that failed"), tag("ul", *rows)])


def _method(method: MethodInfo) -> Html:
    more = " ".join(t for t in (method.about, method.reference) if t)
    given = ", ".join(f"{k}: {shown(v)}" for k, v in method.options.items())
    options = f" ({given})" if given else ""
    return tag("li", tag("strong", method.label), options, f": {more}" if more else "")


def _reasons(rows: Sequence[RowInfo]) -> Html:
    said: dict[str, list[str]] = {}
    for row in rows:
        for cell in row.maps:
            if cell.reason is not None:
                what = "failed" if cell.applies else "does not apply"
                text = f"{cell.method} {what}: {cell.reason}"
                said.setdefault(text, []).append(row.image.path)
    if not said:
        return Html("")
    items = []
    for text, paths in said.items():
        where = "" if len(paths) == len(rows) else f" ({', '.join(paths)})"
        items.append(tag("li", text, where))
    return joined([tag("h3", "Maps that there are not"), tag("ul", *items)])


def _ranges(builder: Builder, rows: Sequence[RowInfo]) -> Html:
    cells = [
        (row.image.path, c.method, number(c.least), number(c.most), f"{c.seconds:.2f}")
        for row in rows
        for c in row.maps
        if c.least is not None and c.most is not None
    ]
    caption = (
        "The smallest and largest number of each map, in the method's own units: they cannot be "
        "compared between methods. Seconds: that the map took on the machine where it was made."
    )
    heads = ("photograph", "method", "least", "most", "seconds")
    return builder.table(caption, heads, cells, numeric=(2, 3, 4))

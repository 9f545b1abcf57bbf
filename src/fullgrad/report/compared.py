"""The part of a report on a sheet of ``fullgrad compare``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullgrad._files import printable
from fullgrad._html import Html, joined, tag
from fullgrad.report.markup import Builder, details, kind_of
from fullgrad.report.provenance import again, made, model_facts, version_facts
from fullgrad.report.values import ReportError, Values, read_bytes, shown
from fullgrad.viz.style import number

KIND = "fullgrad comparison"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The record of a sheet.

    Args:
        path: of the record.
        record: what it says.
    """

    path: Path
    record: Values


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
    rows, methods = record.each("rows"), record.each("methods")
    spec = record.inside("model").text("spec")
    title = f"{_many(len(rows), 'photograph')} by {_many(len(methods), 'method')} on {spec}"
    parts = [
        tag("h2", title, id=builder.name("compared")),
        _sheet(builder, found, problems),
        _classes(builder, rows),
        _failed(record),
        tag("h3", "The methods"),
        tag("ul", *(_method(m) for m in methods)),
        _reasons(rows),
        details("The range of each map", _ranges(builder, rows)),
        made([*model_facts(record.inside("model")), *version_facts(record)], "h3"),
        again(
            record.text("command"),
            "h3",
            "In the folder where it was run. The photographs' SHA-256 digests in the table above "
            "tell whether they are the same files.",
        ),
    ]
    return tag("section", *parts)


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _sheet(builder: Builder, found: Comparison, problems: list[str]) -> Html:
    told = found.record.inside("sheet")
    name = told.text("file")
    try:
        if name != Path(name).name or name.startswith("."):
            raise ReportError(f"the sheet {printable(name)} is not beside its record")
        content = read_bytes(found.path.with_name(name))
    except ReportError as error:
        problems.append(f"No sheet: {error}")
        return tag("p", problems[-1], class_="warn")
    if hashlib.sha256(content).hexdigest() != told.text("sha256"):
        problems.append(f"No sheet: {printable(name)} is not the one that its record tells of")
        return tag("p", problems[-1], class_="warn")
    kind = kind_of(content)
    if kind is None:
        said = (
            f"The sheet itself is in {name}, of a kind that a page cannot hold (for a picture "
            "here, let the sheet's --out end in .png or .svg)."
        )
        return tag("p", said)
    rows = found.record.each("rows")
    methods = ", ".join(m.text("label") for m in found.record.each("methods"))
    classes = ", ".join(r.inside("target").text("name") for r in rows[:12])
    alt = f"A row for each photograph ({classes}), a column for each method: {methods}"
    return builder.picture(content, kind, alt, found.record.text("rule"), wide=True)


def _classes(builder: Builder, rows: list[Values]) -> Html:
    cells = []
    for row in rows:
        image, target = row.inside("image"), row.inside("target")
        cells.append(
            (
                image.text("path"),
                target.text("name"),
                f"{target.number('probability'):.1%}",
                number(target.number("logit")),
                tag("code", image.text("sha256")),
            )
        )
    caption = (
        "What every row explains. Logit: the class's output, whose gradient the methods take. "
        "Probability: the softmax of all logits. SHA-256: of the photograph's file."
    )
    heads = ("photograph", "explained class", "probability", "logit", "SHA-256")
    return builder.table(caption, heads, cells, numeric=(2, 3))


def _failed(record: Values) -> Html:
    failed = record.each("failed")
    if not failed:
        return Html("")
    rows = (tag("li", f"{f.text('image')}: {f.text('reason')}") for f in failed)
    return joined([tag("h3", "Photographs that failed"), tag("ul", *rows)])


def _method(method: Values) -> Html:
    more = " ".join(t for t in (method.text("about"), method.text("reference")) if t)
    given = method.inside("options").items()
    options = f" ({', '.join(f'{k}: {shown(v)}' for k, v in given)})" if given else ""
    return tag("li", tag("strong", method.text("label")), options, f": {more}" if more else "")


def _reasons(rows: list[Values]) -> Html:
    said: dict[str, list[str]] = {}
    for row in rows:
        for cell in row.each("maps"):
            if (reason := cell.maybe_text("reason")) is not None:
                applies = cell.plain().get("applies") is True
                what = "failed" if applies else "does not apply"
                text = f"{cell.text('method')} {what}: {reason}"
                said.setdefault(text, []).append(row.inside("image").text("path"))
    if not said:
        return Html("")
    items = []
    for text, paths in said.items():
        where = "" if len(paths) == len(rows) else f" ({', '.join(paths)})"
        items.append(tag("li", text, where))
    return joined([tag("h3", "Maps that there are not"), tag("ul", *items)])


def _ranges(builder: Builder, rows: list[Values]) -> Html:
    cells: list[tuple[Any, ...]] = []
    for row in rows:
        for cell in row.each("maps"):
            if "least" in cell:
                cells.append(
                    (
                        row.inside("image").text("path"),
                        cell.text("method"),
                        number(cell.number("least")),
                        number(cell.number("most")),
                        f"{cell.number('seconds'):.2f}",
                    )
                )
    caption = (
        "The smallest and largest number of each map, in the method's own units: they cannot be "
        "compared between methods. Seconds: that the map took on the machine where it was made."
    )
    heads = ("photograph", "method", "least", "most", "seconds")
    return builder.table(caption, heads, cells, numeric=(2, 3, 4))

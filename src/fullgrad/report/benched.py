"""The part of a report on the results folder of an experiment (``fullgrad bench``)."""

from __future__ import annotations

import csv
import io
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullgrad._files import printable
from fullgrad._html import Html, joined, tag
from fullgrad.evaluation.bench import kinds
from fullgrad.evaluation.options import MEANINGS
from fullgrad.evaluation.store import OLD_PLAN, RECORD, STAGES, TABLE
from fullgrad.report import evaluated
from fullgrad.report.markup import Builder, details, facts, kind_of
from fullgrad.report.provenance import again, made, version_facts
from fullgrad.report.values import ReportError, Values, read_bytes, read_json, shown

ROWS = 400  # of a table that are shown
_FIRST = ("ranking.csv", "summary.csv")  # tables that are not folded away
_KNOWN = {"plan", "versions", "command", "files", "experiment"}
_UNKNOWN = "results"


@dataclass(frozen=True, slots=True)
class Experiment:
    """A results folder.

    Args:
        folder: with ``record.json``.
        record: what that says.
    """

    folder: Path
    record: Values


def found_in(folder: Path) -> Experiment | None:
    """The experiment whose results a folder holds, if it is one.

    Raises:
        ReportError: the run is not finished, or its record is damaged.
    """
    begun = (folder / STAGES).is_dir() or (folder / OLD_PLAN).is_file()
    if not (folder / RECORD).is_file():
        if not begun:
            return None
        raise ReportError(
            f"the run in {printable(folder)} is not finished (it has no {RECORD}): start it again "
            "with the same command, and it resumes"
        )
    record = read_json(folder / RECORD)
    record.inside("plan")
    record.inside("versions")
    record.text("command")
    return Experiment(folder, record)


def section(builder: Builder, found: Experiment, problems: list[str]) -> Html:
    """One experiment: pictures, tables, what was asked for, what it took.

    Args:
        builder: of the page.
        found: the folder.
        problems: to which what is missing or wrong is added.

    Raises:
        ReportError: the record is not what ``fullgrad bench`` writes.
    """
    record = found.record
    name = _name(record)
    title = name.replace("-", " ")
    own = kinds()[name].meanings if name in kinds() else {}
    meanings = {**MEANINGS, **own} if own else {}
    told = name == evaluated.NAME
    head = evaluated.heading_of(record) if told else f"Experiment: {title}"
    parts = [tag("h2", head, id=builder.name("experiment"))]
    if told:
        heads, rows = _read(found.folder / "ranking.csv")
        parts.append(evaluated.answer(builder, record, heads, rows))
        parts.append(tag("h3", "Pictures"))
    for path in sorted(found.folder.glob("*.png"), key=evaluated.place_of if told else None):
        parts.append(_picture(builder, path, problems, told))
    tables = [p for p in found.folder.glob("*.csv") if p.stem != TABLE]
    for path in sorted(tables, key=lambda p: (_place(p.name), p.name)):
        parts.append(_table(builder, path, meanings, problems, folded=told))
    if not meanings and name != _UNKNOWN:
        command = f"fullgrad bench {name} --help"
        parts.append(tag("p", "What the experiment measures: ", tag("code", command)))
    if (found.folder / f"{TABLE}.csv").is_file():
        parts.append(
            tag(
                "p",
                f"The numbers of every single image are in {TABLE}.csv of the results folder; "
                "they are too many for a page.",
            )
        )
    plan = record.inside("plan").items()
    asked = evaluated.ASKED if told else {}
    known = _KNOWN | set(evaluated.TOLD if told else ())
    rest = [(k, v) for k, v in record.items() if k not in known]
    parts += [
        tag("h3", "What was asked for"),
        facts((k.replace("_", " "), shown(v), asked.get(k, "")) for k, v in plan),
        made(
            [
                *version_facts(dict(record.inside("versions").items())),
                *((k.replace("_", " "), shown(v), _meaning(k)) for k, v in rest),
            ],
            "h3",
        ),
    ]
    if command := record.text("command"):  # a call from Python has none
        more = (
            "In the folder where it was run. With an --out folder of its own it computes "
            "everything again; with the same folder it finds the results there."
        )
        parts.append(again(command, "h3", more))
    return tag("section", *parts)


def title_of(found: Experiment) -> str:
    """Return the title of a page about nothing else; empty where it has none of its own."""
    return evaluated.title_of(found.record) if _name(found.record) == evaluated.NAME else ""


def _place(name: str) -> int:
    return _FIRST.index(name) if name in _FIRST else len(_FIRST)


def _meaning(name: str) -> str:
    return {
        "excluded": "images that could not be used",
        "seconds": "that each piece of work took, on the machine where it was run",
        "images_per_minute": "map and perturbation together",
        "does_not_apply": "methods, and why not",
        "models": "their images, classes and mean probability of the predicted class",
        "threads": "of the CPU",
    }.get(name, "")


def _name(record: Values) -> str:
    """Return the experiment's name on the command line."""
    own = dict(record.items()).get("experiment")
    if isinstance(own, str):
        return own
    try:
        words = shlex.split(record.text("command"))
    except ValueError:
        words = []
    if words[:2] == ["fullgrad", "bench"] and len(words) > 2:
        return words[2]
    return _UNKNOWN


def _picture(builder: Builder, path: Path, problems: list[str], told: bool = False) -> Html:
    name = printable(path.name)
    try:
        content = read_bytes(path)
    except ReportError as error:
        problems.append(f"No picture: {error}")
        return tag("p", problems[-1], class_="warn")
    if (kind := kind_of(content)) is None:
        problems.append(f"No picture: {printable(path)} is no PNG file")
        return tag("p", problems[-1], class_="warn")
    if path.name == "curves.png":
        alt = "Curves of the experiment, one for each method; the tables below hold their numbers"
        caption = "Curves of all methods. Bands, where there are any, are 95 % intervals."
    elif told and (own := evaluated.caption_of(name)):
        alt, caption = own
    else:
        alt, caption = f"Picture {name} of the results folder", name
    return builder.picture(content, kind, alt, caption, wide=True)


def _table(
    builder: Builder,
    path: Path,
    meanings: Mapping[str, str],
    problems: list[str],
    folded: bool = False,
) -> Html:
    name = printable(path.name)
    try:
        heads, rows = _read(path)
    except ReportError as error:
        problems.append(f"No table: {error}")
        return tag("p", problems[-1], class_="warn")
    if not rows:
        return tag("p", f"{name} is empty.")
    numeric = [i for i in range(len(heads)) if all(_number(r[i]) is not None for r in rows)]
    known = [(h, meanings[h]) for h in heads if h in meanings]
    meaning = joined(tag("li", tag("strong", h), f": {m}") for h, m in known)
    cut = f" The first {ROWS} of {len(rows)} rows." if len(rows) > ROWS else ""
    shown_rows = [
        [_rounded(c) if i in numeric else c for i, c in enumerate(r)] for r in rows[:ROWS]
    ]
    content = builder.table(
        f"{name}.{cut}", [h.replace("_", " ") for h in heads], shown_rows, numeric=numeric
    )
    if known:
        what = details(f"What the columns of {name} mean", tag("ul", meaning), shown=True)
        content = joined([content, what])
    if path.name in _FIRST and not folded:
        return joined([tag("h3", path.stem.capitalize()), content])
    return details(f"Table {name}", content)


def _read(path: Path) -> tuple[Sequence[str], list[list[str]]]:
    name = printable(path)
    try:
        rows = list(csv.reader(io.StringIO(read_bytes(path).decode("utf-8")), strict=True))
    except (ValueError, csv.Error) as error:
        raise ReportError(f"{name} is not a table: {error}") from error
    rows = [r for r in rows if r]
    if not rows or any(len(r) != len(rows[0]) for r in rows):
        raise ReportError(f"{name} is not a table: its rows differ in length, or it has no rows")
    return rows[0], rows[1:]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _rounded(text: str) -> str:
    value: Any = _number(text)
    return text if text.lstrip("-").isdecimal() else f"{value:.3g}"

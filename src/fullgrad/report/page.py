"""From files and folders to a page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from fullgrad._files import printable, write_whole
from fullgrad._html import Html, escaped, joined, tag
from fullgrad._version import __version__
from fullgrad.errors import UsageError
from fullgrad.report import benched, compared, explained, stored
from fullgrad.report.benched import Experiment
from fullgrad.report.compared import Comparison
from fullgrad.report.explained import Explained
from fullgrad.report.layout import PAGE, POLICY, STYLE
from fullgrad.report.markup import Builder
from fullgrad.report.stored import Look, Stored
from fullgrad.report.values import ReportError, read_bytes
from fullgrad.vision.schema import ComparisonRecord, ImageRecord, read_record

Item: TypeAlias = Explained | Comparison | Experiment | Stored


@dataclass(frozen=True, slots=True)
class Made:
    """A page.

    Args:
        html: the whole file.
        counted: what it shows, in words.
        problems: what is missing or wrong in it, each said in the page as well.
    """

    html: str
    counted: str
    problems: tuple[str, ...]


def report(
    paths: Sequence[Path], title: str = "", command: str = "", look: Look | None = None
) -> Made:
    """A page of results.

    Args:
        paths: folders that ``fullgrad explain``, ``compare``, ``map`` or ``bench`` wrote into, or
            records (``NAME.json``) of the first two.
        title: of the page.
        command: that makes it, for its foot.
        look: what is shown of stores of maps.

    Returns:
        The page; equal files give an equal page.

    Raises:
        ReportError: a path that does not exist or holds none of these, an experiment that is not
            finished, or nothing left to show.
        UsageError: ``look`` is given, but no store; or it does not fit the store.
        MissingDependencyError: matplotlib is not installed.
    """
    if not paths:
        raise ReportError("nothing to report: name a folder that fullgrad wrote into")
    problems: list[str] = []
    shown = look or Look()
    found = list(_unique(item for path in paths for item in _found(path, problems, shown)))
    if look is not None and not any(isinstance(item, Stored) for item in found):
        raise UsageError(
            "--where, --sort, --most and --data choose what is shown of a store of maps, and there "
            "is no store among the paths: leave them out"
        )
    return _made(found, problems, title, command)


def write_page(folder: Path, name: str = "report.html", command: str = "") -> Path:
    """Write the page of one folder of results into it.

    Args:
        folder: that ``fullgrad evaluate`` wrote into, for example.
        name: of the file.
        command: that makes it, for its foot.

    Returns:
        The file's path.

    Raises:
        ReportError: see :func:`report`, or the file cannot be written.
        MissingDependencyError: matplotlib is not installed.
    """
    made = report([folder], command=command)
    path = folder / name
    try:
        write_whole(path, made.html.encode())
    except OSError as error:
        raise ReportError(f"{printable(path)} cannot be written: {error.strerror}") from error
    return path


def report_of(name: str, record: ImageRecord, files: Mapping[str, bytes]) -> Made:
    """A page of one photograph whose record and files are in memory; nothing is read or written.

    Args:
        name: of the photograph, for messages.
        record: of the photograph.
        files: contents of the files it writes beside the record, by their endings
            (``.overlay.png``, ``.saliency.npy``, ``.layers.npz``).

    Raises:
        ReportError: the record does not fit its files.
        MissingDependencyError: matplotlib is not installed.
    """
    item = Explained(Path(f"{name}.json"), record, files)
    return _made([item], [], "", "")


def _made(found: Sequence[Item], problems: list[str], title: str, command: str) -> Made:
    builder = Builder()
    sections: list[tuple[str, Html]] = []
    for group in _groups(found):
        try:
            sections.append(_section(builder, group, problems))
        except ReportError as error:
            problems.append(str(error))
    if not sections:
        raise ReportError(problems[0] if problems else "nothing to report")
    counted = _counted(found)
    title = title or _title(found) or f"fullgrad: {counted}"
    lead = tag(
        "p", f"This page holds {counted}. It is one file, needs no network and runs no script."
    )
    if problems:
        rows = (tag("li", text) for text in dict.fromkeys(problems))
        notes = [tag("p", "Not all is here:", class_="warn"), tag("ul", *rows)]
        lead = joined([lead, *notes])
    if len(sections) > 1:
        lead = joined([lead, _contents(sections)])
    foot = tag(
        "p",
        f"Made with fullgrad {__version__}",
        ": " if command else ".",
        tag("code", command) if command else "",
    )
    html = PAGE.substitute(
        policy=escaped(POLICY),
        title=escaped(title),
        style=STYLE,
        lead=lead,
        content=joined(part for _, part in sections),
        foot=foot,
    )
    return Made(html, counted, tuple(dict.fromkeys(problems)))


def _title(found: Sequence[Item]) -> str:
    """A title for the only thing that a page shows, if it has one of its own."""
    if len(found) == 1 and isinstance(found[0], Experiment):
        return benched.title_of(found[0])
    if len(found) == 1 and isinstance(found[0], Stored):
        return stored.title_of(found[0])
    return ""


def _found(path: Path, problems: list[str], look: Look) -> list[Item]:
    """What a path holds; damaged records in a folder are problems, a damaged file is an error."""
    if path.is_dir():
        store = stored.found_in(path, look)
        if store is not None:
            return [store]
        experiment = benched.found_in(path)
        if experiment is not None:
            return [experiment]
        found: list[Item] = []
        try:
            files = sorted(_json_files(path, problems))
        except OSError as error:
            raise ReportError(f"{printable(path)} cannot be listed: {error.strerror}") from error
        for file in files:
            try:
                item = _record(file)
            except ReportError as error:
                problems.append(str(error))
                continue
            if item is not None:
                found.append(item)
        if not found:
            more = f" ({problems[-1]})" if problems else ""
            raise ReportError(
                f"{printable(path)} holds no results of fullgrad explain, compare or bench{more}"
            )
        return found
    item = _record(path)
    if item is None:
        raise ReportError(f"{printable(path)} is not a record of fullgrad explain or compare")
    return [item]


def _json_files(folder: Path, problems: list[str]) -> Iterable[Path]:
    """The JSON files of a folder and its subfolders, but for those of an experiment or a store."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir() and stored.is_store(path):
            problems.append(
                f"{printable(path)} is a store of maps, which is shown where it is named: "
                f"fullgrad report {printable(path)}"
            )
        elif path.is_dir() and benched.found_in(path) is None:
            yield from _json_files(path, problems)
        elif path.suffix == ".json":
            yield path


def _record(path: Path) -> Explained | Comparison | None:
    """The record in a file; None for JSON of another kind."""
    record = read_record(read_bytes(path), printable(path))
    if isinstance(record, ComparisonRecord):
        return Comparison(path, record)
    return Explained(path, record) if isinstance(record, ImageRecord) else None


def _unique(found: Iterable[Item]) -> Iterable[Item]:
    seen = set()
    for item in found:
        path = item.folder if isinstance(item, (Experiment, Stored)) else item.path
        place = path.resolve()
        if place not in seen:
            seen.add(place)
            yield item


def _groups(found: Sequence[Item]) -> list[list[Item]]:
    """Photographs of one run together, everything else by itself, in order."""
    groups: dict[str, list[Item]] = {}
    for place, item in enumerate(found):
        key = item.run if isinstance(item, Explained) else json.dumps(place)
        groups.setdefault(key, []).append(item)
    return list(groups.values())


def _section(builder: Builder, group: Sequence[Item], problems: list[str]) -> tuple[str, Html]:
    first = group[0]
    if isinstance(first, Explained):
        photographs = [e for e in group if isinstance(e, Explained)]
        made, what = explained.section(builder, photographs, problems), "explained"
    elif isinstance(first, Comparison):
        made, what = compared.section(builder, first, problems), "compared"
    elif isinstance(first, Stored):
        made, what = stored.section(builder, first, problems), "stored"
    else:
        made, what = benched.section(builder, first, problems), "experiment"
    return what, made


def _contents(sections: Sequence[tuple[str, Html]]) -> Html:
    """Links to the sections, by their headings."""
    items = []
    for what, html in sections:
        _, _, rest = html.partition('<h2 id="')
        name, _, rest = rest.partition('">')
        items.append(tag("li", tag("a", Html(rest.partition("</h2>")[0]), href=f"#{name}")))
        assert name.startswith(what)
    return tag("nav", tag("ul", *items), aria_label="Contents")


def _counted(found: Sequence[Item]) -> str:
    names = (
        (Explained, "explained photograph"),
        (Comparison, "comparison"),
        (Experiment, "experiment"),
        (Stored, "store of maps"),
    )
    said = []
    for kind, name in names:
        count = sum(isinstance(item, kind) for item in found)
        if count:
            head, space, rest = name.partition(" of ")
            said.append(f"{count} {head}{'s' * (count > 1)}{space}{rest}")
    return ", ".join(said)

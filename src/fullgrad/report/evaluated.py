"""What an evaluation says, in words: the first part of its page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fullgrad._html import Html, joined, tag
from fullgrad.evaluation.tests.evaluate import words
from fullgrad.evaluation.tests.evaluate.words import Contest
from fullgrad.report.markup import Builder
from fullgrad.report.values import ReportError, Values

NAME = "evaluate"
ASKED = {
    "choices": "the methods",
    "models": "as they were asked for",
    "count": "of images",
    "content": "digest of the images: equal digests, equal images",
    "tests": "with their settings",
    "number": "what is explained, and measured where cells are removed",
    "random_runs": "maps of noise, of each method of noise",
    "seed": "of all that is drawn",
    "batch_size": "images at a time",
}
TOLD = ("does_not_apply",)  # above, in words
_NUMBERS = ("images", "mean", "low", "high", "behind", "behind_low", "behind_high")
_ENDS = ("low", "high", "behind_low", "behind_high")  # empty where one image gives no interval
_CAPTIONS = {
    "scores": (
        "Means of each method under each test, with 95 % intervals; the table above holds them",
        "Each test is a panel, each method a row, in the order of the first test.",
    ),
    "examples": (
        "Images with the best and the worst scores in the first test, each with its map over it",
        "The images that the first test scores best and worst, with the maps of its best method "
        "that is no control. Look whether the worst ones have something in common.",
    ),
}


def title_of(record: Values) -> str:
    """Return the title of the page."""
    return f"Which map to trust on {', '.join(_models(record))}"


def heading_of(record: Values) -> str:
    """Return the heading of the section."""
    return f"Evaluation of {', '.join(_models(record))}"


def place_of(path: Path) -> tuple[int, bool, str]:
    """Return what pictures are sorted by: model by model, the scores first."""
    kind, _, number = path.stem.partition("-")
    return int(number) if number.isdecimal() else 0, kind != "scores", path.name


def caption_of(name: str) -> tuple[str, str] | None:
    """Return what a picture of the folder shows, and what stands below it, if it is known."""
    return _CAPTIONS.get(name.partition(".")[0].partition("-")[0])


def answer(
    builder: Builder, record: Values, heads: Sequence[str], rows: Sequence[Sequence[str]]
) -> Html:
    """Which method wins which test, by how much, how sure; what does not apply; cautions.

    Args:
        builder: of the page.
        record: of the run.
        heads: of the table ``ranking.csv``.
        rows: of that table.

    Raises:
        ReportError: the table or the record is not that of an evaluation.
    """
    ranking = _ranking(record, heads, rows)
    found = words.by_model(ranking)
    parts = []
    for model, tests in found.items():
        if len(found) > 1:
            parts.append(tag("h3", model))
        methods = words.methods_of(tests)
        count = max(t.images for t in tests)
        parts += [
            tag("p", tag("strong", words.standing(tests))),
            tag("p", f"{_many(count, 'image')}, {_many(len(methods), 'method')}."),
            _overview(builder, model, methods, tests),
            *([tag("h3", "Test by test")] if len(found) == 1 else []),
            *(_test(t) for t in tests),
        ]
    parts += [_meanings(), *_refused(record), *_cautions(record, ranking)]
    return joined(parts)


def _models(record: Values) -> list[str]:
    return [name for name, _ in record.inside("models").items()]


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _ranking(
    record: Values, heads: Sequence[str], rows: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    found = []
    for row in rows:
        values: dict[str, Any] = dict(zip(heads, row, strict=True))
        try:
            numbers = {n: float(values[n] or _empty(n)) for n in _NUMBERS}
            found.append(values | numbers)
            _ = [values[name] for name in ("model", "test", "setting", "method", "verdict")]
        except (KeyError, ValueError) as error:
            raise ReportError(
                f"{record.where}: its ranking.csv is not that of an evaluation ({error})"
            ) from error
    if not found:
        raise ReportError(f"{record.where}: its ranking.csv is empty")
    return found


def _empty(name: str) -> str:
    return "nan" if name in _ENDS else ""


def _overview(
    builder: Builder, model: str, methods: Sequence[str], tests: Sequence[Contest]
) -> Html:
    rows = []
    for method in methods:
        name, _, options = method.partition(":")
        cells: list[Any] = [
            joined([name, tag("br"), options.replace(",", ", ")]) if options else name
        ]
        for test in tests:
            row = next((r for r in test.rows if r["method"] == method), None)
            cells.append(_cell(row) if row else "")
        rows.append(cells)
    heads = ["method", *(_head(t) for t in tests)]
    caption = (
        f"{model}: the mean over images of each method, its 95 % interval, and the verdict of the "
        "paired comparison with the first method."
    )
    return builder.table(caption, heads, rows, class_="verdicts")


def _head(test: Contest) -> Html:
    return joined([test.name, tag("br"), test.direction])


def _cell(row: Mapping[str, Any]) -> Html:
    good = row["verdict"] in {"first", "tied"}
    verdict = tag("strong" if good else "span", row["verdict"])
    ends = f"{row['mean']:.2f} [{_end(row['low'])}, {_end(row['high'])}]"
    return joined([verdict, tag("br"), tag("span", ends, class_="n")])


def _end(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _test(test: Contest) -> Html:
    head = f"{test.name[0].upper()}{test.name[1:]}"
    about = f"{test.title}; {test.direction}; {_many(test.images, 'image')}."
    said = (tag("li", text) for text in words.sentences(test))
    return joined([tag("h4", head), tag("p", f"{about[0].upper()}{about[1:]}"), tag("ul", *said)])


def _meanings() -> Html:
    said = joined(tag("li", tag("strong", v), f": {m}") for v, m in words.VERDICTS.items())
    more = (
        "Beside a method stand its paired difference to the first one and, in brackets, the "
        "difference's interval, at 95 % for all methods of the test together. Controls know "
        "nothing of the model; a map is worth what it has beyond them."
    )
    return joined([tag("h3", "What the verdicts mean"), tag("ul", said), tag("p", more)])


def _refused(record: Values) -> Iterator[Html]:
    refused = dict(record.items()).get("does_not_apply") or []
    if refused:
        try:
            lines = []
            for r in refused:
                where = ", ".join(r[k] for k in ("model", "test") if k in r)
                lines.append((f"{r['method']} ({where})", r["why"]))
        except (TypeError, KeyError) as error:
            raise ReportError(
                f"{record.where}: 'does_not_apply' is not a list of methods"
            ) from error
        yield tag("h3", "Methods that do not apply")
        yield tag("ul", *(tag("li", tag("strong", m), f": {why}") for m, why in lines))


def _cautions(record: Values, ranking: Sequence[Mapping[str, Any]]) -> Iterator[Html]:
    try:
        tests = [t["test"] for t in dict(record.inside("plan").items())["tests"]]
        said = words.cautions(ranking, dict(record.inside("models").items()), tests)
    except (TypeError, KeyError) as error:
        raise ReportError(f"{record.where}: not the record of an evaluation ({error})") from error
    excluded = dict(record.items()).get("excluded") or []
    if excluded:
        said.append(f"{_many(len(excluded), 'image')} could not be used; see below which.")
    if said:
        yield tag("h3", "Read with care")
        yield tag("ul", *(tag("li", line) for line in said))

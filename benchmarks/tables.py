"""Markdown tables from stored results. A method without a number is a dash with a footnote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.growth import AXES, place
from benchmarks.methods import BASELINE, METHODS
from benchmarks.results import Record
from benchmarks.subjects import SUBJECTS
from benchmarks.timing import spread

_FEWEST_FOR_RANGE = 3
MIB = 2**20


class Footnotes:
    """Numbers the reasons of one page; the same reason has one number.

    Args:
        prefix: tells apart the footnotes of several pages put together.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._numbers: dict[str, int] = {}

    def dash(self, reason: str) -> str:
        """A dash that refers to its reason."""
        number = self._numbers.setdefault(reason, len(self._numbers) + 1)
        return f"–[^{self._prefix}{number}]"

    def lines(self) -> list[str]:
        """The reasons, in Markdown."""
        return [f"[^{self._prefix}{n}]: {_escaped(reason)}" for reason, n in self._numbers.items()]


def ratios(records: Sequence[Record], notes: Footnotes) -> list[str]:
    """Time as a multiple of forward + input-gradient; that itself in milliseconds."""

    def cell(name: str, outcome: dict[str, Any], _: Record) -> str:
        if name == BASELINE:
            return f"{milliseconds(outcome['seconds']['median'])} ms"
        return _with_range(outcome["ratio"], len(outcome["seconds_of_rounds"]))

    return _table(records, notes, cell, first=BASELINE)


def times(records: Sequence[Record], notes: Footnotes) -> list[str]:
    """Median milliseconds of one call."""
    return _table(records, notes, lambda _, o, __: milliseconds(o["seconds"]["median"]))


def memory(records: Sequence[Record], notes: Footnotes, quantity: str) -> list[str]:
    """Peak memory as a multiple of forward + input-gradient's; that itself in MiB.

    Args:
        records: cells of kind ``memory``.
        notes: takes the reasons of what is missing.
        quantity: ``tensors`` or ``resident``.

    Returns:
        Lines of Markdown.
    """

    def cell(name: str, outcome: dict[str, Any], record: Record) -> str:
        size = outcome[quantity]
        if size is None:
            return notes.dash("this system does not tell")
        base = record["methods"][BASELINE].get(quantity)
        if name == BASELINE or not base:
            return f"{three_digits(size / MIB)} MiB"
        return f"{size / base:.2f}"

    return _table(records, notes, cell, first=BASELINE)


def making(records: Sequence[Record], notes: Footnotes) -> list[str]:
    """Seconds to trace and compile, of the methods that are compiled; by the records' clock."""

    def cell(_: str, outcome: dict[str, Any], record: Record) -> str:
        own = "making_processor" if record.get("clock") == "processor" else "making"
        return f"{three_digits(outcome[own])} s"

    only = [{**r, "methods": _compiled(r)} for r in records]
    return _table(only, notes, cell)


def against(records: Sequence[Record], name: str, other: str) -> list[str]:
    """One method's time as a multiple of another's, from the same rounds; empty without any.

    Args:
        records: cells of one kind.
        name: of a method.
        other: of the method that it is divided by.

    Returns:
        Lines of Markdown.
    """
    lines = [_row(["model", "batch", f"{METHODS[name].label} ÷ {METHODS[other].label}"])]
    lines.append("|---|---:|---:|")
    for record in in_order(records):
        own, base = (
            record["methods"].get(n, {}).get("seconds_of_rounds", []) for n in (name, other)
        )
        values = [a / b for a, b in zip(own, base, strict=False)]
        if values:
            found = _with_range(asdict(spread(values)), len(values))
            lines.append(_row([SUBJECTS[record["model"]].label, str(record["batch"]), found]))
    return lines if len(lines) > 2 else []


def _compiled(record: Record) -> dict[str, Any]:
    return {n: o for n, o in record["methods"].items() if METHODS[n].group == "compiled"}


def growth(records: Sequence[Record], notes: Footnotes) -> list[str]:
    """Times and ratios along each axis."""
    names = _methods(records, first=BASELINE)
    lines = [_row(["axis", "model", "batch", "pixels", *(METHODS[n].label for n in names)])]
    lines.append("|---|---|---:|---:|" + "---:|" * len(names))
    for axis in AXES:
        for r in along(records, axis):
            cells = []
            for name in names:
                outcome = r["methods"][name]
                if "failed" in outcome:
                    cells.append(notes.dash(outcome["failed"]))
                elif name == BASELINE:
                    cells.append(f"{milliseconds(outcome['seconds']['median'])} ms")
                else:
                    rounds = len(outcome["seconds_of_rounds"])
                    cells.append(_with_range(outcome["ratio"], rounds))
            label = SUBJECTS[r["model"]].label
            lines.append(_row([axis, label, str(r["batch"]), str(r["size"]), *cells]))
    return lines


def along(records: Sequence[Record], axis: str) -> list[Record]:
    """The cells of one axis of the growth, in their order along it."""
    return sorted((r for r in records if r["axis"] == axis), key=place)


def in_order(records: Sequence[Record]) -> list[Record]:
    """By model, then batch, then size."""
    order = list(SUBJECTS)
    return sorted(records, key=lambda r: (order.index(r["model"]), r["batch"], r["size"]))


def milliseconds(seconds: float) -> str:
    """Three digits, in milliseconds."""
    return three_digits(seconds * 1e3)


def three_digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _with_range(ratio: dict[str, float], rounds: int) -> str:
    median = three_digits(ratio["median"])
    if rounds < _FEWEST_FOR_RANGE:
        return median
    return f"{median} ({three_digits(ratio['low'])}–{three_digits(ratio['high'])})"


def _methods(records: Sequence[Record], first: str = "") -> list[str]:
    found = {name for record in records for name in record["methods"]}
    return sorted((n for n in METHODS if n in found), key=lambda n: n != first)


def _table(
    records: Sequence[Record],
    notes: Footnotes,
    cell: Callable[[str, dict[str, Any], Record], str],
    first: str = "",
) -> list[str]:
    names = _methods(records, first)
    lines = [_row(["model", "batch", *(METHODS[n].label for n in names)])]
    lines.append("|---|---:|" + "---:|" * len(names))
    for record in in_order(records):
        cells = []
        for name in names:
            outcome = record["methods"].get(name, {"failed": "not asked for in this measurement"})
            failed = "failed" in outcome
            cells.append(notes.dash(outcome["failed"]) if failed else cell(name, outcome, record))
        lines.append(_row([SUBJECTS[record["model"]].label, str(record["batch"]), *cells]))
    return lines


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")

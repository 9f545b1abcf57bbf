"""Results on disk: one line of JSON per finished cell, so that an interrupted run goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.environment import Environment
from benchmarks.tasks import KEY, Key, Task

Record = dict[str, Any]


class ResultsError(Exception):
    """The results file cannot be used."""


class Store:
    """The results of one environment.

    Args:
        path: of the file; created with the first result.
        environment: of this process.
        fresh: forget what the file holds.

    Raises:
        ResultsError: it holds another environment's results, or no results.
    """

    def __init__(self, path: Path, environment: Environment, *, fresh: bool = False) -> None:
        self.path = path
        self._environment = environment
        self._records: dict[Key, Record] = {}
        if fresh:
            path.unlink(missing_ok=True)
        if path.exists():
            stored, records = read(path)
            different = environment.differences(stored)
            if different:
                raise ResultsError(
                    f"{path} was measured in another environment: {'; '.join(different)}. Keep "
                    "the two apart with another --out, or measure everything again with --fresh, "
                    "which discards the file."
                )
            self._records = {key_of(record): record for record in records}
            _replace(path, [{"environment": stored}, *records])  # without a line cut short

    def done(self, task: Task) -> bool:
        """Whether the cell has been measured."""
        return task.key in self._records

    def add(self, task: Task, outcomes: dict[str, Any], seconds: float) -> None:
        """Store a finished cell.

        Args:
            task: that was measured.
            outcomes: of its methods.
            seconds: that it took.
        """
        record: Record = {name: getattr(task, name) for name in KEY}
        record |= {"rounds": task.rounds, "longest": task.longest, "took": round(seconds, 1)}
        record["clock"] = task.clock
        record["methods"] = outcomes
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._records:
            _replace(self.path, [{"environment": self._environment.as_dict()}])
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._records[task.key] = record


def key_of(record: Record) -> Key:
    """What distinguishes a stored cell."""
    return tuple(record[name] for name in KEY)


def read(path: Path) -> tuple[dict[str, Any], list[Record]]:
    """The environment and the cells of a file; a last line cut short by an interruption is left.

    Args:
        path: of the file.

    Returns:
        The stored environment, and the records in the order they were measured.

    Raises:
        ResultsError: it is not such a file.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    parsed: list[Any] = []
    for number, line in enumerate(lines, 1):
        try:
            parsed.append(json.loads(line))
        except ValueError as error:
            if number == len(lines) and number > 1:
                break
            raise ResultsError(f"{path}, line {number}, is not JSON ({error})") from error
    if not parsed or not isinstance(parsed[0], dict) or "environment" not in parsed[0]:
        raise ResultsError(f"{path} does not begin with the environment of its results")
    records = parsed[1:]
    for number, record in enumerate(records, 2):
        if not isinstance(record, dict) or not {*KEY, "methods"} <= set(record):
            raise ResultsError(f"{path}, line {number}, is not a measured cell")
    return parsed[0]["environment"], records


def _replace(path: Path, lines: list[Any]) -> None:
    draft = path.with_name(path.name + ".part")
    draft.write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
    )
    draft.replace(path)

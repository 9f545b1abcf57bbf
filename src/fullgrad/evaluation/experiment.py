"""What a test of maps is, and how any of them is run: stored, resumed, written, shown."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from fullgrad._code import code_digest
from fullgrad._files import printable, write_together
from fullgrad._optional import require
from fullgrad.evaluation import statistics
from fullgrad.evaluation._own_sources import own_sources
from fullgrad.evaluation.options import Meter, Option, Silent
from fullgrad.evaluation.plan import MethodChoice, Plan, digest_of
from fullgrad.evaluation.statistics import Table
from fullgrad.evaluation.store import (
    RECORD,
    STAGES,
    TABLE,
    Content,
    Store,
    StoreError,
    make_folder,
    sweep,
    unwritable,
)
from fullgrad.vision.provenance import versions
from fullgrad.viz.curves import ranking_dots
from fullgrad.viz.overlay import png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Test(ABC):
    """One test of saliency maps: a subclass in a file of its own.

    A subclass says how it is prepared, how many parts its work has, and what rows a part gives.
    Store, resume, record, command and agreement come free. Rows with the columns ``case``,
    ``method`` and ``score`` get intervals, paired differences, a ranking and a figure, too.

    Args:
        plan: all that the numbers depend on.
    """

    __test__ = False  # pytest: no test case

    name: ClassVar[str]
    """The name on the command line."""
    title: ClassVar[str]
    """What it does, in one line."""
    description: ClassVar[str] = ""
    """What it does, for the command's help."""
    epilog: ClassVar[str] = ""
    """Examples, for the command's help."""
    options: ClassVar[Sequence[Option]] = ()
    """Its options."""
    for_model: ClassVar[bool] = False
    """Whether it also takes the options ``model``, ``weights`` and ``device``."""
    for_models: ClassVar[bool] = False
    """Whether it has options for several models, and takes what may be stated of them too."""
    replaces: ClassVar[bool] = False
    """Whether other options replace the results in a folder, or are refused there."""
    columns: ClassVar[frozenset[str]] = frozenset({"case", "method", "score"})
    """Columns of the table by which its results are known."""
    types: ClassVar[Mapping[str, str]] = {}
    """Types of columns that may be empty."""
    meanings: ClassVar[Mapping[str, str]] = {}
    """What the columns of its tables mean, for a report, beside :data:`MEANINGS`."""
    page: ClassVar[bool] = False
    """Whether the command also writes a page about the results."""
    counted: ClassVar[str] = "parts"
    """What its progress counts."""

    plan: Plan

    @classmethod
    @abstractmethod
    def prepare(cls, *args: Any, **options: Any) -> Test:
        """Read what the options name; a test takes its own ones, by name.

        Raises:
            FullGradError: something that is named is not there or is unusable.
            ValueError: an option has an impossible value.
        """

    @classmethod
    def declared(cls) -> Sequence[Option]:
        """Return its options."""
        return cls.options

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the options that need not be given, with their values."""
        return {option.name: option.default for option in cls.declared() if not option.required}

    @property
    def parts(self) -> int:
        """How many parts the work has."""
        raise NotImplementedError

    def part(self, number: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """Do one part of the work.

        Returns:
            Its rows, and the seconds that pieces of it took, by name.
        """
        raise NotImplementedError

    @cached_property
    def code(self) -> str:
        """Digest of the code that the numbers depend on."""
        return self.with_own(code_digest(type(self).__module__, "fullgrad.methods"))

    def with_own(self, code: str, choices: Sequence[MethodChoice] | None = None) -> str:
        """Return a digest of code that changes with the sources of users' methods and tests too.

        Args:
            code: digest of fullgrad's own code.
            choices: the methods whose sources count; None for all of the plan.
        """
        methods = self.plan.choices if choices is None else choices
        sources = [*own_sources(methods), *self.own_sources()]
        return digest_of({"code": code, "own": sources}) if sources else code

    def own_sources(self) -> list[str]:
        """Return digests of other files of the user's that the numbers depend on."""
        return []

    def check(self) -> None:  # noqa: B027 - nothing to try, unless a test says so
        """Try everything once, so that nothing fails half-way.

        Raises:
            FullGradError: something does not apply.
        """

    def remarks(self) -> list[str]:
        """Return lines that are reported before the work begins."""
        return []

    def units(self) -> list[str]:
        """Return the names of the pieces of work in the store."""
        key = digest_of({"test": self.name, "code": self.code, **self.plan.values()})
        return [f"{key}-{number:06d}" for number in range(self.parts)]

    def missing(self, store: Store) -> list[str]:
        """Return the names of the pieces that are not done."""
        return [unit for unit in self.units() if not store.has(unit)]

    def work(self, store: Store, meter: Callable[[str], Meter], say: Callable[[str], None]) -> int:
        """Do what is not done.

        Returns:
            How many pieces were done now.

        Raises:
            FullGradError: work had to stop; what is done is kept.
        """
        units = self.units()
        missing = [number for number, unit in enumerate(units) if not store.has(unit)]
        shown = meter(self.counted)
        try:
            for done, number in enumerate(missing):
                shown(len(units) - len(missing) + done, len(units))
                rows, seconds = self.part(number)
                store.put(units[number], Content({"rows": rows, "seconds": seconds}))
        finally:
            shown.end()
        return len(missing)

    def rows(self, store: Store) -> Table:
        """Return the table of everything that was measured, all of which is done."""
        pandas: Any = require("pandas", "bench")
        parts = [store.done(unit).values["rows"] for unit in self.units()]
        return pandas.DataFrame([row for part in parts for row in part]).astype(dict(self.types))

    def seconds(self, store: Store) -> dict[str, float]:
        """Return what each piece of work took in all parts together."""
        total: dict[str, float] = {}
        for unit in self.units():
            for name, value in store.done(unit).values["seconds"].items():
                total[name] = total.get(name, 0.0) + value
        return total

    @classmethod
    def scores(cls, rows: Table, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Return the methods' scores under each test of a run, the higher the better.

        Args:
            rows: the table of a finished run.
            plan: as it is in the record.

        Returns:
            A pandas series over methods, by the name of the test.
        """
        return {cls.name: rows.groupby("method", sort=False)["score"].mean()}

    def tables(self, rows: Table) -> dict[str, Table]:
        """Return what follows from the rows, by file name; ``ranking`` is one of them."""
        return {
            "ranking": statistics.ranking(rows, [], lambda key: True, "score"),
            "differences": statistics.differences(rows, [], "case", "score"),
        }

    def figures(self, tables: Mapping[str, Table], store: Store) -> dict[str, Figure]:
        """Draw the results, by file name."""
        return {"curves": ranking_dots(tables["ranking"], self.title)}

    def text(self, tables: Mapping[str, Table]) -> str:
        """Return the results for people."""
        lines = statistics.ranking_text(tables["ranking"], "score")
        return "\n".join([f"{self.title} (higher is better)", *lines])

    @property
    def left_out(self) -> int:
        """How many images could not be read, which makes the exit code 1; the others are done."""
        return 0

    def notes(self, store: Store) -> dict[str, Any]:
        """Return what the record says beside the plan."""
        return {}

    def unfinished(self, store: Store) -> str:
        """Return a line that says what is left."""
        return f"{len(self.missing(store))} of {len(self.units())} are left"


@dataclass(frozen=True, eq=False)
class Result:
    """Holds a run's results; ``str`` is what the command prints.

    Args:
        test: with its plan.
        folder: that holds the files.
        store: of the pieces of work.
        done: pieces that were done by this call.
        finished: whether all is done; else there are neither tables nor figures yet.
        known: whether all had been done before.
    """

    test: Test
    folder: Path
    store: Store
    done: int
    finished: bool
    known: bool = False

    @cached_property
    def rows(self) -> Table:
        """The table of everything that was measured."""
        return self.test.rows(self.store)

    @cached_property
    def tables(self) -> dict[str, Table]:
        """What follows from the rows, by name."""
        return self.test.tables(self.rows)

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """The pictures, by name; each is a figure of matplotlib's."""
        return self.test.figures(self.tables, self.store)

    @cached_property
    def record(self) -> dict[str, Any]:
        """What the file ``record.json`` says."""
        found: dict[str, Any] = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        return found

    def __str__(self) -> str:
        if not self.finished:
            return self.test.unfinished(self.store)
        return self.test.text(self.tables)


def run(
    test: Test,
    out: str | Path,
    *,
    store: str | Path | None = None,
    meter: Callable[[str], Meter] = Silent,
    say: Callable[[str], None] = print,
    command: Sequence[str] = (),
) -> Result:
    """Do what is not done of a test, and write its tables, figures and record.

    Args:
        test: prepared.
        out: results folder.
        store: folder of the finished pieces of work, which several results may share; None for
            ``stages`` in the results folder.
        meter: from a name of what is counted to a progress display.
        say: called with lines about damaged files and replaced results.
        command: how the run was asked for, for the record.

    Raises:
        FullGradError: a folder holds something else, or work had to stop; what is done is kept.
    """
    for package in ("pandas", "pyarrow", "scipy"):
        require(package, "bench")
    folder = Path(out)
    record = _record_of(folder, test.name)
    kept = Store(Path(store) if store else folder / STAGES, say)
    for remark in test.remarks():
        say(remark)
    left = test.missing(kept)
    values = test.plan.values()
    if record is not None:
        old = {"state": values["state"]} if "state" in values else {}  # older records have none
        before = {**old, **record["plan"]}
        same = before == values
        if same and record.get("code") == test.code and not left and _whole(folder, record):
            return Result(test, folder, kept, 0, finished=True, known=True)
        if not same and not test.replaces:
            raise StoreError(
                f"{printable(folder)} holds the results of another run "
                f"({_difference(before, values)}); give another folder, or the options of "
                "that run"
            )
        if not same:
            say(
                f"{printable(folder)} holds results of other options, which these replace; the "
                "stages of both are kept"
            )
        elif record.get("code") != test.code:
            say(f"{printable(folder)} holds results of other code of fullgrad; they are made again")
    if left:
        test.check()
    make_folder(folder)
    sweep(folder)
    done = test.work(kept, meter, say)
    finished = not test.missing(kept)
    result = Result(test, folder, kept, done, finished)
    if finished:
        _write(result, command)
    return result


def _record_of(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the record of the results that are in a folder.

    Raises:
        StoreError: the folder holds something else.
    """
    try:
        names = {p.name for p in folder.iterdir()} if folder.exists() else set()
        text = (folder / RECORD).read_text(encoding="utf-8") if RECORD in names else None
    except OSError as error:
        raise StoreError(f"{printable(folder)} cannot be read: {error.strerror}") from error
    if text is None:
        if {n for n in names if not n.endswith(".tmp")} - {STAGES}:
            raise StoreError(
                f"{printable(folder)} holds other files and no results; give an empty folder"
            )
        return None
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("experiment") != name:
        raise StoreError(
            f"{printable(folder)} holds the results of another experiment, or of an older version "
            "of fullgrad; give another folder"
        )
    return found


def _difference(before: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    names = [k for k in {**before, **plan} if before.get(k) != plan.get(k)]
    said = [f"{k}: {before.get(k)!r} there, {plan.get(k)!r} asked for" for k in names]
    return "; ".join(said)[:400]


def _whole(folder: Path, record: Mapping[str, Any]) -> bool:
    """Tell whether the files are those of the record: they are renamed one by one, it first."""
    try:
        found = {name: _sha256((folder / name).read_bytes()) for name in record.get("files", ())}
    except OSError:
        return False
    return bool(found) and found == record["files"]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(result: Result, command: Sequence[str]) -> None:
    test, rows = result.test, result.rows
    tables = {TABLE: rows, **result.tables}
    files = {f"{n}.csv": t.to_csv(index=False).encode() for n, t in tables.items()}
    with io.BytesIO() as file:
        rows.to_parquet(file, engine="pyarrow", index=False)
        files[f"{TABLE}.parquet"] = file.getvalue()
    files |= {f"{name}.png": png(figure) for name, figure in result.figures.items()}
    record = {
        "experiment": test.name,
        "plan": test.plan.values(),
        "code": test.code,
        **test.notes(result.store),
        "stages_done_now": result.done,
        "seconds": test.seconds(result.store),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "command": shlex.join(map(printable, command)),
        "files": {name: _sha256(content) for name, content in files.items()},
    }
    files = {RECORD: (json.dumps(record, indent=1) + "\n").encode(), **files}
    try:
        write_together(result.folder, files)
    except OSError as error:
        raise unwritable(result.folder, error) from error

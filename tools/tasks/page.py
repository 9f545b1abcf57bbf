"""Runs every task and writes docs/tasks.md.

python tools/tasks/page.py
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import task_other
import task_text
import task_vision
from fullgrad.errors import FullGradError
from task import DRAWS, Case, Outcome, Task, check, explained, version

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"
TASKS: tuple[Task, ...] = (*task_vision.TASKS, *task_text.TASKS, *task_other.TASKS)

HEAD = f"""# Which tasks can be explained?

    make tasks

Each row is a call on a small random model of the library that its users have, in float64. Two
oracles hold for each:

- **The independent sum.** All numbers of the map and what lies `elsewhere` sum to the value that the
  model alone returns. *Error*: the largest difference, relative to the sizes of all numbers.
- **The places.** Where back-propagation by hand finds a gradient, the map has a number; outside the
  box around all gradients, at the explained input and at {DRAWS} random ones, it has none. *Places*: those
  with a number, of all.

*Elsewhere* is the part of the value that has no place: what is computed from pooled or picked
numbers, or box by box. Where it is nearly all of the value, the map says little.
Models that compute their norms in
float32, whatever their precision, have larger errors.

"""

FOOT = """
**Beyond the table.** Models that are refused without an option are refused with one line that names
the module; the column says what helps, and the test of each row sees that the call without it raises.
Detectors, segmentation and the like are explained by a callable from the model's output to one number
for each sample: [targets](targets.md). Texts, images and sounds of transformers:
[the interface](cookbook/transformers.md).
"""


@dataclass(frozen=True)
class Row:
    """One task, and what came out."""

    task: Task
    case: Case
    outcome: Outcome


def run(task: Task) -> Row:
    """Explain one task, and see that it is refused without its options if it says so.

    Raises:
        AssertionError: an oracle fails, or the call without options is not refused as it says.
    """
    case = task.make()
    outcome = check(case)
    needed = bool(case.options)
    assert needed == bool(task.refused), f"{task.name}: options, and no refusal without them"
    said = _refusal(case) if needed else ""
    assert task.refused in said, f"{task.name}: without options: {said or 'not refused'}"
    return Row(task, case, outcome)


def _refusal(case: Case) -> str:
    try:
        explained(case)
    except FullGradError as error:
        return str(error)
    return ""


def line(row: Row) -> str:
    """The row of the table."""
    task, found = row.task, row.outcome
    works = "works with options" if row.case.options else "works"
    places = "; ".join(f"{n} of {total} {name}" for name, (n, total) in found.places.items())
    cells = (
        task.name,
        f"{task.library} {version(task.library)}",
        task.model,
        task.what,
        works,
        f"{found.value:+.4g}".replace("-", "−"),
        f"{found.elsewhere:+.4g}".replace("-", "−") if found.elsewhere else "0",
        f"{found.error:.0e}".replace("-", "−") if found.error else "0",
        places.replace("_", "\\_"),
        task.note or "",
    )
    return f"| {' | '.join(cells)} |"


def page(rows: Sequence[Row]) -> str:
    titles = (
        *("task", "library", "model", "explained", "result", "value", "of it elsewhere", "error"),
        *("places", "what the call must say"),
    )
    table = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}", *map(line, rows)]
    return HEAD + "\n".join(table) + "\n" + FOOT


def main() -> int:
    warnings.simplefilter("ignore")
    rows = []
    for task in TASKS:
        rows.append(run(task))
        print(line(rows[-1]), flush=True)
    PAGE.write_text(page(rows), encoding="utf-8")
    print(f"wrote {PAGE} with {len(rows)} tasks")
    return 0


if __name__ == "__main__":
    sys.exit(main())

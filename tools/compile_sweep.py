"""Compiled explanations of the benchmark's models against the eager ones.

    python tools/compile_sweep.py                     # resumes docs/data/compiling.jsonl
    python tools/compile_sweep.py resnet18 swin_t     # these models only
    python tools/compile_sweep.py --mode inductor resnet18

Each row compiles one model with one method for an example, then explains another batch with a target
for each sample, eagerly and compiled. It is stored as soon as it is known, and the table in
docs/compiled.md is written from all rows.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
RESULTS, PAGE = ROOT / "docs/data/compiling.jsonl", ROOT / "docs/compiled.md"
START, END = "<!-- sweep: start -->", "<!-- sweep: end -->"
METHODS = "fullgrad", "simple_fullgrad", "complete_fullgrad", "balanced_fullgrad"
TARGETS = (3, 999, 41)
LARGEST = 1e-5


def measured(name: str, method: str, mode: str) -> dict[str, Any]:
    """One row: the largest difference, relative to the largest number of the map."""
    import torch
    from benchmarks.subjects import SIZE, build

    import fullgrad

    work = build(name, len(TARGETS), SIZE, torch.float32, "cpu")
    row = {"model": name, "method": method, "mode": mode, "batch": len(TARGETS), "size": SIZE}
    row["torch"] = torch.__version__
    try:
        compiled: Any = fullgrad.compile(work.model, work.x, method=method, mode=mode)  # type: ignore[arg-type]
        other = torch.randn(work.x.shape, generator=torch.Generator().manual_seed(1))
        row["difference"] = compiled.verify(other, list(TARGETS), tolerance=float("inf"))
        row["residual"] = float(compiled(other, list(TARGETS)).residual.abs().max())
        row["graphs"], row["seconds"] = len(compiled.seconds), round(compiled.seconds[0], 1)
    except fullgrad.FullGradError as error:
        row["failed"] = str(error)
    return row


def key(row: dict[str, Any]) -> tuple[str, str, str]:
    """What tells a row from all others."""
    return row["model"], row["method"], row["mode"]


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows in Markdown, a line for each model and mode."""
    lines = [f"| model | mode | {' | '.join(METHODS)} |", "|---|---|" + "---:|" * len(METHODS)]
    cells = {key(row): row for row in rows}
    for model, mode in dict.fromkeys((row["model"], row["mode"]) for row in rows):
        found = [cells.get((model, method, mode)) for method in METHODS]
        lines.append(f"| {model} | {mode} | {' | '.join(map(_cell, found))} |")
    return lines


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not run"
    return "refused" if "failed" in row else f"{row['difference']:.0e}".replace("0e+00", "0")


def stored() -> list[dict[str, Any]]:
    """The rows on disk."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return [json.loads(line) for line in lines]


def write_page(rows: list[dict[str, Any]]) -> None:
    """Put the table between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(END)[1]
    PAGE.write_text("\n".join([before + START, *table(rows), END]) + after, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Run what is missing.

    Args:
        argv: arguments; by default those of the process.

    Returns:
        0: every row is within 1e-5; 1: at least one is not, or was refused.
    """
    from benchmarks.subjects import COMPARED

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(COMPARED), metavar="MODEL")
    parser.add_argument("--mode", choices=("graph", "inductor"), default="graph")
    options = parser.parse_args(argv)
    unknown = [name for name in options.models if name not in COMPARED]
    if unknown:
        parser.error(f"unknown model {', '.join(unknown)}; known: {', '.join(COMPARED)}")
    rows = stored()
    done = {key(row) for row in rows}
    for name in options.models:
        for method in METHODS:
            if (name, method, options.mode) in done:
                continue
            row = measured(name, method, options.mode)
            rows.append(row)
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
            gc.collect()
    write_page(rows)
    return 0 if all(row.get("difference", 1.0) <= LARGEST for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

"""``fullgrad bench agreement``."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from fullgrad._files import check_folder, make_folder, printable, write_together
from fullgrad.cli.main import DONE
from fullgrad.evaluation.agreement import Agreement, agreement


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        "Ranks methods under each test (order, fill) of several runs, gives the rank correlation\n"
        "of the tests, and says where they disagree."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="results folders")
    text = "folder for agreement.md, ranks.csv and correlations.csv (default: print only)"
    parser.add_argument("--out", type=Path, metavar="DIR", help=text)


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say.

    Returns:
        The exit code.

    Raises:
        FullGradError: nothing was done.
    """
    if args.out is not None:
        check_folder(args.out)
    found = agreement(args.runs)
    text = as_markdown(found)
    if args.out is not None:
        make_folder(args.out)
        write_together(
            args.out,
            {
                "agreement.md": text.encode(),
                "ranks.csv": found.ranks.to_csv().encode(),
                "correlations.csv": found.correlations.to_csv(index=False).encode(),
            },
        )
        print(f"-> {printable(args.out)}\n")
    print(text, end="")
    return DONE


def as_markdown(found: Agreement) -> str:
    """Ranks, correlations and cautions."""
    tests = list(found.ranks.columns)
    short = {test: chr(ord("A") + i) if i < 26 else f"T{i}" for i, test in enumerate(tests)}
    lines = ["# Do the tests agree?", ""]
    lines += [f"- **{short[test]}**: {test}" for test in tests]
    lines += ["", "Ranks (1 is best):", ""]
    lines += ["| method | " + " | ".join(short.values()) + " |"]
    lines += ["|---|" + "---:|" * len(tests)]
    ordered = found.ranks.astype("Float64").mean(axis=1).sort_values(kind="stable").index
    for method in ordered:
        cells = ["–" if r is None else str(int(r)) for r in _row(found, method)]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines += ["", "Spearman's rank correlation of the tests:", ""]
    lines += ["| | " + " | ".join(short.values()) + " |", "|---|" + "---:|" * len(tests)]
    known = {
        frozenset((r["first"], r["second"])): r["correlation"]
        for _, r in found.correlations.iterrows()
    }
    for a in tests:
        cells = []
        for b in tests:
            value = 1.0 if a == b else known[frozenset((a, b))]
            cells.append("–" if value is None or math.isnan(value) else f"{value:+.2f}")
        lines.append(f"| **{short[a]}** | " + " | ".join(cells) + " |")
    lines += ["", *(f"- {caution}" for caution in found.cautions)]
    return "\n".join(lines) + "\n"


def _row(found: Agreement, method: str) -> list[float | None]:
    return [None if v is None or str(v) == "<NA>" else float(v) for v in found.ranks.loc[method]]

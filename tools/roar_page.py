"""Puts the tables and pictures of a finished remove-and-retrain run into docs/roar.md.

python tools/roar_page.py runs/roar-cifar100
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
PAGE, NAME = ROOT / "docs" / "roar.md", "roar-cifar100"
START, END = "<!-- roar cifar100: start -->", "<!-- roar cifar100: end -->"
REFERENCE = "fullgrad"


def table(folder: Path) -> str:
    """Accuracies, areas, and what the masks alone tell, the lowest area first."""
    summary, ranking = (pd.read_csv(folder / f"{n}.csv") for n in ("summary", "ranking"))
    fractions = sorted(f for f in summary["fraction"].unique() if f > 0)
    images = summary[summary["input"] == "images"].set_index(["method", "fraction"])
    masks = summary[summary["input"] == "masks"].set_index(["method", "fraction"])["accuracy"]
    shares = [f"{f:.0%}" for f in fractions]
    head = [
        "method",
        *(f"{s} removed" for s in shares),
        "area",
        f"masks alone, {', '.join(shares)}",
    ]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for own in ranking.itertuples():
        cells = [_interval(images.loc[(own.method, f)]) for f in fractions]
        leak = ", ".join(f"{masks[own.method, f]:.3f}" for f in fractions)
        area = f"{own.area:.4f} [{own.low:.4f}, {own.high:.4f}]"
        cells += [area + _sign(folder, own.method), leak]
        lines.append(f"| {own.method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _interval(row: pd.Series) -> str:
    return f"{row['accuracy']:.3f} ± {(row['high'] - row['low']) / 2:.3f}"


def _sign(folder: Path, method: str) -> str:
    """Whether a method's area is above or below FullGrad's, beyond the interval."""
    found = pd.read_csv(folder / "differences.csv")
    for d in found.itertuples():
        if {d.first, d.second} == {method, REFERENCE} and d.differ:
            return " ▲" if (d.difference < 0) == (d.first == REFERENCE) else " ▼"
    return ""


def _wrapped(command: str) -> str:
    """A command over several lines, broken where an option begins, or between its values."""
    lines = [""]
    for word in command.split():
        if lines[-1] and len(lines[-1]) + len(word) > 88:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n".join(("        " if i else "    ") + line for i, line in enumerate(lines))


def page(folder: Path) -> str:
    """What stands between the marks."""
    record = json.loads((folder / "record.json").read_text())
    plan, seconds = record["plan"], record["seconds"]
    summary = pd.read_csv(folder / "summary.csv")
    whole = summary[summary["method"] == "none"].iloc[0]
    maps = sum(v for k, v in seconds.items() if k != "networks")
    networks = len(pd.read_csv(folder / "results.csv"))
    versions = record["versions"]
    return "\n\n".join(
        [
            _wrapped(record["command"]),
            f"{plan['counts'][0]:,} of the 50,000 training images and {plan['counts'][1]:,} of the "
            f"10,000 for testing, equally many of each of {plan['network']['classes']} classes; the "
            f"nine layers with {plan['network']['width']} channels in the first, not 64; "
            f"{plan['training']['epochs']} epochs; {plan['runs']} runs. {networks} networks took "
            f"{seconds['networks'] / 3600:.2f} hours of one core and the maps {maps / 60:.0f} minutes"
            f" (torch {versions['torch']}, CPU). Test accuracy without removal: "
            f"{_interval(whole)}; chance is {record['chance']:g}.",
            table(folder),
            "Means over runs, ± half of Student's 95 % interval. ▲ worse, ▼ better than `fullgrad`, "
            "where the interval of the paired difference leaves out zero.",
            f"![Accuracy curves and leakage](images/{NAME}-curves.png)",
            f"![What the retrained networks see](images/{NAME}-examples.png)",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    text = PAGE.read_text(encoding="utf-8")
    before, found, rest = text.partition(START)
    if not found or END not in rest:
        print(f"{PAGE} has no marks for a table", file=sys.stderr)
        return 2
    kept = ROOT / "docs" / "data" / NAME
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("results.csv", "summary.csv", "ranking.csv", "differences.csv", "record.json"):
        shutil.copy(folder / name, kept / name)
    for name in ("curves", "examples"):
        shutil.copy(folder / f"{name}.png", ROOT / "docs" / "images" / f"{NAME}-{name}.png")
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n{page(folder)}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

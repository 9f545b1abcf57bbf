"""Puts the tables and figures of finished pixel-perturbation runs into docs/pixel-perturbation.md.

python tools/perturbation_page.py imagenet=runs/imagenet relu-cnn=runs/relu-cnn
python tools/perturbation_page.py imagenet=docs/data/perturbation-imagenet   # from what is kept
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pandas as pd

from fullgrad.viz.curves import perturbation_curves

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "pixel-perturbation.md"
REFERENCE = "fullgrad"


def table(folder: Path) -> str:
    """Methods by their area under both orders, and whether they differ from FullGrad."""
    ranking = pd.read_csv(folder / "ranking.csv")
    differences = pd.read_csv(folder / "differences.csv")
    tests = list(dict.fromkeys(zip(ranking["order"], ranking["fill"], strict=True)))
    head = ["method", *(f"{order} first, {fill}" for order, fill in tests)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * len(tests)]
    by_test = {t: ranking[(ranking["order"] == t[0]) & (ranking["fill"] == t[1])] for t in tests}
    for method in by_test[tests[0]]["method"]:
        cells = []
        for test in tests:
            own = by_test[test].set_index("method").loc[method]
            text = f"{own['area']:.4f} [{own['low']:.4f}, {own['high']:.4f}]"
            cells.append(text + _sign(differences, test, method))
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _sign(differences: pd.DataFrame, test: tuple[str, str], method: str) -> str:
    """Whether a method's area is above or below FullGrad's, beyond the interval."""
    if method == REFERENCE:
        return ""
    d = differences[(differences["order"] == test[0]) & (differences["fill"] == test[1])]
    one = d[(d["first"] == REFERENCE) & (d["second"] == method)]
    other = d[(d["first"] == method) & (d["second"] == REFERENCE)]
    row, flip = (one.iloc[0], 1) if len(one) else (other.iloc[0], -1)
    if not row["differ"]:
        return " ="
    return " ▼" if flip * row["difference"] > 0 else " ▲"


def fractions(folder: Path, order: str) -> str:
    """The curve as numbers: mean change at each fraction."""
    summary = pd.read_csv(folder / "summary.csv")
    part = summary[(summary["order"] == order) & (summary["fill"] == "black")]
    wide = part.pivot_table(
        index="method", columns="fraction", values="relative_change", sort=False
    )
    lines = ["| method | " + " | ".join(f"{100 * f:.3g} %" for f in wide.columns) + " |"]
    lines += ["|---|" + "---:|" * len(wide.columns)]
    for method, row in wide.sort_values(wide.columns[-1]).iterrows():
        lines.append(f"| {method} | " + " | ".join(f"{v:.4f}" for v in row) + " |")
    return "\n".join(lines)


def cost(folder: Path) -> str:
    """Images per minute of each method, maps and perturbation together."""
    record = json.loads((folder / "record.json").read_text())
    each = sorted(record["images_per_minute"].items(), key=lambda x: -x[1])
    lines = ["| method | images per minute | maps, s per image |", "|---|---:|---:|"]
    count = record["plan"]["count"]
    for method, rate in each:
        seconds = record["seconds"][f"maps {method}"] / count
        lines.append(f"| {method} | {rate:.0f} | {seconds:.2f} |")
    return "\n".join(lines)


def facts(folder: Path) -> str:
    """What was run, on what, with what."""
    record = json.loads((folder / "record.json").read_text())
    v, plan = record["versions"], record["plan"]
    return (
        f"`{record['command']}`\n\n{plan['count']} images, {len(record['excluded'])} excluded; "
        f"weights: {plan['weights']}; torch {v['torch']}, Python {v['python']}, "
        f"{record['threads']} thread(s) on {record['device']}."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="NAME=FOLDER")
    args = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    for run in args.runs:
        name, _, place = run.partition("=")
        folder = Path(place)
        parts = {
            "facts": facts(folder),
            "table": table(folder),
            "fractions": fractions(folder, "least"),
            "cost": cost(folder),
        }
        for part, content in parts.items():
            start, end = f"<!-- {name} {part}: start -->", f"<!-- {name} {part}: end -->"
            if start in text:
                before, rest = text.split(start)
                text = f"{before}{start}\n{content}\n{end}{rest.split(end)[1]}"
        record = json.loads((folder / "record.json").read_text())
        note = f"{record['plan']['count']} images, {record['plan']['model']}."
        figure = perturbation_curves(pd.read_csv(folder / "summary.csv"), note)
        figure.savefig(ROOT / "docs" / "images" / f"perturbation-{name}.png")
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

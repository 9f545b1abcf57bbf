"""One table of relevance gains from several runs of ``fullgrad evaluate``: methods by networks.

    python tools/evidence/table.py RUN... [--setting "mean, cells of"]

Each RUN is a results folder or a ``ranking.csv``. A cell holds the mean and the verdict's mark:
``*`` first, ``=`` tied, ``<`` behind, ``?`` not shown.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from fullgrad.evaluation.tests.evaluate.words import MARKS


def rankings(runs: list[Path]) -> Any:
    """Return the rankings of all runs as one table; the networks' names without files."""
    files = [run / "ranking.csv" if run.is_dir() else run for run in runs]
    table = pd.concat([pd.read_csv(file) for file in files], ignore_index=True)
    table["model"] = table["model"].str.rpartition(":")[2]
    table["method"] = table["method"].str.replace(r":(cell|of|samples)=.*", "", regex=True)
    return table


def lines(table: Any, setting: str) -> list[str]:
    """Return a Markdown table of one setting, the methods by their mean rank.

    Args:
        table: of :func:`rankings`.
        setting: the beginning of its name.
    """
    chosen = table[table["setting"].str.startswith(setting)]
    models = list(dict.fromkeys(chosen["model"]))
    ranks = chosen.groupby("method")["rank"].mean().sort_values()
    found = ["| method | " + " | ".join(models) + " |", "|---" + "|---:" * len(models) + "|"]
    for method in ranks.index:
        cells = []
        for model in models:
            row = chosen[(chosen["model"] == model) & (chosen["method"] == method)]
            if len(row):
                mean, verdict = row["mean"].iloc[0], row["verdict"].iloc[0]
                mark = MARKS[verdict]
                cells.append(f"**{mean:.2f}** {mark}" if mark in "*=" else f"{mean:.2f} {mark}")
            else:
                cells.append("–")
        found.append(f"| `{method}` | " + " | ".join(cells) + " |")
    counts = chosen.groupby("model", sort=False)["images"].first().astype(str)
    return [*found, "| *images* | " + " | ".join(counts[m] for m in models) + " |"]


def main() -> None:
    """Print the table of each setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--setting", nargs="+", default=["mean", "blur"])
    args = parser.parse_args()
    table = rankings(args.runs)
    for setting in args.setting:
        print(f"\n{setting}\n")
        print("\n".join(lines(table, setting)))


if __name__ == "__main__":
    main()

"""Puts the tables and pictures of finished remove-and-retrain runs into docs/roar.md.

    python tools/roar_page.py runs/roar-cifar100
    python tools/roar_page.py docs/data/roar-cifar100 runs/more    # a method that was added later

Several runs are joined where their settings are equal and so are their networks without removal, in
every digit: the explained one, and all others that a further run has. Others are refused. Each method
comes from one run alone.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fullgrad.evaluation.tests.remove_and_retrain import tables
from fullgrad.evaluation.tests.remove_and_retrain.figures import roar_curves
from fullgrad.viz.overlay import png

ROOT = Path(__file__).resolve().parents[1]
NAME = "roar-cifar100"
START, END = "<!-- roar cifar100: start -->", "<!-- roar cifar100: end -->"
REFERENCE, WHOLE = "fullgrad", "none"
_SAME = ["run", "accuracy", "loss", "seed"]
_SINCE = {"optimizer": "sgd", "clip": 0.0}  # of training: not in older records, and what it was


class RunsDifferError(ValueError):
    """Runs that cannot stand in one table."""


@dataclass(frozen=True, eq=False)
class Runs:
    """One or several runs with equal settings.

    Args:
        results: one row for each network.
        records: of the runs, in their order.
    """

    results: pd.DataFrame
    records: tuple[dict[str, Any], ...]

    @property
    def order(self) -> str:
        """Whether the most or the least salient pixels are removed."""
        return str(self.records[0]["plan"]["order"])

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """What follows from the rows, by file name."""
        return {
            "results": self.results,
            "summary": tables.summary(self.results),
            "ranking": tables.ranking(self.results, self.order),
            "differences": tables.differences(self.results),
        }


def joined(folders: list[Path]) -> Runs:
    """Read runs and join them.

    Raises:
        RunsDifferError: settings or networks without removal differ, or two have a method.
    """
    results: list[pd.DataFrame] = []
    records: list[dict[str, Any]] = []
    for folder in folders:
        own = pd.read_csv(folder / "results.csv")
        paths = sorted(folder.glob("record*.json"), key=lambda p: (len(p.name), p.name))
        found = [json.loads(p.read_text(encoding="utf-8")) for p in paths]
        found[0].setdefault("networks", len(own))  # records of joined runs have it
        if results:
            _check(folder, own, found[0]["plan"], results[0], records[0]["plan"])
            twice = sorted(set(own["method"]) & set(pd.concat(results)["method"]) - {WHOLE})
            if twice:
                raise RunsDifferError(f"{folder}: another run has {', '.join(twice)} already")
            own = own[own["method"] != WHOLE]
        results.append(own)
        records += found
    return Runs(pd.concat(results, ignore_index=True), tuple(records))


def _check(folder: Path, own: Any, plan: Any, first: Any, asked: Any) -> None:
    """Refuse a run that differs from the first one in more than its methods."""
    plan, asked = ({**p, "training": _SINCE | p["training"]} for p in (plan, asked))
    other = [k for k in asked if k != "choices" and plan.get(k) != asked[k]]
    if other:
        said = "; ".join(f"{k}: {asked[k]} and {plan.get(k)}" for k in other)
        raise RunsDifferError(f"{folder}: other settings than the first run's ({said})")
    ours, theirs = (
        {tuple(row) for row in t.loc[t["method"] == WHOLE, _SAME].to_numpy().tolist()}
        for t in (own, first)
    )
    if not ours <= theirs or not any(row[0] == 0 for row in ours):  # run 0 is explained
        raise RunsDifferError(
            f"{folder}: its networks without removal are not those of the first run, so that its "
            "methods explained another network"
        )


def table(runs: Runs) -> str:
    """Accuracies, areas, and what the masks alone tell, the lowest area first."""
    found = runs.tables
    summary, ranking = found["summary"], found["ranking"]
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
        cells += [area + _sign(found["differences"], own.method), leak]
        lines.append(f"| {own.method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _interval(row: pd.Series) -> str:
    return f"{row['accuracy']:.3f} ± {(row['high'] - row['low']) / 2:.3f}"


def _sign(differences: pd.DataFrame, method: str) -> str:
    """Whether a method's area is above or below FullGrad's, beyond the interval."""
    for d in differences.itertuples():
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


def page(runs: Runs) -> str:
    """What stands between the marks."""
    record = runs.records[0]
    plan = record["plan"]
    summary = runs.tables["summary"]
    whole = summary[summary["method"] == WHOLE].iloc[0]
    spent = [(k == "networks", v) for r in runs.records for k, v in r["seconds"].items()]
    networks, maps = (sum(v for k, v in spent if k is of) for of in (True, False))
    versions = ", ".join(dict.fromkeys(r["versions"]["torch"] for r in runs.records))
    trained = sum(r["networks"] for r in runs.records)
    parts = [
        *(_wrapped(r["command"]) for r in runs.records),
        f"{plan['counts'][0]:,} of the 50,000 training images and {plan['counts'][1]:,} of the "
        f"10,000 for testing, equally many of each of {plan['network']['classes']} classes; the "
        f"nine layers with {plan['network']['width']} channels in the first, not 64; "
        f"{plan['training']['epochs']} epochs; {plan['runs']} runs. {trained} networks took "
        f"{networks / 3600:.2f} hours of one core and the maps {maps / 60:.0f} minutes"
        f" (torch {versions}, CPU). Test accuracy without removal: "
        f"{_interval(whole)}; chance is {record['chance']:g}.",
        table(runs),
        "Means over runs, ± half of Student's 95 % interval. ▲ worse, ▼ better than `fullgrad`, "
        "where the interval of the paired difference leaves out zero.",
        f"![Accuracy curves and leakage](images/{NAME}-curves.png)",
        *(
            f"![What the retrained networks see](images/{NAME}-examples{_number(i)}.png)"
            for i in range(len(runs.records))
        ),
    ]
    if len(runs.records) > 1:
        parts.insert(
            len(runs.records),
            "(Each command is a run of its own. Settings are equal, and the networks without removal "
            "are equal in every digit, so the methods explain one network.)",
        )
    return "\n\n".join(parts)


def _number(place: int) -> str:
    """What tells the files of a further run apart."""
    return f"-{place + 1}" if place else ""


def write(folders: list[Path], docs: Path) -> None:
    """Join runs; write tables and records, pictures, and the part of the page.

    Args:
        folders: of the runs; the first may be the stored one.
        docs: the folder with ``roar.md``.

    Raises:
        RunsDifferError: they cannot be joined, or the page has no marks; nothing is written.
    """
    runs = joined(folders)
    counts = [len(list(folder.glob("record*.json"))) for folder in folders]
    places = [sum(counts[:i]) for i in range(len(counts))]
    text = (docs / "roar.md").read_text(encoding="utf-8")
    before, found, rest = text.partition(START)
    if not found or END not in rest:
        raise RunsDifferError(f"{docs / 'roar.md'} has no marks for a table")
    kept, images = docs / "data" / NAME, docs / "images"
    for folder in (kept, images):
        folder.mkdir(parents=True, exist_ok=True)
    for name, made in runs.tables.items():
        buffer = io.StringIO()
        made.to_csv(buffer, index=False)
        (kept / f"{name}.csv").write_text(buffer.getvalue(), encoding="utf-8")
    first = runs.records[0]
    for place, record in enumerate(runs.records):
        own = {k: v for k, v in record.items() if k != "files"}
        path = kept / f"record{_number(place)}.json"
        path.write_text(json.dumps(own, indent=1) + "\n", encoding="utf-8")
    curves = roar_curves(
        runs.tables["summary"], runs.order, first["chance"], runs.records[-1]["caveats"]
    )
    (images / f"{NAME}-curves.png").write_bytes(png(curves))
    for folder, place in zip(folders, places, strict=True):
        if (folder / "examples.png").exists():
            shutil.copy(folder / "examples.png", images / f"{NAME}-examples{_number(place)}.png")
    after = rest.partition(END)[2]
    made = f"{before}{START}\n{page(runs)}\n{END}{after}"
    (docs / "roar.md").write_text(made, encoding="utf-8")


def main() -> int:
    """Join, write, and say what does not fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="+")
    try:
        write(parser.parse_args().folder, ROOT / "docs")
    except (RunsDifferError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

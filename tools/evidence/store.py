"""Keep runs of ``fullgrad evaluate`` under docs/data/evidence: scores, ranking, record.

    python tools/evidence/store.py NAME=RUN... [--joined NAME=STORED+STORED...]

RUN is a results folder. Paths of this machine are cut to what a reader can use: images to their names,
folders to their last component. ``--joined`` ranks the scores of several stored runs on the same images
as one run, as when a method was added later.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from fullgrad.evaluation.tests.evaluate.verdicts import ranking

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "docs" / "data" / "evidence"
_PATH = re.compile(r"(?<![\w./])/(?:[^/\s\",]+/)+")


def plain(text: str) -> str:
    """Return a text in which absolute folders are cut to their last component."""

    def short(found: re.Match[str]) -> str:
        parts = found[0].strip("/").split("/")
        for known in ("tools", "imagenet-sample"):
            if known in parts:
                return "/".join(parts[parts.index(known) :]) + "/"
        return parts[-1] + "/" if parts[-1] in ("halves",) else "runs/"

    return _PATH.sub(short, text)


def keep(run: Path, name: str) -> None:
    """Store one run's tables and record."""
    rows = pd.read_parquet(run / "results.parquet")
    rows = rows.drop(columns=[c for c in ("least", "most") if c in rows])
    rows["model"] = rows["model"].map(plain)
    rows["case"] = rows["case"].str.replace(r".*/(?=[^/]+/[^/]+$)", "", regex=True)
    rows["case"] = rows["case"].str.replace(r"^imagenet-sample/", "", regex=True)
    for column in ("value", "scale"):
        rows[column] = rows[column].astype("float32")
    rows.to_parquet(DATA / f"{name}.parquet", index=False, compression="zstd")
    table = pd.read_csv(run / "ranking.csv")
    table["model"] = table["model"].map(plain)
    table.to_csv(DATA / f"{name}-ranking.csv", index=False)
    record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    record.pop("files", None)
    text = plain(json.dumps(record, indent=1, ensure_ascii=False))
    (DATA / f"{name}-record.json").write_text(text + "\n", encoding="utf-8")


def joined(names: list[str]) -> Any:
    """Return the ranking of several stored runs' methods, over the images that all have."""
    rows = pd.concat([pd.read_parquet(DATA / f"{n}.parquet") for n in names], ignore_index=True)
    return ranking(rows.drop_duplicates(["model", "test", "setting", "method", "run", "case"]))


def main() -> None:
    """Store runs, then join."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--joined", nargs="*", default=[])
    args = parser.parse_args()
    DATA.mkdir(parents=True, exist_ok=True)
    for each in args.runs:
        name, _, run = each.partition("=")
        keep(Path(run), name)
    for each in args.joined:
        name, _, parts = each.partition("=")
        joined(parts.split("+")).to_csv(DATA / f"{name}-ranking.csv", index=False)


if __name__ == "__main__":
    main()

"""Split the images into a tuning and a held half, as CSV files for ``--images``.

    python tools/evidence/halves.py OUT

ImageNet: ``FULLGRAD_SHARED/data/imagenet-sample/labels.csv``, in its order; every second of the first
400 tunes, the other 300 are held. CIFAR-100: the test images of the ten classes of
``tools/training.py`` in the order of ``torch.randperm`` with seed 0; the first 300 tune, numbers 400
to 799 are held, of which a run with ``--limit 300`` takes the first 300; numbers 700 to 999 are held for
a second report (``cifar-second.csv``). The 60 to 100 images of earlier trials are among those that tune.
``cifar-third.csv``: of ten other classes (``other_classes.py``), in the same order, the first 300; for the
third report, on networks that were trained on these classes.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from other_classes import CLASSES as OTHER
from small_models import CACHE
from training import CLASSES, ROOT, image_folder

Row = tuple[str, str]


def imagenet() -> tuple[list[Row], list[Row]]:
    """Return the ImageNet images that tune and those that are held: file and class."""
    shared = Path(os.environ.get("FULLGRAD_SHARED") or ROOT.parent / "shared").resolve()
    folder = shared / "data" / "imagenet-sample"
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = [(str(folder / r["file"]), r["class_index"]) for r in csv.DictReader(file)]
    tuning = set(range(0, 400, 2))
    parts: tuple[list[Row], list[Row]] = ([], [])
    for i, row in enumerate(rows):
        parts[i not in tuning].append(row)
    return parts


def cifar(classes: Sequence[str]) -> list[Row]:
    """Return the test images of some classes of CIFAR-100 in a drawn order: file and class."""
    test = image_folder(None, CACHE) / "test"
    rows = [(str(p), str(c)) for c, k in enumerate(classes) for p in sorted((test / k).iterdir())]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    return [rows[i] for i in order]


def main() -> None:
    """Write six files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    own, other = cifar(CLASSES), cifar(OTHER)
    parts = dict(zip(("imagenet-tuning", "imagenet-held"), imagenet(), strict=True))
    parts |= {"cifar-tuning": own[:300], "cifar-held": own[400:800], "cifar-second": own[700:]}
    parts |= {"cifar-third": other[:300]}
    for name, rows in parts.items():
        with (out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("file", "class_index"), *rows])
        print(f"{name}.csv: {len(rows)} images")


if __name__ == "__main__":
    main()

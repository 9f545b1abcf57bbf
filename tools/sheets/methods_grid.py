"""Every method, or some, on several photographs: one network, or networks one below another."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from fullgrad import methods
from fullgrad.errors import FullGradError
from fullgrad.maps.regions import pooled
from fullgrad.vision import models
from fullgrad.vision.images import display_image, preprocess
from fullgrad.viz import colors, normalize
from fullgrad.viz.overlay import HIGH, LOW, Array
from sheets.contact_sheet import LARGE, NOT_APPLICABLE, SMALL, Line, grid, photo, small, squares
from sheets.explained import CELLS_OF_224, photograph, predicted

CONTROLS = ("random", "random_blobs", "random_phase", "contrast", "center", "sobel")
# The rows of the README's picture: they differ from each other, and begin with the paper's map.
FEW = (
    *("fullgrad", "smooth_fullgrad", "path_fullgrad", "complete_fullgrad"),
    *("integrated_gradients", "grad_cam"),
)
RULE = (
    f"Maps of sizes: of each map its {LOW:g} % percentile and all below is “least”, its {HIGH:g} % "
    "percentile and all above is “most”."
)
SIGNED_RULE = (
    f"“for” and “against” are the {HIGH:g} % percentile of its cells' sizes, zero has no color."
)
# Networks whose ImageNet weights a package installs, and what is drawn of them.
NETWORKS = {
    "efficientnet_lite0": "EfficientNet-Lite0",
    "efficientnet_lite1": "EfficientNet-Lite1",
    "efficientnet_lite2": "EfficientNet-Lite2",
}
FOUR = ("chelsea", "coffee", "rocket", "stereo_motorcycle")
THREE = ("fullgrad", "path_fullgrad", "grad_cam")


def sums(name: str) -> bool:
    """Whether a method's map has signs and sums to the output, and is drawn in cells."""
    return methods.get(name).complete


def ordered(names: Iterable[str]) -> list[str]:
    """FullGrad and its variants first, the controls that know nothing of the model last."""

    def rank(name: str) -> int:
        if name in CONTROLS:
            return 3
        return 1 if sums(name) else 0 if "fullgrad" in name else 2

    return sorted(names, key=rank)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Every method on every photograph.

    Args:
        heads: what the model says of each photograph.
        photographs: as the model sees them.
        maps: by method, a picture for each photograph, or words where it refused.
        record: predictions, seconds, and the reasons of methods that refused.
    """

    heads: list[str]
    photographs: list[Array]
    maps: dict[str, list[Array | str]]
    record: dict[str, Any]


def all_methods(
    loaded: models.LoadedModel,
    photographs: Iterable[str],
    names: Sequence[str],
    pixels: int = SMALL,
) -> Drawn:
    """Every method on every photograph, for the class that the model predicts.

    Args:
        loaded: the model.
        photographs: names of functions of ``skimage.data``.
        names: of methods.
        pixels: a side of a picture.
    """
    assert loaded.class_names is not None
    heads: list[str] = []
    views: list[Array] = []
    maps: dict[str, list[Array | str]] = {name: [] for name in names}
    rows: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    seconds = dict.fromkeys(names, 0.0)
    for name in photographs:
        image = photograph(name)
        x = preprocess(image, loaded.preprocessing)[None]
        logits, best = predicted(loaded.module, x)
        views.append(photo(display_image(image, loaded.preprocessing), pixels))
        for method in names:
            start = time.monotonic()
            signed = sums(method)
            try:
                found = methods.attribute(method, loaded.module, x, best, signed=signed)
                if signed:
                    cells = pooled(found, [side // CELLS_OF_224 for side in x.shape[-2:]])
                    maps[method].append(squares(cells[0, 0].double().numpy(), pixels))
                else:
                    maps[method].append(colors(small(normalize(found), pixels)))
            except FullGradError as error:
                maps[method].append(NOT_APPLICABLE)
                reasons.setdefault(method, str(error))
            seconds[method] += time.monotonic() - start
        label, share = loaded.class_names[best], float(logits.softmax(0)[best])
        rows[name] = {"prediction": label, "probability": share}
        heads.append(f"{label}, {share:.0%}")
        print(f"{name}: {label}, {share:.0%}", flush=True)
    mean = {method: round(total / len(views), 3) for method, total in seconds.items()}
    record = {"photographs": rows, "seconds": mean, "does_not_apply": reasons}
    return Drawn(heads, views, maps, record)


def methods_sheet(drawn: Drawn, names: Sequence[str], title: str, repeat: int = 7) -> Figure:
    """A row for each method that applies to some photograph, the photographs above them."""
    lines = [Line("photograph", "", tuple(drawn.photographs))]
    refused = []
    for name in names:
        cells = drawn.maps[name]
        if all(isinstance(cell, str) for cell in cells):
            refused.append(name)
        else:
            lines.append(Line(name, "signed" if sums(name) else "", tuple(cells)))
    rule = (
        f"{RULE} Signed maps: {SIGNED_RULE} Cells have {CELLS_OF_224} pixels of 224. Every map "
        "explains the class above it, which the model predicts."
    )
    if refused:
        rule += f" {len(refused)} methods do not apply to this model: {', '.join(refused)}."
    return grid(drawn.heads, lines, rule, title=title, cell=SMALL, beside=True, repeat=repeat)


def networks_sheet(networks: Sequence[tuple[str, Drawn]], names: Sequence[str]) -> Figure:
    """Photographs, and below them the maps of each network with what it says.

    Args:
        networks: a title, and its maps at the size of large cells.
        names: of the methods.
    """
    lines = [Line("photograph", "", tuple(networks[0][1].photographs))]
    for title, drawn in networks:
        for place, name in enumerate(names):
            notes = tuple(drawn.heads) if place == len(names) - 1 else ()
            signed = "\nsigned" if sums(name) else ""
            lines.append(Line(name, f"{title}{signed}", tuple(drawn.maps[name]), notes=notes))
    rule = (
        f"Below each network's maps: what it says, which the maps explain. {RULE} Signed maps: "
        f"{SIGNED_RULE} Their cells have {CELLS_OF_224} pixels, on an input of 224 to 260."
    )
    heads = [""] * len(networks[0][1].photographs)
    title = "Four photographs, three networks with ImageNet weights"
    return grid(heads, lines, rule, title=title, cell=LARGE, beside=True, repeat=len(lines))

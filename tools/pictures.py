"""docs/pictures.md's images: photographs that come with scikit-image, and the default model.

    python tools/pictures.py                    # all of them, into docs/images/
    python tools/pictures.py --only sheet maps --out pictures

Every picture is made by the call or the command that docs/pictures.md shows beside it.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

import fullgrad
from fullgrad.cli.main import DONE
from fullgrad.cli.main import main as command
from fullgrad.decomposition.result import Decomposition
from fullgrad.vision.images import display_image, preprocess, read_photograph
from fullgrad.vision.models import LoadedModel, load_model
from fullgrad.viz.contour import contour_picture
from fullgrad.viz.heatmap import heatmap
from fullgrad.viz.layers import layer_strip, layers_of
from fullgrad.viz.style import saved
from fullgrad.viz.waterfall import waterfall, waterfall_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OUT = Path(__file__).parents[1] / "docs" / "images"
LARGEST = 1_200_000  # bytes of a picture
WIDEST, LEVELS = 1300, 64
# File names, and the functions of skimage.data whose photographs lie in its wheel.
PHOTOGRAPHS = {
    "cat": "chelsea",
    "coffee": "coffee",
    "rocket": "rocket",
    "photographer": "camera",
    "motorcycle": "stereo_motorcycle",
    "astronaut": "astronaut",
}
COMPARED = ("cat", "coffee", "rocket")
COMPARED_METHODS = ("input_gradient", "smoothgrad", "grad_cam", "fullgrad", "path_fullgrad")
SHEET_METHODS = (
    "fullgrad",
    "smooth_fullgrad",
    "path_fullgrad",
    "input_gradient",
    "integrated_gradients",
    "smoothgrad",
    "grad_cam",
    "sobel",
)
WHY = "cat"  # the paper's map, the one to begin with, and the usual one
WHY_METHODS = ("fullgrad", "combined_fullgrad", "grad_cam")
SHOWN = "coffee"  # in the pictures of one photograph
DEPTH = 2  # the model's first stage of modules holds nearly everything in 'blocks'

Maker: TypeAlias = Callable[[Path], bytes]


def write_photographs(folder: Path) -> None:
    """The photographs as PNG files."""
    from skimage import data

    for name, function in PHOTOGRAPHS.items():
        pixels = getattr(data, function)()
        pixels = pixels[0] if isinstance(pixels, tuple) else pixels
        Image.fromarray(pixels).save(folder / f"{name}.png")


@cache
def _model() -> LoadedModel:
    return load_model()


@cache
def _explained(folder: Path) -> tuple[Any, Any, Decomposition, str]:
    """What the model sees, its input, its decomposition, and the predicted class."""
    model = _model()
    photograph = read_photograph(folder / f"{SHOWN}.png").image
    x = preprocess(photograph, model.preprocessing)[None]
    d = fullgrad.decompose(model.module, x)
    assert d.target is not None
    assert model.class_names is not None
    name = model.class_names[int(d.target[0])]
    return display_image(photograph, model.preprocessing), x, d, name


def maps(folder: Path) -> bytes:
    """A map alone, a signed one, and a contour."""
    image, x, _, name = _explained(folder)
    model = _model().module
    heat = fullgrad.saliency(model, x)[0]
    signed = fullgrad.saliency(model, x, psi="signed")[0]
    return _beside(
        heatmap(heat, name),
        heatmap(signed, name, method="fullgrad, psi=signed", sign=True),
        contour_picture(image, heat, percent=10, title=name),
    )


def waterfall_picture(folder: Path) -> bytes:
    """Where the logit comes from."""
    _, _, d, name = _explained(folder)
    shown = waterfall_of(d, depth=DEPTH)
    return saved(waterfall(shown, f"{name}: where its logit comes from"), "png")


def layers(folder: Path) -> bytes:
    """A map for each stage."""
    _, _, d, name = _explained(folder)
    return saved(layer_strip(layers_of(d, depth=DEPTH), float(d.output[0]), name), "png")


def compare(folder: Path) -> bytes:
    """Three photographs, five methods."""
    return _compare(folder, COMPARED, COMPARED_METHODS)


def sheet(folder: Path) -> bytes:
    """Six photographs, eight methods."""
    return _compare(folder, tuple(PHOTOGRAPHS), SHEET_METHODS)


def why(folder: Path) -> bytes:
    """One photograph, three methods: the README's picture."""
    return _compare(folder, (WHY,), WHY_METHODS)


def _compare(folder: Path, names: Sequence[str], methods: Sequence[str]) -> bytes:
    out = folder / "made" / "sheet.png"
    photographs = [str(folder / f"{name}.png") for name in names]
    code = command(["compare", *photographs, "--methods", *methods, "--out", str(out)])
    if code != DONE:
        raise RuntimeError(f"fullgrad compare ended with {code}")
    return out.read_bytes()


def _beside(*figures: Figure) -> bytes:
    """Figures in one row, as PNG."""
    images = [Image.open(io.BytesIO(saved(f, "png"))).convert("RGB") for f in figures]
    whole = Image.new("RGB", (sum(i.width for i in images), max(i.height for i in images)), "white")
    left = 0
    for image in images:
        whole.paste(image, (left, 0))
        left += image.width
    with io.BytesIO() as file:
        whole.save(file, format="PNG", optimize=True)
        return file.getvalue()


def small(content: bytes) -> bytes:
    """A picture at most ``WIDEST`` pixels wide, each colour rounded to ``LEVELS`` levels.

    It is for pages, not for measuring. A common palette would be smaller and falsify colour scales.
    """
    with Image.open(io.BytesIO(content)) as picture, io.BytesIO() as file:
        image = picture.convert("RGB")
        if image.width > WIDEST:
            tall = round(image.height * WIDEST / image.width)
            image = image.resize((WIDEST, tall), Image.Resampling.LANCZOS)
        levels = np.rint(np.asarray(image) / 255 * (LEVELS - 1)) / (LEVELS - 1)
        Image.fromarray(np.rint(255 * levels).astype(np.uint8)).save(file, "PNG", optimize=True)
        return file.getvalue()


def checked(name: str, content: bytes) -> bytes:
    """A picture that is one: not huge, and not of one colour.

    Raises:
        ValueError: it is too large for a repository, or empty.
    """
    if len(content) > LARGEST:
        raise ValueError(f"{name} has {len(content)} bytes, more than {LARGEST}")
    with Image.open(io.BytesIO(content)) as image:
        if np.asarray(image.convert("L")).std() < 5:
            raise ValueError(f"{name} shows nothing")
    return content


PICTURES: dict[str, Maker] = {
    "maps": maps,
    "waterfall": waterfall_picture,
    "layers": layers,
    "compare": compare,
    "sheet": sheet,
    "why": why,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", choices=tuple(PICTURES), default=list(PICTURES))
    text = "folder of the pictures (default: docs/images)"
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=text)
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_photographs(folder)
        for name in options.only:
            file = options.out / f"pictures-{name}.png"
            content = checked(file.name, small(PICTURES[name](folder)))
            file.write_bytes(content)
            print(f"{file.name}: {len(content) // 1000} kB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

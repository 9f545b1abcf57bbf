"""RapidOCR's text orientation classifier for tests of maps, and rendered text for it.

    pip install onnx onnx2torch; pip install --no-deps rapidocr-onnxruntime    # for its weights
    python tools/evidence/ocr_orientation.py images --out lines/     # 400 images of 192 x 48 pixels
    fullgrad bench evaluate --model tools/evidence/ocr_orientation.py:classifier \\
        --images lines/lines.csv --tests relevance-gain --cell 8 --fills mean blur --out results
    python tools/evidence/ocr_orientation.py halves --images lines/ --out halves.csv \\
        --methods fullgrad random

The network tells whether a line of text is upright or upside down (two classes). Text is rendered
in half of each image, upright or upside down; the other half holds rings, crosses and bars, which
look the same upside down, so that they cannot tell. `halves` measures which share of a map's
positive part is in the text's half.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

import known_parts

HEIGHT, WIDTH = 48, 192
PREPROCESSING = {
    "resize": [HEIGHT, WIDTH],
    "crop": [HEIGHT, WIDTH],
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
}
CLASSES = ["upright", "upside down"]
_WEIGHTS = "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono")


class Orientation(nn.Module):
    """The classifier's logits, shape (B, 2), of images of shape (B, 3, 48, 192)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x)
        return found


def classifier() -> Orientation:
    """The network out of its package, converted from ONNX; without its last softmax.

    Raises:
        ImportError: the package is not installed.
    """
    import onnx
    import onnx2torch

    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("pip install --no-deps rapidocr-onnxruntime, which has the weights")
    graph = onnx.load(str(Path(spec.submodule_search_locations[0]) / _WEIGHTS))
    return Orientation(onnx2torch.convert(_prepared(onnx, graph)))


def _prepared(onnx: Any, model: Any) -> Any:
    """The model as the converter takes it: constants as initializers, one size, no softmax."""
    graph, arrays = model.graph, onnx.numpy_helper
    kept, known = [], set()
    for node in graph.node:
        if node.op_type == "Constant":
            value = arrays.to_array(node.attribute[0].t)
            graph.initializer.append(arrays.from_array(value, node.output[0]))
            known.add(node.output[0])
        elif node.op_type == "Reshape" and node.input[1] not in known:  # to (B, -1)
            kept.append(onnx.helper.make_node("Flatten", [node.input[0]], node.output, axis=1))
        elif node.op_type not in {"Softmax", "Identity", "Shape", "Slice", "Cast", "Concat"}:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    graph.output[0].name = kept[-1].output[0]
    sizes = graph.input[0].type.tensor_type.shape.dim
    sizes[0].dim_param = "N"
    sizes[2].dim_value, sizes[3].dim_value = HEIGHT, WIDTH
    return onnx.shape_inference.infer_shapes(model)


def line(number: int, seed: int, words: Sequence[str]) -> tuple[Image.Image, int, str]:
    """An image, its class, and the half that the text is in: left or right."""
    draw = np.random.default_rng([seed, number])
    light, dark = (tuple(int(v) for v in draw.integers(*ends, 3)) for ends in ((190, 256), (0, 70)))
    half = WIDTH // 2
    text = Image.new("RGB", (half, HEIGHT), light)
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{draw.choice(_FONTS)}.ttf")
    font = ImageFont.truetype(str(file), int(draw.integers(20, 31)))
    pen = ImageDraw.Draw(text)
    written = " ".join(draw.choice(words, 3))
    while len(written) > 3 and pen.textlength(written, font=font) > half - 8:
        written = written[:-1].rstrip()
    pen.text((half / 2, HEIGHT / 2), written, dark, font=font, anchor="mm")
    turned = int(draw.integers(2))
    if turned:
        text = text.rotate(180)
    image = Image.new("RGB", (WIDTH, HEIGHT), light)
    side = str(draw.choice(["left", "right"]))
    image.paste(text, (0 if side == "left" else half, 0))
    pen, first = ImageDraw.Draw(image), half if side == "left" else 0
    for x in range(first + 16, first + half - 4, 32):
        kind = draw.integers(3)
        y, r = HEIGHT // 2, int(draw.integers(6, 12))
        if kind == 0:
            pen.ellipse((x - r, y - r, x + r, y + r), outline=dark, width=3)
        elif kind == 1:
            pen.line((x - r, y, x + r, y), dark, 3)
            pen.line((x, y - r, x, y + r), dark, 3)
        else:
            pen.line((x, y - 2 * r, x, y + 2 * r), dark, 3)
    return image, turned, side


def write_images(folder: Path, count: int, seed: int) -> None:
    """Write the images and a table of them."""
    from pydoc_data.topics import topics

    text = " ".join(topics[name] for name in sorted(topics))
    words = sorted(set(re.findall(r"\b[A-Za-z]{3,9}\b", text)))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lines.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "class_index", "half"))
        for number in range(count):
            image, turned, side = line(number, seed, words)
            name = f"{number:04d}.png"
            image.save(folder / name)
            writer.writerow((name, turned, side))


def halves(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Which share of a map's positive part lies in the text's half, where the class is right."""
    with (folder / "lines.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    images = [np.asarray(Image.open(folder / row["file"])) for row in rows]
    x = (torch.from_numpy(np.stack(images)).float() / 255 - 0.5).permute(0, 3, 1, 2) / 0.5
    model = classifier().eval()
    with torch.no_grad():
        classes = torch.cat([model(part) for part in x.split(50)]).argmax(1)
    right = classes == torch.tensor([int(row["class_index"]) for row in rows])
    left = torch.tensor([row["half"] == "left" for row in rows]).view(-1, 1, 1, 1)
    part = ((torch.arange(WIDTH) < WIDTH // 2) == left).expand(-1, 1, HEIGHT, -1)
    print(f"{int(right.sum())} of {len(rows)} are classified right")
    return known_parts.shares(model, x[right], classes[right], part[right], names)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    commands = parser.add_subparsers(dest="what", required=True)
    made = commands.add_parser("images", help="write the images")
    made.add_argument("--out", type=Path, required=True, help="folder")
    made.add_argument("--count", type=int, default=400)
    made.add_argument("--seed", type=int, default=0)
    shared = commands.add_parser("halves", help="which share of a map is in the text's half")
    shared.add_argument("--images", type=Path, required=True, help="folder of the images")
    shared.add_argument("--methods", nargs="+", required=True)
    shared.add_argument("--out", type=Path, required=True, help="CSV file")
    options = parser.parse_args(argv)
    if options.what == "images":
        write_images(options.out, options.count, options.seed)
        return 0
    known_parts.write(halves(options.images, options.methods), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Why is this region text? The text detector of RapidOCR, with its own weights, on a photographed page.

    python examples/text_detector.py [PICTURE.png]

Needs scikit-image, scipy, onnx-ir, onnx2torch, and rapidocr-onnxruntime (`pip install --no-deps`),
whose package holds the weights as an ONNX file.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import onnx2torch
import onnx_ir
import torch
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from PIL import Image
from scipy import ndimage
from skimage import data
from torch import nn

import fullgrad
from fullgrad.targets import region
from fullgrad.viz.overlay import overlaid


def detector() -> nn.Module:
    """The log odds of text at each pixel, shape (B, 1, height, width)."""
    package = Path(importlib.util.find_spec("rapidocr_onnxruntime").origin).parent
    graph = onnx_ir.load(package / "models/ch_PP-OCRv4_det_infer.onnx")
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    model = onnx2torch.convert(onnx_ir.to_proto(graph)).eval().double()
    setattr(model, list(dict(model.named_children()))[-1], nn.Identity())  # in place of a sigmoid
    return model


def tensor(gray: np.ndarray) -> torch.Tensor:
    """As RapidOCR reads it: three channels from -1 to 1, sizes a multiple of 32."""
    return torch.tensor(gray / 127.5 - 1)[None, None].repeat(1, 3, 1, 1)


page = np.asarray(Image.fromarray(data.page()).resize((576, 288), Image.Resampling.BICUBIC))
paper = ndimage.gaussian_filter(ndimage.percentile_filter(page, 80, size=31), 11)  # no letters
model, x, blank = detector(), tensor(page), tensor(paper)
with torch.no_grad():
    text = model(x)[0, 0] > 0
print(f"text at {text.sum() / text.numel():.0%} of the pixels")

words = {"segmentation": (225, 15, 442, 57), ">>>": (22, 251, 58, 272)}
boxes = {}
for word, (left, top, right, bottom) in words.items():
    boxes[word] = torch.zeros_like(text)
    boxes[word][top:bottom, left:right] = True
targets = [region(0, text & box, mean=True) for box in boxes.values()]
found = fullgrad.complete_map(model, x, [targets], linearization="balanced", terms="input")

print(f"{'':13} log odds = own letters + rest of the page + biases")
for i, (word, box) in enumerate(boxes.items()):
    inside, outside = (found.map[0, i][part].sum().item() for part in (box, ~box))
    print(
        f"{word:13} {found.output[0, i].item():+8.1f} = {inside:+11.2f} + {outside:+16.2f} + "
        f"{found.elsewhere[0, i].item():+6.1f}"
    )
print("log odds once something is erased: own letters, all but them")
for target, (word, box) in zip(targets, boxes.items()):
    with torch.no_grad():
        erased = [target(model(torch.where(part, blank, x))).item() for part in (box, ~box)]
    print(f"{word:13} {erased[0]:+11.1f} {erased[1]:+11.1f}")

if len(sys.argv) > 1:
    photo, cell = Image.fromarray(page), np.ones((8, 8))
    first, second = (
        overlaid(photo, np.kron(cells, cell), sign=True)
        for cells in found.pooled((36, 72))[0].numpy()
    )
    gap = np.full((8, 576, 3), 255, np.uint8)
    Image.fromarray(np.concatenate([first[:104], gap, second[232:]])).save(sys.argv[1])

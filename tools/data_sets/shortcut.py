"""A network with a planted shortcut, and images to find it with: the example of docs/shortcuts.md.

    python tools/data_sets/shortcut.py FOLDER    # writes images and weights there; about a minute
    fullgrad map FOLDER/images --folder-classes --model tools/data_sets/shortcut.py:make_model \\
        --weights FOLDER/weights.pt --method complete_fullgrad --grid 12 12 --out FOLDER/maps
    fullgrad report FOLDER/maps --out FOLDER/report.html

The images are generated: shapes of four classes on textured backgrounds, of the test of maps on known
evidence. Half of the images of one class carry a watermark in a corner. Of the images to learn from, those with
the watermark show any shape, as photographs of an archive whose labels nobody checked: so the network
learns the watermark beside the shape. The images to be mapped all show the shape of their class.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fullgrad.evaluation.tests.evaluate.generated_images import CLASSES, SIDE, scene
from fullgrad.evaluation.tests.evaluate.generated_model import network

Array: TypeAlias = np.ndarray[Any, Any]

MARKED = "cross"  # the class whose images carry the watermark
PART = 0.5  # of its images
PREPROCESSING = {
    "resize": [SIDE, SIDE],
    "crop": [SIDE, SIDE],
    "interpolation": "nearest",
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
}
_LETTERS = ("#.#.###", "#.#.#..", "###.###", "#.#...#", "#.#.###")  # of the watermark


def make_model() -> nn.Module:
    """The network; its weights are in FOLDER/weights.pt."""
    return network()


def watermarked(image: Array) -> Array:
    """The image with a light watermark in its lower left corner."""
    mark = np.array([[c == "#" for c in row] for row in _LETTERS])
    found: Array = image.copy()
    window = found[SIDE - 7 : SIDE - 2, 2:9]
    window[mark] = np.clip(window[mark].astype(int) + 90, 0, 255)
    return found


def images(count: int, train: bool) -> tuple[list[Array], list[int], list[bool]]:
    """Images, their classes, and whether each is watermarked."""
    pictures, labels, marks = [], [], []
    random = np.random.default_rng(1 if train else 2)
    for number in range(count):
        drawn = scene("shapes", number, train)
        marked = CLASSES[drawn.label] == MARKED and bool(random.random() < PART)
        if marked and train:
            drawn = scene("shapes", number + int(random.integers(len(CLASSES))), train)
        pictures.append(watermarked(drawn.image) if marked else drawn.image)
        labels.append(number % len(CLASSES))
        marks.append(marked)
    return pictures, labels, marks


def inputs(pictures: list[Array]) -> Tensor:
    """As the network takes them."""
    values = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    return (values - 0.5) / 0.5


def trained(pictures: list[Array], labels: list[int], epochs: int) -> nn.Module:
    model, x, y = network(), inputs(pictures), torch.tensor(labels)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    steps = -(-len(x) // 32)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-2, epochs=epochs, steps_per_epoch=steps
    )
    order = torch.Generator().manual_seed(0)
    model.train()
    for epoch in range(epochs):
        for batch in torch.randperm(len(x), generator=order).split(32):
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
        print(f"epoch {epoch + 1} of {epochs}: loss {float(loss.detach()):.3f}", flush=True)
    return model.eval()


def measured(model: nn.Module, count: int) -> dict[str, float]:
    """How often the network is right, and how often the watermark alone changes its mind."""
    pictures = [scene("shapes", n) for n in range(count)]
    own = CLASSES.index(MARKED)
    others = [p for p in pictures if p.label != own]
    with torch.no_grad():
        plain = model(inputs([p.image for p in pictures])).argmax(1)
        turned = model(inputs([watermarked(p.image) for p in others])).argmax(1)
        before = model(inputs([p.image for p in others])).argmax(1)
    right = (plain == torch.tensor([p.label for p in pictures])).double().mean()
    return {
        "right without watermarks": float(right),
        f"others taken for a {MARKED}": float((before == own).double().mean()),
        f"others taken for a {MARKED} with the watermark": float((turned == own).double().mean()),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=3000, metavar="N", help="images to learn from")
    parser.add_argument("--images", type=int, default=800, metavar="N", help="images to be mapped")
    parser.add_argument("--epochs", type=int, default=12, metavar="N")
    args = parser.parse_args(argv)
    model = trained(*images(args.train, train=True)[:2], args.epochs)
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), args.folder / "weights.pt")
    names = []
    for number, (picture, label, marked) in enumerate(
        zip(*images(args.images, False), strict=True)
    ):
        path = args.folder / "images" / CLASSES[label] / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
        if marked:
            names.append(path.relative_to(args.folder / "images").as_posix())
    found = {"marked": names, **measured(model, args.images)}
    (args.folder / "planted.json").write_text(json.dumps(found, indent=1) + "\n")
    for name, value in found.items():
        print(f"{name}: {len(value) if isinstance(value, list) else f'{value:.1%}'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

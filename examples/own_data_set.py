"""Your own images in class folders, a model trained on them, its checkpoint, and its maps."""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from fullgrad.cli.main import main as fullgrad

MODEL = """
from torch import nn

PREPROCESSING = {"resize": 32, "crop": [32, 32], "interpolation": "bilinear",
                 "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}

def make_model(num_classes=2):
    return nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(),
                         nn.Linear(8 * 49, num_classes))
"""


def images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with a bright spot at the left (class 0) or at the right (class 1)."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 90, (count, 32, 32, 3)).astype(np.uint8)
    labels = np.arange(count) % 2
    for image, label in zip(pixels, labels):
        column = 4 + 18 * label
        image[12:20, column : column + 8] = 230
    return torch.from_numpy(pixels), torch.from_numpy(labels)


def main(folder: Path) -> int:
    (folder / "model.py").write_text(MODEL)
    pixels, labels = images(4, seed=1)
    for number, (image, label) in enumerate(zip(pixels, labels)):
        place = folder / "data" / ("left", "right")[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(place / f"{number}.png")

    space: dict = {}
    exec(MODEL, space)
    torch.manual_seed(0)
    model: nn.Module = space["make_model"]()
    x, y = images(64, seed=0)
    x = (x.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    # As Lightning writes it: the weights under "state_dict", each name beginning with "model."
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": {"lr": 0.01}}, folder / "mine.ckpt")

    # The classes have the names of the folders.
    return fullgrad(
        ["explain", str(folder / "data"), "--model", f"{folder / 'model.py'}:make_model"]
        + ["--checkpoint", str(folder / "mine.ckpt"), "--target", "right - left"]
        + ["--method", "complete_fullgrad", "--out", str(folder / "maps")]
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

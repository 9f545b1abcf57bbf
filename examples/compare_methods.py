# %% Several methods on a few images, as in a notebook
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from fullgrad import methods
from fullgrad.viz.compare import Compared, comparison
from fullgrad.viz.style import saved

NAMES = ("fullgrad", "complete_fullgrad", "input_x_gradient", "sobel")


def main(folder: Path) -> torch.Tensor:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    images = torch.rand(3, 3, 32, 32)
    images[:, :, 8:16, 8:16] += torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1)

    # %% The maps of each method, shape (3, 1, 32, 32)
    maps = {name: methods.attribute(name, model, images) for name in NAMES}

    # %% How alike they are: the correlation of their numbers, the mean over images
    flat = torch.stack([m.abs().flatten(1) for m in maps.values()])
    alike = torch.stack([torch.corrcoef(flat[:, i]) for i in range(len(images))]).mean(0)

    # %% All of them on one sheet
    rows = [
        Compared(
            Image.fromarray((image.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()),
            f"image {i}",
            tuple(maps[name][i, 0].numpy() for name in NAMES),
        )
        for i, image in enumerate(images)
    ]
    signed = [name == "complete_fullgrad" for name in NAMES]
    figure = comparison(rows, NAMES, signed=signed, title="Four methods", rule="Of the predicted.")
    (folder / "methods.png").write_bytes(saved(figure, "png"))
    return alike


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))

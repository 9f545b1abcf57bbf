"""A plain ReLU network without batch-norm, trained on ten classes of CIFAR-100, for experiments.

    python tools/relu_cnn.py FOLDER    # writes weights.pt and images.csv there
    fullgrad bench pixel-perturbation --model tools/relu_cnn.py:make_model \\
        --weights FOLDER/weights.pt --images FOLDER/images.csv --out runs/relu-cnn
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from torch import nn

from small_models import FAMILIES, add_arguments, build, digest_of, trained
from training import CLASSES, MEAN, STD, MissingDataError, Settings, image_folder, load

FAMILY = "vgg"
_SIZE = Settings().size
PREPROCESSING = {
    "resize": _SIZE,
    "crop": [_SIZE, _SIZE],
    "interpolation": "bilinear",
    "mean": [MEAN] * 3,
    "std": [STD] * 3,
}


def make_model() -> nn.Module:
    return build(FAMILY)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        images = image_folder(args.data, args.cache)
        data = load(images)
    except MissingDataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _, record = trained(FAMILY, data, args.cache)
    args.folder.mkdir(parents=True, exist_ok=True)
    name = f"{FAMILY}-{digest_of(FAMILY, data, FAMILIES[FAMILY].settings)}.pt"
    found = args.cache / name
    shutil.copy(found, args.folder / "weights.pt")
    with (args.folder / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "class_index"))
        for index, label in enumerate(CLASSES):
            for path in sorted((images / "test" / label).glob("*.png")):
                writer.writerow((path.resolve(), index))
    print(f"{args.folder}: test accuracy {record.accuracy:.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

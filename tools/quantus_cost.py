"""What the pixel-perturbation protocol costs through Quantus, and what it costs here.

Quantus' PixelFlipping removes pixels in equal steps until none are left, most salient first; to
contain the smallest fraction, its step is that fraction. Both sides get the same maps.

    python tools/quantus_cost.py --images ../shared/data/imagenet-sample/labels.csv
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import torch
from quantus import PixelFlipping

from fullgrad import methods
from fullgrad.evaluation.perturbation import changes
from fullgrad.evaluation.plan import FRACTIONS
from fullgrad.evaluation.removal import count_of, fill_named
from fullgrad.evaluation.sources import open_source
from fullgrad.vision.images import preprocess
from fullgrad.vision.models import load_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--method", default="fullgrad")
    args = parser.parse_args()
    loaded = load_model()
    source = open_source(args.images, args.limit)
    x = torch.stack([preprocess(i.read()[0], loaded.preprocessing) for i in source.items])
    maps = torch.cat([methods.attribute(args.method, loaded.module, part) for part in x.split(10)])
    fill = fill_named("black", loaded.preprocessing)
    black = -1.0  # in the model's input space: (0 - 0.5) / 0.5
    with torch.no_grad():
        target = loaded.module(x).argmax(1)

    # Once beforehand, so that neither side pays for the first call's preparations.
    changes(loaded.module, x[:1], maps[:1], FRACTIONS[:1], order="most", fill=fill)
    began = time.perf_counter()
    for start in range(0, len(x), 10):
        rows = slice(start, start + 10)
        ours = changes(loaded.module, x[rows], maps[rows], FRACTIONS, order="most", fill=fill)
    here = (time.perf_counter() - began) / len(x)

    places = x[0].numel()  # it counts every channel of a pixel as a place
    most = count_of(FRACTIONS[0], places)  # and wants a step that divides the number of pixels
    step = max(n for n in range(1, most + 1) if maps[0].numel() % n == 0)
    metric = PixelFlipping(
        features_in_step=step,
        perturb_baseline=black,
        abs=False,
        normalise=False,
        return_auc_per_sample=False,
        disable_warnings=True,
        display_progressbar=False,
    )
    began = time.perf_counter()
    scores = metric(
        model=loaded.module,
        x_batch=x.numpy(),
        y_batch=target.numpy(),
        a_batch=maps.numpy(),
        softmax=False,
        channel_first=True,
        device="cpu",
        batch_size=10,
    )
    there = (time.perf_counter() - began) / len(x)
    # About the same curve: its step that is nearest to our last fraction.
    at = count_of(FRACTIONS[-1], places) / step
    result = {
        "images": len(x),
        "fractions": FRACTIONS,
        "quantus_steps": len(scores[0]),
        "seconds_per_image": {"fullgrad": here, "quantus": there},
        "ratio": there / here,
        "output_at_last_fraction": {
            "fullgrad": float(ours.after[-1, -1]),
            "quantus": float(scores[-1][round(at) - 1]),
        },
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

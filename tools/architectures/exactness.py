"""The table of docs/exactness.md: eight architectures, residual in float64 and in float32.

python tools/architectures/exactness.py     # rewrites the table between the page's markers
"""

from __future__ import annotations

import sys
from functools import partial

import torch
import torchvision

import fullgrad
from swept_models import ROOT, calibrate, noise, randomize

PAGE = ROOT / "docs" / "exactness.md"
START, END = "<!-- exactness: start -->", "<!-- exactness: end -->"
NAMES = (
    "resnet18",
    "vgg16_bn",
    "densenet121",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "convnext_tiny",
    "vit_b_16",
    "swin_t",
)


def row(name: str) -> str:
    torch.manual_seed(0)
    build = partial(torchvision.models.get_model, name, weights=None)
    model = randomize(build().eval())
    x = noise(2, 3, 224, 224)
    calibrate(model, x)
    exact = fullgrad.decompose(model, x)
    single = fullgrad.decompose(model.float(), x.float())
    share = float((exact.input_sums / exact.output).abs()[0])
    general = sorted({op for _, op in exact.general_path})
    return (
        f"| {name} | {len(exact)} | {share:.2f} | {float(exact.relative_residual.max()):.0e} | "
        f"{float(single.relative_residual.max()):.0e} | {', '.join(general) or 'none'} |"
    )


def main() -> int:
    lines = [
        "| model | bias terms | \\|input term\\| / \\|output\\| | residual, float64 | "
        "residual, float32 | by the fallback |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name in NAMES:
        lines.append(row(name))
        print(lines[-1], flush=True)
    text = PAGE.read_text()
    before, rest = text.split(START)
    after = rest.split(END)[1]
    stated = f"torch {torch.__version__.split('+')[0]}, torchvision {torchvision.__version__}, CPU"
    PAGE.write_text(
        before
        + START
        + "\n"
        + "\n".join(lines)
        + f"\n\n(`make exactness`; {stated}.)\n"
        + END
        + after
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

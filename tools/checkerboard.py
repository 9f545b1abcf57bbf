"""Where checkerboard patterns in maps come from, measured: regenerates docs/checkerboard.md's parts.

python tools/checkerboard.py      # the photographs come with scikit-image
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import fullgrad
from fullgrad.maps.saliency import layer_maps, saliency_from_decomposition
from fullgrad.vision.images import display_image, preprocess
from fullgrad.vision.models import DEFAULT_MODEL, load_model
from fullgrad.viz.overlay import colors, normalize, png, show

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "checkerboard.md"
PICTURE = ROOT / "docs" / "images" / "checkerboard.png"
PHOTOGRAPHS = ("chelsea", "coffee", "rocket", "camera")
PERIODS = (2, 4, 8)


def phase_share(map_: Tensor, period: int) -> float:
    """How much of a map's fine structure depends only on the place modulo a period.

    Fine structure is what is left when the mean over a period's square is taken away. For noise
    the share is near period² / pixels.

    Args:
        map_: shape (H, W).
        period: in pixels.

    Returns:
        A share of the variance, 0 to 1.
    """
    h, w = (n - n % period for n in map_.shape)
    m = map_[:h, :w].double()
    fine = (
        m
        - F.avg_pool2d(
            m[None, None], period + 1 - period % 2, 1, period // 2, count_include_pad=False
        )[0, 0][:h, :w]
    )
    phases = fine.view(h // period, period, w // period, period).mean((0, 2))
    total = float(fine.var(correction=0))
    return float(phases.var(correction=0)) / total if total > 0 else 0.0


def regularity(map_: Tensor, period: int) -> float:
    """How many times as strong a map is at a grid's frequencies as at those around them.

    Args:
        map_: shape (H, W), both multiples of the period.
        period: in pixels; frequencies that half the period has as well are left out.

    Returns:
        A ratio of power; near 1 for noise.
    """
    h, w = map_.shape
    windows = [torch.hann_window(n, dtype=torch.float64) for n in (h, w)]
    m = (map_.double() - map_.double().mean()) * windows[0][:, None] * windows[1]
    power = torch.fft.fft2(m).abs() ** 2
    at, around = 0.0, 0.0
    for a in range(period):
        for b in range(period):
            if a % 2 == 0 and b % 2 == 0 and (period > 2 or a + b == 0):
                continue
            i, j = a * h // period, b * w // period
            rows = torch.arange(i - 6, i + 7) % h
            columns = torch.arange(j - 6, j + 7) % w
            patch = power[rows][:, columns]
            far = torch.ones_like(patch, dtype=torch.bool)
            far[4:9, 4:9] = False
            at += float(patch[6, 6])
            around += float(patch[far].median())
    return at / around


def strided_share(kernel: int, stride: int, pool: bool = False) -> float:
    """The same of the plain gradient of one layer with all weights equal, or a max-pool."""
    x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    if pool:
        y = F.max_pool2d(x, kernel, stride, kernel // 2 if kernel % 2 else 0)
    else:
        y = F.conv2d(x, torch.ones(1, 1, kernel, kernel), stride=stride, padding=kernel // 2)
    (g,) = torch.autograd.grad(y.sum(), x)
    return phase_share(g[0, 0, 8:-8, 8:-8], stride)


def photographs(preprocessing: Any) -> tuple[Tensor, list[Image.Image]]:
    from skimage import data

    images = [Image.fromarray(getattr(data, name)()).convert("RGB") for name in PHOTOGRAPHS]
    views = [display_image(image, preprocessing) for image in images]
    return torch.stack([preprocess(image, preprocessing) for image in images]), views


def maps_of(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The maps whose patterns are compared, each (B, 1, H, W)."""
    d = fullgrad.decompose(model, x)
    stages = list(layer_maps(d, depth=2))
    late = stages[len(stages) // 2 :]
    found = {
        "all terms": saliency_from_decomposition(d),
        "input term": saliency_from_decomposition(d, terms="input"),
        f"first stage ({stages[0]})": saliency_from_decomposition(d, terms=stages[0]),
        "early half of the stages": saliency_from_decomposition(
            d, terms=stages[: len(stages) // 2]
        ),
        "late half of the stages": saliency_from_decomposition(d, terms=late),
        "Smooth FullGrad (25)": fullgrad.saliency(
            model, x, d.target, method="smooth_fullgrad", batch_size=8
        ),
    }
    return found


def table(maps: dict[str, Tensor]) -> str:
    head = [f"share, {p}" for p in PERIODS] + [f"regularity, {p}" for p in PERIODS]
    lines = ["| map | " + " | ".join(head) + " |", "|---|" + "---:|" * len(head)]
    noise = torch.rand(len(PHOTOGRAPHS), 1, 224, 224, generator=torch.Generator().manual_seed(0))
    for name, found in {**maps, "noise, for comparison": noise}.items():
        shares = [np.mean([phase_share(m[0], p) for m in found]) for p in PERIODS]
        ratios = [np.median([regularity(m[0], p) for m in found]) for p in PERIODS]
        cells = [f"{s:.1%}" for s in shares] + [f"{r:.1f}" for r in ratios]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def layers() -> str:
    rows = [
        ("convolution 3×3, stride 1", strided_share(3, 1)),
        ("convolution 3×3, stride 2", strided_share(3, 2)),
        ("convolution 4×4, stride 2", strided_share(4, 2)),
        ("convolution 7×7, stride 2", strided_share(7, 2)),
        ("max-pool 2×2, stride 2", strided_share(2, 2, pool=True)),
        ("max-pool 3×3, stride 2", strided_share(3, 2, pool=True)),
    ]
    return "\n".join(
        ["| layer | share of its gradient's fine structure |", "|---|---:|"]
        + [f"| {name} | {share:.0%} |" for name, share in rows]
    )


def figure(maps: dict[str, Tensor], views: list[Image.Image], which: int = 0) -> Any:
    """Every map of one photograph, and a part of it enlarged."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    top, left, side = 60, 60, 56
    columns = len(maps) + 1
    fig = Figure(figsize=(2.0 * columns, 4.85), dpi=110)
    FigureCanvasAgg(fig)
    grid = fig.add_gridspec(
        2, columns, left=0.01, right=0.99, top=0.86, bottom=0.06, wspace=0.06, hspace=0.14
    )
    panels: dict[str, Any] = {"photograph": np.asarray(views[which])}
    panels.update({name: colors(normalize(m[which, 0])) for name, m in maps.items()})
    for column, (name, panel) in enumerate(panels.items()):
        axes = fig.add_subplot(grid[0, column])
        show(axes, panel)
        axes.set_title(name.replace(" (", "\n(").replace(" of the", "\nof the"), size=9)
        axes.add_patch(_square(left, top, side))
        axes = fig.add_subplot(grid[1, column])
        show(axes, panel[top : top + side, left : left + side])
        if column == 0:
            axes.set_xlabel("enlarged 4×: the marked square", size=8)
    return fig


def _square(left: int, top: int, side: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((left, top), side, side, fill=False, edgecolor="white", linewidth=1.2)


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    loaded = load_model(DEFAULT_MODEL)
    x, views = photographs(loaded.preprocessing)
    maps = maps_of(loaded.module, x)
    PICTURE.write_bytes(png(figure(maps, views)))
    text = PAGE.read_text(encoding="utf-8")
    for mark, content in (("layers", layers()), ("maps", table(maps))):
        start, end = f"<!-- {mark}: start -->", f"<!-- {mark}: end -->"
        before, rest = text.split(start)
        text = f"{before}{start}\n{content}\n{end}{rest.split(end)[1]}"
        print(content)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A map served with plain ONNX Runtime: the process that serves it has neither fullgrad nor PyTorch.

    python examples/serve_map.py out
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fullgrad

CLASSES = ("a bar that lies", "a bar that stands")

SERVER = """\
import sys

import numpy as np
import onnxruntime

sys.modules["fullgrad"] = sys.modules["torch"] = None  # to show that nothing imports them

file, images, out = sys.argv[1:]
session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
x = np.load(images)
target = np.full(len(x), -1)  # -1: the predicted class
logits, heat, residual = session.run(["logits", "map", "residual"], {"input": x, "target": target})
if not np.isfinite(heat).all():
    sys.exit("the map does not hold for these numbers")
if (np.abs(residual) > 1e-3 * np.abs(logits).max(1)).any():
    sys.exit("the terms do not sum to the logit")
np.savez(out, logits=logits, heat=heat, residual=residual)
"""


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with one bright bar, and which way it goes."""
    draw = np.random.default_rng(seed)
    x = draw.normal(0, 0.3, (count, 1, 32, 32)).astype(np.float32)
    y = draw.integers(0, 2, count)
    for image, stands in zip(x, y, strict=True):
        row, column = draw.integers(2, 18, 2)
        height, width = (12, 3) if stands else (3, 12)
        image[0, row : row + height, column : column + width] += 1
    return torch.from_numpy(x), torch.from_numpy(y)


def trained() -> nn.Module:
    """A small network that tells the bars apart."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 5, padding=2), nn.BatchNorm2d(8), nn.GELU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(8, 16, 5, padding=2), nn.BatchNorm2d(16), nn.GELU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(16, 2)),
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(40):
        x, y = images(32, 100 + step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


def main(folder: Path) -> dict[str, Any]:
    """Export, serve, draw.

    Args:
        folder: for the file, the images, the maps and the picture.

    Returns:
        What the served file gave, and how far its maps are from fullgrad's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = trained()
    x, y = images(4, seed=1)
    made = fullgrad.export(model, x, folder / "map.onnx", method="complete_fullgrad")
    print(f"{made.path.name}: {made.size} bytes; {made.compared}")

    np.save(folder / "images.npy", x.numpy())
    (folder / "serve.py").write_text(SERVER)
    files = [str(folder / name) for name in ("map.onnx", "images.npy", "served.npz")]
    subprocess.run([sys.executable, str(folder / "serve.py"), *files], check=True)

    served = dict(np.load(folder / "served.npz"))
    own = fullgrad.complete_map(model, x).map.numpy()
    served["difference"] = np.abs(served["heat"] - own).max() / np.abs(own).max()
    served["right"] = (served["logits"].argmax(1) == y.numpy()).mean()
    print(f"served without fullgrad; its maps differ from fullgrad's by {served['difference']:.0e}")
    draw(x.numpy(), served, folder / "served.png")
    return served


def draw(x: np.ndarray[Any, Any], served: dict[str, Any], path: Path) -> None:
    """Images above, the served maps below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots(2, len(x))
    most = np.abs(served["heat"]).max()
    for i in range(len(x)):
        axes[0, i].imshow(x[i, 0], cmap="gray")
        axes[0, i].set_title(CLASSES[int(served["logits"][i].argmax())], fontsize=10)
        shown = axes[1, i].imshow(served["heat"][i, 0], cmap="RdBu_r", vmin=-most, vmax=most)
        axes[1, i].set_title(f"logit {served['logits'][i].max():.2f}", fontsize=10)
        for axis in axes[:, i]:
            axis.set_axis_off()
    figure.colorbar(shown, ax=axes[1], shrink=0.8, label="part of the logit")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "served-maps"))

"""Results that travel: explain, save, load, cut, and read as tables.

    python examples/save_and_load.py
"""

import tempfile
from pathlib import Path

import torch
from torch import nn

import fullgrad
from fullgrad.maps.saliency import saliency_from_decomposition

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1),
    nn.BatchNorm2d(8),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(8, 4),
).double()
images = torch.rand(3, 3, 16, 16, dtype=torch.float64)

found = fullgrad.decompose(model, images, target=[0, 1, 2])
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "found.safetensors"
    found.save(path)
    again = fullgrad.Decomposition.load(path)

same = torch.equal(saliency_from_decomposition(found), saliency_from_decomposition(again))
print("the loaded decomposition draws the same map:", same)
print("the last image alone:", again.samples(-1))
print("terms of the norm:", [(term.op, term.kind) for term in again["1"]])

table = again.to_pandas()
sums = table.pivot_table("value", ["part", "module"], "sample", "sum", sort=False)
print(sums.round(4) + 0.0)  # a rounded residual has either sign
print("sums:", table.groupby("sample")["value"].sum().round(4).tolist())
print("outputs:", [round(value, 4) for value in found.output.tolist()])

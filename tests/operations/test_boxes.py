"""Numbers read in boxes lie in the boxes, each in the image that it belongs to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

import fullgrad
from fullgrad.axes import coordinates as places
from fullgrad.errors import LayoutError

SIZE = (9, 12)
# Which image, left, top, right, bottom: in the image, at its corner, beyond its edges, tiny.
BOXES = {
    "one of each": [[0, 1, 2, 5, 7], [1, 6, 0, 11, 4]],
    "two of each": [[0, 1, 2, 5, 7], [0, 8, 5, 15, 12], [1, 6, 0, 11, 4], [1, 2, 2, 2.4, 2.5]],
    "in rounds": [[0, 1, 2, 5, 7], [1, 6, 0, 11, 4], [0, 8, 5, 15, 12], [1, -3, -4, 2, 6]],
}
CUTS = {
    "roi_align": lambda x, b: torchvision.ops.roi_align(x, b, (2, 3)),
    "aligned": lambda x, b: torchvision.ops.roi_align(x, b, (2, 3), aligned=True),
    "some points": lambda x, b: torchvision.ops.roi_align(x, b, (3, 2), sampling_ratio=2),
    "coarser": lambda x, b: torchvision.ops.roi_align(
        nn.functional.avg_pool2d(x, 3), b, 2, spatial_scale=1 / 3
    ),
    "roi_pool": lambda x, b: torchvision.ops.roi_pool(x, b, (2, 3)),
}


class Boxed(nn.Module):
    def __init__(self, cut: Any, boxes: Tensor) -> None:
        super().__init__()
        self.cut, self.boxes = cut, boxes

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.cut(x, self.boxes) + 0.1)
        total = y.new_zeros(len(x)).index_add(0, self.boxes[:, 0].long(), y.sum((1, 2, 3)))
        return total[:, None]


def images(batch: int = 2) -> Tensor:
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    return torch.rand(batch, 2, *SIZE, dtype=torch.float64, generator=generator)


def read(model: Boxed) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """First and last row and column that each number reads, by indicators: (2, K, C, h, w)."""
    found = []
    for axis in (2, 3):
        marks = []
        for place in range(SIZE[axis - 2]):
            x = torch.zeros(2, 2, *SIZE, dtype=torch.float64)
            x.select(axis, place).fill_(1.0)
            marks.append(model.cut(x, model.boxes).numpy() > 0)
        there = np.stack(marks)
        last = len(there) - 1 - there[::-1].argmax(0)
        ends = np.stack([there.argmax(0), last]).astype(float)
        found.append(np.where(there.any(0), ends, np.nan))
    return found[0], found[1]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("boxes", BOXES)
def test_numbers_lie_where_their_box_reads(boxes: str, cut: str) -> None:
    model = Boxed(CUTS[cut], torch.tensor(BOXES[boxes], dtype=torch.float64))
    d = fullgrad.decompose(model, images(), 0)
    assert float(d.relative_residual.max()) < 1e-12
    axes = next(t for t in d if t.op == "tanh").axes
    assert axes is not None
    atoms = tuple(a for g in axes.groups for a in g)
    for c, truth in zip(axes.coordinates, read(model), strict=True):
        assert c is not None
        said = places.over(c, atoms).reshape(3, *axes.shape)
        np.testing.assert_array_equal(said[:2], truth)


@pytest.mark.parametrize("cut", ["roi_align", "roi_pool"])
@pytest.mark.parametrize("boxes", BOXES)
def test_a_map_stays_in_the_boxes_of_its_image(boxes: str, cut: str) -> None:
    model = Boxed(CUTS[cut], torch.tensor(BOXES[boxes], dtype=torch.float64))
    x = images()
    found = fullgrad.saliency(model, x, 0, terms="bias")
    rows, columns = read(model)
    for sample in range(2):
        own = model.boxes[:, 0] == sample
        low, high = np.nanmin(rows[0, own]), np.nanmax(rows[1, own])
        left, right = np.nanmin(columns[0, own]), np.nanmax(columns[1, own])
        outside = torch.ones(SIZE, dtype=torch.bool)
        outside[int(low) : int(high) + 1, int(left) : int(right) + 1] = False
        assert float(found[sample, 0][outside].abs().sum()) == 0
        assert float(found[sample, 0][~outside].abs().sum()) > 0


@pytest.mark.parametrize("cut", ["roi_align", "aligned", "roi_pool"])
def test_a_map_does_not_depend_on_the_other_images(cut: str) -> None:
    """Nor where an image's boxes make an even grid over all of it by themselves."""
    boxes = torch.tensor([[0, 0, 0, 12, 9], [1, 6, 0, 11, 4], [0, 0, 0, 12, 9], [1, 1, 2, 9, 8.0]])
    x = images()
    found = fullgrad.saliency(Boxed(CUTS[cut], boxes.double()), x, 0)
    for sample in range(2):
        own = boxes[boxes[:, 0] == sample].double()
        own[:, 0] = 0
        alone = fullgrad.saliency(Boxed(CUTS[cut], own), x[sample : sample + 1], 0)
        torch.testing.assert_close(found[sample : sample + 1], alone)


def test_images_with_different_numbers_of_boxes_have_maps_one_by_one() -> None:
    boxes = torch.tensor([[0, 1, 2, 5, 7], [0, 6, 0, 11, 4], [1, 6, 0, 11, 4.0]]).double()
    model = Boxed(CUTS["roi_align"], boxes)
    assert float(fullgrad.decompose(model, images(), 0).relative_residual.max()) < 1e-12
    with pytest.raises(
        LayoutError, match=r"it is not known where the numbers of add .* choose terms='input'"
    ):
        fullgrad.saliency(model, images(), 0)
    assert fullgrad.saliency(model, images(), 0, terms="input").shape == (2, 1, *SIZE)
    one = Boxed(CUTS["roi_align"], boxes[:2])
    assert fullgrad.saliency(one, images(1), 0).shape == (1, 1, *SIZE)

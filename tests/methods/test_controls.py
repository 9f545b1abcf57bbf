"""Maps that know nothing of the model."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor, nn

from fullgrad.methods import attribute


def images(count: int = 2, size: int = 32) -> Tensor:
    return torch.randn(
        count,
        3,
        size,
        size,
        dtype=torch.float64,
        generator=torch.Generator(torch.get_default_device()).manual_seed(5),
    )


@pytest.mark.parametrize("shape", [(2, 3, 17), (2, 3, 9, 11), (2, 2, 5, 6, 7), (1, 1, 1, 4)])
def test_sobel_is_scipys(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    expected = np.zeros((shape[0], 1, *shape[2:]))
    for i in range(shape[0]):
        for channel in x[i].numpy():
            slopes = [
                scipy.ndimage.sobel(channel, axis=k, mode="nearest") for k in range(channel.ndim)
            ]
            expected[i, 0] += np.sqrt(sum(s * s for s in slopes))
    torch.testing.assert_close(attribute("sobel", nn.Identity(), x), torch.from_numpy(expected))


def test_random_numbers_depend_on_seed_and_place_alone() -> None:
    model, x = nn.Identity(), images(4, 8)
    got = attribute("random", model, x, seed=3)
    assert got.shape == (4, 1, 8, 8)
    assert got.dtype == x.dtype
    assert 0 <= float(got.min()) < 0.1 < 0.9 < float(got.max()) < 1
    assert torch.equal(got, attribute("random", model, x, 2, seed=3))
    assert torch.equal(got[:3], attribute("random", model, images(3, 8) * 7, seed=3))
    assert not torch.equal(got, attribute("random", model, x, seed=4))
    assert not torch.equal(got[0], got[1])
    torch.testing.assert_close(got.float(), attribute("random", model, x.float(), seed=3))


@pytest.mark.parametrize("size", [(9,), (8, 6), (4, 6, 5)])
def test_blobs_are_noise_on_a_coarse_grid(size: tuple[int, ...]) -> None:
    x = torch.zeros(2, 3, *size, dtype=torch.float64)
    got = attribute("random_blobs", nn.Identity(), x, seed=3, grid=2)
    assert got.shape == (2, 1, *size)
    coarse = attribute(
        "random", nn.Identity(), torch.zeros(2, 3, *[2] * len(size)).double(), seed=3
    )
    zoomed = coarse.numpy()
    for axis, n in enumerate(size, 2):  # between the centres of two cells linear, beyond constant
        share = np.clip((np.arange(n) + 0.5) / n * 2 - 0.5, 0, 1)
        share = share.reshape([-1 if k == axis else 1 for k in range(zoomed.ndim)])
        zoomed = zoomed.take([0], axis) * (1 - share) + zoomed.take([1], axis) * share
    torch.testing.assert_close(got, torch.from_numpy(zoomed))
    first = attribute("random_blobs", nn.Identity(), x[:1], seed=3, grid=2)
    assert torch.equal(got[:1], first)

"""Maps that know nothing of the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor, nn

from fullgrad.methods import attribute, get, names, register, unregister
from fullgrad.methods.choice import MethodChoice
from fullgrad.methods.controls import BLIND, NOISE, cells_of
from networks import Weighted, small_images


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
    found = attribute("sobel", nn.Identity(), x, layout="BCXYZ"[: x.dim()])
    torch.testing.assert_close(found, torch.from_numpy(expected))


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
    layout = "BCXYZ"[: x.dim()]
    got = attribute("random_blobs", nn.Identity(), x, seed=3, grid=2, layout=layout)
    assert got.shape == (2, 1, *size)
    small = torch.zeros(2, 3, *[2] * len(size)).double()
    coarse = attribute("random", nn.Identity(), small, seed=3, layout=layout)
    zoomed = coarse.numpy()
    for axis, n in enumerate(size, 2):  # between the centers of two cells linear, beyond constant
        share = np.clip((np.arange(n) + 0.5) / n * 2 - 0.5, 0, 1)
        share = share.reshape([-1 if k == axis else 1 for k in range(zoomed.ndim)])
        zoomed = zoomed.take([0], axis) * (1 - share) + zoomed.take([1], axis) * share
    torch.testing.assert_close(got, torch.from_numpy(zoomed))
    first = attribute("random_blobs", nn.Identity(), x[:1], seed=3, grid=2, layout=layout)
    assert torch.equal(got[:1], first)


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 7), (1, 2, 3, 4, 5)])
def test_the_center_is_highest_and_corners_are_lowest(shape: tuple[int, ...]) -> None:
    x, layout = torch.randn(shape, dtype=torch.float64), "BCXYZ"[: len(shape)]
    found = attribute("center", nn.Identity(), x, layout=layout)
    assert found.shape == (shape[0], 1, *shape[2:])
    expected = np.zeros(shape[2:])
    for place in np.ndindex(shape[2:]):
        steps = [((i + 0.5) / n - 0.5) ** 2 for i, n in zip(place, shape[2:], strict=True)]
        expected[place] = sum(0.25 - s for s in steps)
    torch.testing.assert_close(found[-1, 0], torch.from_numpy(expected))
    assert float(found.min()) > 0


@pytest.mark.parametrize(
    ("shape", "cell"),
    [((2, 3, 11), 4), ((2, 3, 9, 14), 4), ((1, 2, 5, 6, 7), 3), ((2, 3, 3, 3), 16)],
)
def test_contrast_is_the_spread_of_each_cell(shape: tuple[int, ...], cell: int) -> None:
    x = torch.randn(shape, dtype=torch.float64) * 3 + 5
    labels = cells_of(shape[2:], cell).numpy()
    expected = np.zeros((shape[0], 1, *shape[2:]))
    for i, image in enumerate(x.numpy()):
        for label in range(labels.max() + 1):
            expected[i, 0, labels == label] = image[:, labels == label].std()
    found = attribute("contrast", nn.Identity(), x, cell=cell, layout="BCXYZ"[: x.dim()])
    torch.testing.assert_close(found, torch.from_numpy(expected))
    assert len(np.unique(labels)) == int(np.prod([max(1, round(n / cell)) for n in shape[2:]]))


def test_contrast_of_a_flat_image_is_zero() -> None:
    found = attribute("contrast", nn.Identity(), torch.full((2, 3, 20, 33), 0.1))
    assert float(found.abs().max()) < 1e-6


def smooth(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
    """A map that reads the input: squares summed over a neighborhood."""
    return torch.cumsum(inputs.square(), -1)


@pytest.fixture
def known() -> Iterator[None]:
    register("smooth", smooth)
    yield
    unregister("smooth")


@pytest.mark.parametrize("size", [(9,), (8,), (8, 7), (6, 8), (4, 6, 5), (1,)])
def test_random_phases_keep_amplitudes_and_mean(known: None, size: tuple[int, ...]) -> None:
    x = torch.randn(3, 2, *size, dtype=torch.float64)
    model, layout = nn.Flatten(), "BCXYZ"[: x.dim()]
    own = attribute("smooth", model, x, 0, layout=layout)
    found = attribute("random_phase", model, x, 0, of="smooth", seed=3, layout=layout)
    assert found.shape == own.shape
    axes = tuple(range(2, own.dim()))
    a, b = (np.abs(np.fft.fftn(m.numpy(), axes=axes)) for m in (own, found))
    np.testing.assert_allclose(a, b, atol=1e-9 * a.max())
    torch.testing.assert_close(found.flatten(1).mean(1), own.flatten(1).mean(1))
    if size != (1,):
        assert not torch.allclose(found, own)
    first = attribute("random_phase", model, x[:2], 0, of="smooth", seed=3, layout=layout)
    torch.testing.assert_close(found[:2], first)
    other = attribute("random_phase", model, x, 0, of="smooth", seed=4, layout=layout)
    assert torch.equal(found, other) == (size == (1,))
    assert not torch.allclose(found[0], found[1])


def test_a_map_of_random_phases_is_as_probable_as_its_negative(known: None) -> None:
    """Moments of odd order about the mean vanish at each position, over many draws."""
    x = torch.randn(1, 1, 6, 5, dtype=torch.float64).expand(4000, 1, 6, 5)
    own = attribute("smooth", nn.Flatten(), x[:1], 0)
    found = attribute("random_phase", nn.Flatten(), x, 0, of="smooth")
    about = found - own.mean()
    spread = about.square().mean(0)
    torch.testing.assert_close(spread, spread.mean().expand_as(spread), rtol=0.15, atol=0.0)
    for power in (1, 3):
        moments = about**power
        z = moments.mean(0) / (moments.std(0) / len(moments) ** 0.5)
        assert float(z.abs().max()) < 4.5
    pairs = about[:, :, :-1] * about[:, :, 1:] * about[:, :, :1, :1]  # a product of three places
    z = pairs.mean(0) / (pairs.std(0) / len(pairs) ** 0.5)
    assert float(z.abs().max()) < 4.5


def test_options_of_the_other_method_are_passed_on() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten(), nn.LazyLinear(3))
    x = torch.randn(2, 3, 6, 6)
    model(x)
    choice = MethodChoice.parse("random_phase:of=integrated_gradients:n_steps=3;signed=True,seed=2")
    assert choice.options == {"of": "integrated_gradients:n_steps=3;signed=True", "seed": 2}
    assert MethodChoice.parse(choice.label) == choice
    own = attribute("integrated_gradients", model, x, 1, n_steps=3, signed=True)
    found = attribute(choice.name, model, x, 1, **choice.options)
    torch.testing.assert_close(found.flatten(1).sum(1), own.flatten(1).sum(1), rtol=1e-4, atol=1e-4)
    joined = MethodChoice.parse("random_phase:of=fullgrad:terms=input+0")
    assert joined.options == {"of": "fullgrad:terms=input+0"}
    assert attribute(joined.name, model, x, 1, **joined.options).shape == (2, 1, 6, 6)
    with pytest.raises(ValueError, match="is not METHOD, METHOD:OPTION=VALUE"):
        MethodChoice.parse("random_phase:of=grad_cam:relu=False,signed")
    with pytest.raises(ValueError, match="'sobel' has no sign"):
        MethodChoice.parse("random_phase:of=sobel:signed=True")


def test_additional_arguments_reach_the_other_method() -> None:
    model, x = Weighted(), small_images(3)
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    extra = (weight, {"table": torch.ones(2, 2, dtype=torch.float64)})
    own = attribute("input_gradient", model, x, 1, additional_forward_args=extra)
    for batch_size in (None, 2):
        found = attribute(
            "random_phase",
            model,
            x,
            1,
            of="input_gradient",
            additional_forward_args=extra,
            batch_size=batch_size,
        )
        torch.testing.assert_close(found.mean((2, 3)), own.mean((2, 3)))


def test_noise_with_a_seed_is_known_as_noise() -> None:
    assert set(NOISE) == {n for n in names() if n.startswith("random")}
    assert all("seed" in get(n).takes for n in NOISE)
    for name in BLIND:  # the same for any model, and for none
        x = images()
        assert torch.equal(attribute(name, nn.Identity(), x), attribute(name, nn.Flatten(), x, 5))

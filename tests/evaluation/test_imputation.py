"""ROAD's imputation, against dense equations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fullgrad.errors import InputError
from fullgrad.evaluation import imputation
from fullgrad.evaluation.datasets import Colors
from fullgrad.evaluation.imputation import ImputationError, imputed
from fullgrad.evaluation.removal import filled, ranks_of, removed
from fullgrad.evaluation.tests.remove_and_retrain import estimate
from fullgrad.evaluation.tests.remove_and_retrain import tables as results
from patches import SIDE, patch_data, plan_for, roar_of


def equations(image: np.ndarray[Any, Any], gone: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Each removed pixel the weighted mean of its neighbors: one dense system, solved."""
    height, width = gone.shape
    a, b = np.eye(height * width), image.reshape(-1).astype(float)
    for y in range(height):
        for x in range(width):
            if not gone[y, x]:
                continue
            around = [
                (v, u)
                for v in range(y - 1, y + 2)
                for u in range(x - 1, x + 2)
                if (v, u) != (y, x) and 0 <= v < height and 0 <= u < width
            ]
            weights = [1 / 6 if v == y or u == x else 1 / 12 for v, u in around]
            b[y * width + x] = 0
            for (v, u), weight in zip(around, weights, strict=True):
                a[y * width + x, v * width + u] = -weight / sum(weights)
    return np.linalg.solve(a, b).reshape(height, width)


def test_imputation() -> None:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (6, 3, 9, 7), generator=generator).byte()
    gone = torch.rand(6, 63, generator=generator) < 0.6
    gone[4] = False
    gone[5, 1:] = True  # one pixel is left
    found = imputed(images, gone, 0, noise=0.0)
    for n in range(6):
        for c in range(3):
            expected = equations(images[n, c].numpy(), gone[n].view(9, 7).numpy())
            assert np.abs(found[n, c].numpy() - expected).max() < 0.51
    assert torch.equal(found[4], images[4])
    assert bool((found[5] == images[5, :, :1, :1]).all())
    noisy = imputed(images, gone, 0)
    mask = gone.view(6, 1, 9, 7).expand_as(images)
    assert torch.equal(noisy[~mask], images[~mask])
    gaps = (noisy.double() - found.double())[mask & (found > 12) & (found < 243)]
    assert abs(float(gaps.std()) - 2.55) < 0.3
    assert torch.equal(noisy, imputed(images, gone, 0))
    assert not torch.equal(noisy, imputed(images, gone, 1))
    assert not torch.equal(noisy, imputed(images, gone, 0, first=6))
    gone[0] = True
    with pytest.raises(InputError, match="every pixel is removed cannot be imputed"):
        imputed(images, gone, 0)


def test_products_that_are_rounded_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU may round a convolution's: ten bits of the fraction are left."""
    real = imputation._neighbors

    def rounding(x: Tensor) -> Tensor:
        return real(((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32))

    x = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)).mul(255)
    kernel = torch.tensor([[1.0, 2, 1], [2, 0, 2], [1, 2, 1]]).div(12)
    expected = F.conv2d(x.double().flatten(0, 1)[:, None], kernel.double()[None, None], padding=1)
    torch.testing.assert_close(real(x), expected.view(x.shape).float(), rtol=1e-6, atol=1e-4)
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (6, 3, 16, 16), generator=generator).byte()
    gone = torch.rand(6, 256, generator=generator) < 0.7
    right = imputed(images, gone, 0)
    plain = F.conv2d
    with monkeypatch.context() as patched:  # no convolution is asked
        patched.setattr(
            F, "conv2d", lambda x, *rest, **more: plain(x.bfloat16().float(), *rest, **more)
        )
        assert torch.equal(imputed(images, gone, 0), right)
    monkeypatch.setattr(imputation, "_neighbors", rounding)
    with pytest.raises(ImputationError, match=r"equations were not solved: .* is left"):
        imputed(images, gone, 0)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_imputation_as_the_grad_cam_package_does_it() -> None:
    road = pytest.importorskip("pytorch_grad_cam.metrics.road", reason="grad-cam is not installed")
    images = torch.randint(
        0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(1)
    ).byte()
    gone = removed(ranks_of(torch.zeros(3, 1, 16, 16), 0), 0.7, "most")
    found = imputed(images, gone, 0, noise=0.0)
    imputer = road.NoisyLinearImputer(noise=0.0)
    for image, mask, own in zip(images, gone, found, strict=True):
        expected = imputer(image.float(), (~mask).view(16, 16).float())
        assert float((own.float() - expected).abs().max()) < 0.51


def test_road_as_a_fill(tmp_path: Path) -> None:
    data = patch_data(40, 40)
    plan = plan_for(data, "random", fractions=(0.3, 0.6), runs=1, fill="road")
    plan = replace(plan, training=replace(plan.training, epochs=1))
    roar = roar_of(plan, data, tmp_path / "store")
    found = estimate.estimate(roar)
    assert found.fill_seconds > 0
    assert estimate.estimate(replace(roar, plan=replace(plan, fill="black"))).fill_seconds == 0
    assert roar.run() == len(plan.networks()) + 2
    rows = results.rows(plan, roar.store)
    other = replace(roar, plan=replace(plan, fill="mean"))
    assert other.run() == 2  # the masks' networks and the maps are shared
    assert set(rows["fill"]) == {"road"}
    colors = Colors.of(data.train)
    gone = removed(roar.ranks(plan.choices[0])[0], 0.3, "most")
    a, b = (filled(data.train, gone, f, colors, 5) for f in ("road", "mean"))
    mask = gone.view(-1, 1, SIDE, SIDE)
    assert torch.equal(a[~mask], b[~mask])
    assert not torch.equal(a, b)
    everything = replace(roar, plan=replace(plan, fractions=(0.3, 0.999)))
    with pytest.raises(InputError, match=r"the fraction 0\.999 removes all 144"):
        everything.run()

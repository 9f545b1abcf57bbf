"""The call styles of other libraries, run with those libraries themselves."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import InputError, TargetError
from fullgrad.interop import captum as captum_style
from fullgrad.interop import grad_cam, quantus
from fullgrad.methods import attribute
from networks import seeded


def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 6, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 5),
    ).double()
    return seeded(lambda: model)


def images(count: int = 2) -> Tensor:
    drawn = torch.Generator(torch.get_default_device()).manual_seed(1)
    return torch.randn(count, 3, 8, 8, dtype=torch.float64, generator=drawn)


@contextmanager
def quiet() -> Iterator[None]:
    """Other packages warn of their own affairs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# -- Captum -----------------------------------------------------------------------------------


@pytest.mark.parametrize("psi", ["layer", "signed"])
def test_captum_style_returns_the_map_in_the_inputs_shape(psi: str) -> None:
    model, x = net(), images()
    expected = fullgrad.saliency(model, x, 3, psi=psi)
    explain = captum_style.FullGrad(model)
    got = explain.attribute(x, 3, psi=psi)
    assert got.shape == x.shape
    assert torch.equal(got[:, 0], got[:, 2])
    torch.testing.assert_close(got.sum(1, keepdim=True), expected)
    torch.testing.assert_close(explain.attribute(x, 3, psi=psi, shape="map"), expected)
    (inside,) = explain.attribute((x,), target=3, psi=psi, batch_size=1)
    torch.testing.assert_close(inside, got)
    assert explain.forward_func is model
    assert explain.has_convergence_delta() is False
    assert explain.multiplies_by_inputs is True
    assert captum_style.FullGrad(model, "simple_fullgrad").multiplies_by_inputs is False


def test_captum_style_targets() -> None:
    model, x = net(), images()
    explain = captum_style.FullGrad(model).attribute
    for target in (1, [1, 1], torch.tensor([1, 1]), torch.tensor([1]), torch.tensor(1), (1,)):
        torch.testing.assert_close(explain(x, target), explain(x, 1))
    torch.testing.assert_close(explain(x), explain(x, model(x).argmax(1)))
    torch.testing.assert_close(explain(x, [2, 4])[1:], explain(x[1:], 4))


def test_captum_style_takes_every_method_of_the_library() -> None:
    model, x = net(), images()
    torch.testing.assert_close(
        captum_style.FullGrad(model, "simple_fullgrad").attribute(x, 1, shape="map"),
        fullgrad.saliency(model, x, 1, method="simple_fullgrad"),
    )
    noise = fullgrad.Noise(3, 0.1, 2)
    torch.testing.assert_close(
        captum_style.FullGrad(model, "smooth_fullgrad").attribute(
            (x,), 1, shape="map", noise=noise
        )[0],
        fullgrad.saliency(model, x, 1, method="smooth_fullgrad", noise=noise),
    )


def test_captum_style_refusals() -> None:
    model, x = net(), images()
    with pytest.raises(
        ValueError, match="unknown method 'magic'; known: fullgrad, simple_fullgrad"
    ):
        captum_style.FullGrad(model, "magic")
    with pytest.raises(ValueError, match="shape must be 'input' or 'map', not 'flat'"):
        captum_style.FullGrad(model).attribute(x, 1, shape="flat")
    with pytest.raises(TargetError, match="3 targets for a batch of 2"):
        captum_style.FullGrad(model).attribute(x, [1, 2, 3])

    class Two(nn.Module):
        def forward(self, x: Tensor, i: Tensor) -> Tensor:
            return net()(x) * i.reshape(-1, 1)

    with pytest.raises(
        InputError, match="1 of 2 inputs are float tensors; pass the others through"
    ):
        captum_style.FullGrad(Two()).attribute((x, torch.tensor([1, 2])), 1)


def noisy_copies(x: Tensor, times: int, scale: float) -> Tensor:
    """What NoiseTunnel draws from the global generator."""
    shape = (len(x) * times, *x.shape[1:])
    return x.repeat_interleave(times, 0) + torch.normal(0, torch.tensor(scale).repeat(shape))


@pytest.mark.parametrize("target", [2, [2, 4], torch.tensor([2, 4])], ids=["int", "list", "tensor"])
def test_noise_tunnel_works_unmodified(target: Any) -> None:
    model, x = net(), images()
    tunnel = captum.attr.NoiseTunnel(captum_style.FullGrad(model))
    torch.manual_seed(3)
    got = tunnel.attribute(x, nt_type="smoothgrad", nt_samples=4, stdevs=0.3, target=target)
    torch.manual_seed(3)
    copies = noisy_copies(x, 4, 0.3)
    rows = torch.as_tensor(target).expand(2).repeat_interleave(4)
    maps = fullgrad.saliency(model, copies, rows).unflatten(0, (2, 4)).mean(1)
    torch.testing.assert_close(got.sum(1, keepdim=True), maps)
    torch.manual_seed(3)
    (inside,) = tunnel.attribute((x,), nt_samples=4, stdevs=0.3, target=target, psi="layer")
    torch.testing.assert_close(inside, got)
    torch.manual_seed(3)
    assert (
        tunnel.attribute(x, nt_type="vargrad", nt_samples=4, stdevs=0.3, target=target).min() >= 0
    )


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, x: Tensor, scale: Tensor, power: int) -> Tensor:
        return self.inner(x) * scale[:, None] ** power


def test_noise_tunnel_expands_additional_arguments() -> None:
    model, x, scale = Scaled(), images(), torch.tensor([1.0, -3.0]).double()
    tunnel = captum.attr.NoiseTunnel(captum_style.FullGrad(model))
    torch.manual_seed(3)
    got = tunnel.attribute(
        x,
        nt_samples=5,
        nt_samples_batch_size=2,
        stdevs=0.2,
        target=torch.tensor([2, 4]),
        additional_forward_args=(scale, 3),
        psi="signed",
    )
    torch.manual_seed(3)
    expected = torch.zeros(2, 1, 8, 8).double()
    for times in (2, 2, 1):
        copies = noisy_copies(x, times, 0.2)
        maps = fullgrad.saliency(
            model,
            copies,
            torch.tensor([2, 4]).repeat_interleave(times),
            psi="signed",
            additional_forward_args=(scale.repeat_interleave(times), 3),
        )
        expected += maps.unflatten(0, (2, times)).sum(1) / 5
    torch.testing.assert_close(got.sum(1, keepdim=True), expected)


def test_captums_viewer_draws_the_map() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from captum.attr import visualization
    from matplotlib import pyplot as plt

    found = captum_style.FullGrad(net()).attribute(images(1), 1)[0]
    figure, axes = visualization.visualize_image_attr(
        found.permute(1, 2, 0).numpy(),
        method="heat_map",
        sign="positive",
        use_pyplot=False,
        outlier_perc=0,
    )
    drawn = axes.images[0].get_array()
    plt.close(figure)
    total = found.sum(0).numpy()
    np.testing.assert_allclose(drawn, total / total.max())


def test_captums_metrics_take_any_method() -> None:
    import captum.metrics

    model, x = net(), images()

    def explain(given: tuple[Tensor], **named: Any) -> tuple[Tensor]:
        return (attribute("combined_fullgrad", model, given[0], **named),)

    moved = captum.metrics.sensitivity_max(
        explain, x, perturb_func=lambda x: (x + 0.1,), n_perturb_samples=1, target=2
    )
    (before,), (after,) = explain((x,), target=2), explain((x + 0.1,), target=2)
    expected = (after - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
    assert torch.allclose(moved, expected)
    assert (moved > 0).all()


def test_captums_infidelity_of_a_linear_model_is_zero() -> None:
    import captum.metrics

    model, x = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).double(), images()

    def noise(x: Tensor) -> tuple[Tensor, Tensor]:
        drawn = torch.full_like(x, 0.1)
        return drawn, x - drawn

    gradient = fullgrad.decompose(model, x, target=2).input_gradients[0]
    for factor, expected in ((1, 0.0), (2, 1.0)):
        found = captum.metrics.infidelity(
            model, noise, x, factor * gradient, target=2, n_perturb_samples=1
        )
        change = 0.1 * gradient.flatten(1).sum(1)
        assert torch.allclose(found, expected * change**2)


# -- Quantus ----------------------------------------------------------------------------------


def test_quantus_function() -> None:
    model, x = net(), images()
    expected = fullgrad.saliency(model, x, torch.tensor([1, 3])).numpy()
    for inputs in (x, x.numpy(), x.float().numpy().astype(np.float64)):
        for targets in (np.array([1, 3]), torch.tensor([1, 3]), [1, 3]):
            got = quantus.explain(model, inputs, targets, device="cpu")
            assert got.shape == (2, 1, 8, 8)
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        quantus.explain(model, x, None, method="smoothgrad", samples=3, signed=True, batch_size=1),
        attribute("smoothgrad", model, x, samples=3, signed=True).numpy(),
    )
    assert quantus.explain(model.float(), x.numpy(), [1, 3]).dtype == np.float32
    with pytest.raises(ValueError, match="device is cuda, but the model is on cpu; move the model"):
        quantus.explain(model, x, 1, device="cuda")
    with pytest.raises(ValueError, match="'fullgrad' has no option 'xai_lib'"):
        quantus.explain(model, x, 1, xai_lib="captum")


@pytest.mark.parametrize("method", ["fullgrad", "integrated_gradients"])
def test_quantus_metrics_run_unmodified(method: str) -> None:
    with quiet():
        import quantus as real

    model = net().float().eval()
    x = images(3).float().numpy()
    y = np.array([0, 1, 2])
    common = {"disable_warnings": True, "display_progressbar": False}
    options = {"method": method} | ({"n_steps": 4} if method != "fullgrad" else {})
    call = {
        "model": model,
        "x_batch": x,
        "y_batch": y,
        "explain_func": quantus.explain,
        "explain_func_kwargs": options,
        "device": "cpu",
        "batch_size": 2,
    }
    with quiet():
        np.random.seed(0)
        flipping = real.PixelFlipping(features_in_step=16, **common)(**call)
        sparse = real.Sparseness(**common)(**call)
        logit = real.RandomLogit(num_classes=5, **common)(**call)
        mprt = real.MPRT(seed=3, **common)(**call)
        sensitive = real.MaxSensitivity(nr_samples=2, **common)(**call)
    assert [len(curve) for curve in flipping] == [12, 12, 12]
    assert all(0 < value < 1 for value in sparse)
    assert all(-1 <= value <= 1 for value in logit)
    assert len(set(map(float, logit))) == 3
    layers = {"0", "3", "6"}
    assert layers <= set(mprt)
    assert all(np.isfinite(v).all() for v in mprt.values())
    assert all(value > 0 for value in sensitive)
    maps = quantus.explain(model, x, y, **options)
    with quiet():
        given = real.Sparseness(**common)(model=model, x_batch=x, y_batch=y, a_batch=maps)
    np.testing.assert_allclose(sparse, given, rtol=1e-5)


# -- grad-cam ---------------------------------------------------------------------------------


def targets_of(*classes: int) -> Any:
    with quiet():
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    return [ClassifierOutputTarget(c) for c in classes]


def stretched(maps: Tensor) -> np.ndarray:
    low, high = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
    return ((maps - low) / (high - low)).squeeze(1).float().numpy()


def test_grad_cam_style_with_the_packages_own_parts() -> None:
    with quiet():
        from pytorch_grad_cam.utils.image import show_cam_on_image

    model, x = net().train(), images()
    with grad_cam.FullGrad(model=model, target_layers=[]) as cam:
        assert cam.outputs is None
        got = cam(input_tensor=x, targets=targets_of(3, 1))
        predicted = cam(x)
        one = cam(input_tensor=x[:1], targets=targets_of(3), aug_smooth=False, eigen_smooth=False)
    assert got.shape == (2, 8, 8)
    assert got.dtype == np.float32
    assert got.min(axis=(1, 2)).tolist() == [0, 0]
    assert got.max(axis=(1, 2)).tolist() == [1, 1]
    np.testing.assert_allclose(got, stretched(fullgrad.saliency(model, x, [3, 1])), atol=1e-6)
    np.testing.assert_allclose(predicted, stretched(fullgrad.saliency(model, x)), atol=1e-6)
    np.testing.assert_allclose(one[0], got[0], atol=1e-6)
    torch.testing.assert_close(cam.outputs, model(x)[:1].detach())
    assert all(m.training for m in model.modules())
    drawn = show_cam_on_image(np.full((8, 8, 3), 0.5, np.float32), got[0], use_rgb=True)
    assert drawn.shape == (8, 8, 3)
    assert drawn.dtype == np.uint8


def test_grad_cam_style_options_and_batches() -> None:
    model, x = net(), images(3)
    whole = grad_cam.FullGrad(model, psi="channel", terms="bias")(x, targets_of(3, 1, 0))
    np.testing.assert_allclose(
        whole,
        stretched(fullgrad.saliency(model, x, [3, 1, 0], psi="channel", terms="bias")),
        atol=1e-6,
    )
    cam = grad_cam.FullGrad(model, None, psi="channel", terms="bias", batch_size=2)
    np.testing.assert_allclose(cam(x, targets_of(3, 1, 0)), whole, atol=1e-6)
    assert cam.outputs is not None
    assert cam.outputs.shape == (3, 5)
    smooth = grad_cam.FullGrad(model, method="smooth_fullgrad")
    expected = fullgrad.saliency(model, x, method="smooth_fullgrad")
    np.testing.assert_allclose(smooth(x), stretched(expected), atol=1e-6)
    expected = fullgrad.saliency(model, x, [3, 1, 0], method="smooth_fullgrad")
    np.testing.assert_allclose(smooth(x, targets_of(3, 1, 0)), stretched(expected), atol=1e-6)


def test_grad_cam_style_constant_maps_are_zero() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(128, 2)).double()
    nn.init.zeros_(model[2].weight)
    assert not grad_cam.FullGrad(model)(images(), targets_of(0, 1)).any()


def test_grad_cam_style_refusals() -> None:
    model, x = net(), images()
    for arguments, match in (
        (
            {"target_layers": [model[0]]},
            r"target_layers must be \[\] or None, not 1 layers: FullGr",
        ),
        (
            {"reshape_transform": abs},
            "reshape_transform must be None: positions are known from the operations",
        ),
        ({"method": "magic"}, "unknown method 'magic'; known: fullgrad, "),
        ({"batch_size": 0}, "batch_size must be a positive integer or 'auto', not 0"),
    ):
        with pytest.raises(ValueError, match=match):
            grad_cam.FullGrad(model, **arguments)
    cam = grad_cam.FullGrad(model, [])
    for option in ("aug_smooth", "eigen_smooth"):
        with pytest.raises(
            ValueError, match=f"{option} is not an option of FullGrad; for a smoother"
        ):
            cam(x, **{option: True})
    with pytest.raises(TargetError, match="1 targets for a batch of 2 samples"):
        cam(x, targets_of(1))
    with pytest.raises(
        TargetError, match=r"must return one number for one sample's output, not shape \(5,\)"
    ):
        cam(x, [lambda out: out] * 2)
    with pytest.raises(TargetError, match=r"one number for one sample's output, not float"):
        cam(x, [lambda out: 1.0] * 2)

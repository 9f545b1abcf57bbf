"""Psi and the aggregation, against a naive per-channel implementation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import InputError, LayoutError
from fullgrad.maps.aggregation import rescaled_channel_sum
from fullgrad.maps.saliency import saliency_from_decomposition, term_map
from networks import ResNetLike, seeded, vgg_like


def naive_map(d: fullgrad.Decomposition, psi: str) -> Tensor:
    """Every channel rescaled and upsampled by itself, then summed."""
    size = d.inputs[0].shape[2:]
    total = torch.zeros(len(d.output), 1, *size, dtype=torch.float64)
    for term in [d.input_terms[0], *(t.value for t in d.bias_terms)]:
        if term.dim() < 3:
            continue
        for i, sample in enumerate(term):
            for channel in range(sample.shape[0]):
                if psi == "signed":
                    z = sample[channel]
                else:
                    group = (sample if psi == "layer" else sample[channel]).abs()
                    low, high = group.min(), group.max()
                    eps = 1e-6 if psi == "layer" else 1e-6 * sample.abs().max()
                    z = (sample[channel].abs() - low) / (high - low + eps)
                z = F.interpolate(z[None, None], size=size, mode="bilinear", align_corners=True)
                total[i] += z[0]
    return total


@pytest.mark.parametrize("psi", ["layer", "channel", "signed"])
@pytest.mark.parametrize("build", [vgg_like, ResNetLike])
def test_map_is_the_naive_one(build: type, psi: str) -> None:
    model, x = seeded(build), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    d = fullgrad.decompose(model, x)
    expected = naive_map(d, psi)
    torch.testing.assert_close(fullgrad.saliency(model, x, psi=psi), expected)
    torch.testing.assert_close(saliency_from_decomposition(d, psi=psi), expected)


def test_term_selections() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 2, 3), nn.Flatten(1))
    model = model.double().append(nn.Linear(2 * 4 * 4, 3).double())
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    d = fullgrad.decompose(model, x, 0)
    maps = {t.op: term_map(t, d) for t in d.bias_terms if t.shape[2:]}
    layers = list(d.bias_terms)
    own = rescaled_channel_sum(d.input_terms[0])
    first, gelu, second = (term_map(t, d) for t in layers[:3])
    assert set(maps) == {"convolution", "gelu"}
    for terms, expected in {
        "all": own + first + gelu + second,
        "explicit": own + first + second,
        "input": own,
        "bias": first + gelu + second,
    }.items():
        got = fullgrad.saliency(model, x, 0, terms=terms)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(saliency_from_decomposition(d, terms=terms), expected)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_one_two_and_three_dimensions(rank: int) -> None:
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[rank]
    model = nn.Sequential(conv(2, 4, 3, stride=2), nn.ReLU(), nn.Flatten()).double()
    size = (9, 8, 7)[:rank]
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    model.append(nn.Linear(model(x).shape[1], 3).double())
    saliency = fullgrad.saliency(model, x)
    assert saliency.shape == (2, 1, *size)
    assert float(saliency.std()) > 0


def test_map_of_a_sample_does_not_depend_on_its_batch() -> None:
    model, x = seeded(ResNetLike), torch.randn(4, 3, 32, 32, dtype=torch.float64)
    together = fullgrad.saliency(model, x)
    for i in range(4):
        torch.testing.assert_close(fullgrad.saliency(model, x[i : i + 1])[0], together[i])


class Scrambled(nn.Module):
    """Its reshape cuts across channels and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 6)
        self.mix = nn.Linear(9, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.embed(x).transpose(1, 3).reshape(2, 6, 9)).mean(1)


def test_channels_last_layers_have_maps() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.norm = nn.LayerNorm(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x).permute(0, 2, 3, 1)).mean((1, 2))

    model, x = Last().double(), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    d = fullgrad.decompose(model, x, 1)
    norm = d.select("norm")[0]
    expected = rescaled_channel_sum(norm.value.movedim(-1, 1))
    torch.testing.assert_close(term_map(norm, d), expected)
    assert fullgrad.saliency(model, x, 1).shape == (2, 1, 4, 4)


def test_refusals() -> None:
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(
        LayoutError, match=r"numbers of addmm in mix \(shape \(12, 9\)\) lie in the"
    ):
        fullgrad.saliency(Scrambled(), x)
    assert fullgrad.saliency(Scrambled(), x, terms="input").shape == (2, 1, 8, 8)
    with pytest.raises(
        ValueError,
        match=r"unknown method 'magic'; known: fullgrad, simple_fullgrad, smooth_fullgrad",
    ):
        fullgrad.saliency(vgg_like(), x, method="magic")
    with pytest.raises(ValueError, match="psi must be one of layer, channel, signed, not 'abs'"):
        fullgrad.saliency(vgg_like(), x, psi="abs")
    with pytest.raises(
        ValueError,
        match=r"terms must be one of all, explicit, implicit, bias, input, or modules of the model .*not 'n'",
    ):
        fullgrad.saliency(vgg_like(), x, terms="n")
    with pytest.raises(
        InputError, match=r"shape \(2, 4\) has no map: \(batch, channels, positions...\)"
    ):
        fullgrad.saliency(nn.Linear(4, 2), torch.randn(2, 4))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    image = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    with pytest.raises(LayoutError, match="no term of this selection has positions"):
        fullgrad.saliency(linear, image, 0, terms="bias")
    d = fullgrad.decompose(linear, image, 0)
    with pytest.raises(LayoutError, match=r"addmm in 1 \(shape \(1, 2\)\) has no positions"):
        term_map(d.bias_terms[0], d)


def test_channels_last_memory_changes_nothing() -> None:
    model, x = seeded(ResNetLike), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = fullgrad.saliency(model, x, 1)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(fullgrad.saliency(model, x, 1), expected)


@pytest.mark.parametrize("how", ["bfloat16", "autocast"])
def test_half_precision_maps_are_float32_and_near(how: str) -> None:
    model, x = seeded(vgg_like).float(), torch.randn(2, 3, 32, 32)
    expected = fullgrad.saliency(model, x, 1)
    if how == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            near = fullgrad.saliency(model, x, 1)
    else:
        near = fullgrad.saliency(model.to(torch.bfloat16), x.to(torch.bfloat16), 1)
    assert near.dtype == torch.float32
    correlation = torch.corrcoef(torch.stack([near.flatten(), expected.flatten()]))[0, 1]
    assert float(correlation) > 0.9

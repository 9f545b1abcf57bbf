"""Inputs whose samples are not counted by the first axis, as in the default order of sequences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.maxvit import MaxVit

import fullgrad
from fullgrad import methods
from fullgrad.errors import LayoutError
from fullgrad.interop import captum
from fullgrad.maps.saliency import saliency_from_decomposition

DOUBLE = torch.float64
BATCH, STEPS, CHANNELS = 3, 6, 4


class Series(nn.Module):
    """A network for series, with time first (PyTorch's default) or samples first."""

    def __init__(self, kind: str, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.net: nn.Module
        if kind == "transformer":
            layer = nn.TransformerEncoderLayer(CHANNELS, 2, 8, batch_first=batch_first)
            self.net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        else:
            self.net = getattr(nn, kind)(CHANNELS, CHANNELS, batch_first=batch_first)
        self.head = nn.Linear(CHANNELS, 5)

    def forward(self, x: Tensor) -> Tensor:
        found = self.net(x)
        found = found[0] if isinstance(found, tuple) else found
        return self.head(found.tanh().mean(1 if self.batch_first else 0))


def both_orders(kind: str) -> tuple[Series, Series, Tensor]:
    torch.manual_seed(0)
    batch_first, time_first = Series(kind, True).double(), Series(kind, False).double()
    time_first.load_state_dict(batch_first.state_dict())
    return batch_first, time_first, torch.randn(BATCH, STEPS, CHANNELS, dtype=DOUBLE)


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "transformer"])
def test_time_first_explains_what_samples_first_does(kind: str) -> None:
    batch_first, time_first, x = both_orders(kind)
    flipped, target = x.transpose(0, 1), [0, 1, 2]
    d = fullgrad.decompose(batch_first, x, target, layout="BTC")
    e = fullgrad.decompose(time_first, flipped, target, layout="TBC")
    torch.testing.assert_close(e.output, d.output)
    torch.testing.assert_close(e.input_sums, d.input_sums)
    torch.testing.assert_close(e.bias_sums, d.bias_sums)
    torch.testing.assert_close(e.input_terms[0], d.input_terms[0].transpose(0, 1))
    expected = fullgrad.saliency(batch_first, x, target, layout="BTC")
    assert expected.shape == (BATCH, 1, STEPS)
    torch.testing.assert_close(saliency_from_decomposition(e), expected)
    for options in ({}, {"batch_size": 2}, {"batch_size": "auto", "memory": 10**5}):
        options = options | {"layout": "TBC"}
        got = fullgrad.saliency(time_first, flipped, target, **options)
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("batch_size", [None, 2, 7])
@pytest.mark.parametrize("target", [None, 1, [2, 0, 1]])
def test_smooth_fullgrad(batch_size: int | None, target: Any) -> None:
    batch_first, time_first, x = both_orders("GRU")
    options = {"batch_size": batch_size, "noise": fullgrad.Noise(samples=3)}
    first, second = (
        fullgrad.saliency(m, y, target, "smooth_fullgrad", layout=layout, **options)
        for m, y, layout in ((batch_first, x, "BTC"), (time_first, x.transpose(0, 1), "TBC"))
    )
    torch.testing.assert_close(first, second)


def test_interfaces() -> None:
    batch_first, time_first, x = both_orders("LSTM")
    flipped = x.transpose(0, 1)
    expected = fullgrad.saliency(batch_first, x, 1, layout="BTC")
    torch.testing.assert_close(
        methods.attribute("fullgrad", time_first, flipped, 1, layout="TBC"), expected
    )
    shared = captum.FullGrad(time_first).attribute(flipped, 1, layout="TBC")
    assert shared.shape == flipped.shape
    torch.testing.assert_close(shared.sum(2), expected.squeeze(1).transpose(0, 1))


class Two(nn.Module):
    """A series with time first and one with samples first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.GRU(CHANNELS, 4), nn.GRU(CHANNELS, 4, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(torch.cat([self.a(x)[0].mean(0), self.b(y)[0].mean(1)], 1))


def test_each_input_in_its_own_order() -> None:
    torch.manual_seed(0)
    model = Two().double()
    x, y = torch.randn(6, 3, 4, dtype=DOUBLE), torch.randn(3, 6, 4, dtype=DOUBLE)
    layout = ["TBC", "BTC"]
    d = fullgrad.decompose(model, (x, y), 1, layout=layout)
    lines = d.summary(sample=2).splitlines()[2:4]
    for line, terms in zip(lines, (d.input_terms[0][:, 2], d.input_terms[1][2]), strict=True):
        assert float(line.split()[-1]) == pytest.approx(float(terms.sum()), rel=1e-4)
    whole = fullgrad.saliency(model, (x, y), 1, layout=layout)
    parts = fullgrad.saliency(model, (x, y), 1, layout=layout, batch_size=2)
    assert [m.shape for m in whole] == [(3, 1, 6), (3, 1, 6)]
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b)


def test_one_sample() -> None:
    batch_first, time_first, x = both_orders("GRU")
    got = fullgrad.saliency(time_first, x[:1].transpose(0, 1), 1, layout="TBC")
    torch.testing.assert_close(got, fullgrad.saliency(batch_first, x[:1], 1, layout="BTC"))


def test_images_in_any_order() -> None:
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).double()
    x = torch.randn(2, 3, 6, 6, dtype=DOUBLE)
    expected = fullgrad.saliency(conv, x, 1)
    for layout in ("HWBC", "CHWB", "CBHW"):
        order = ["BCHW".index(c) for c in layout]
        back = [layout.index(c) for c in "BCHW"]

        class Moved(nn.Module):
            def __init__(self, to: list[int]) -> None:
                super().__init__()
                self.conv, self.to = conv, to

            def forward(self, x: Tensor) -> Tensor:
                return self.conv(x.permute(self.to))

        got = fullgrad.saliency(Moved(back), x.permute(order), 1, layout=layout)
        torch.testing.assert_close(got, expected)


def test_a_layout_that_does_not_fit_a_minibatch() -> None:
    _, time_first, x = both_orders("GRU")
    with pytest.raises(LayoutError, match="'TB' names 2 axes, but input has shape"):
        fullgrad.saliency(time_first, x, 1, layout="TB", batch_size=2)


# -- a batch of one -------------------------------------------------------------------------------


class EinsumAttention(nn.Module):
    """Attention in windows of 4 places; einsum moves the axis of a single sample to the end."""

    def __init__(self, scores: str, values: str, heads: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scores, self.values, self.heads = scores, values, heads
        self.embed, self.parts = nn.Conv1d(3, 4, 2, 2), nn.Linear(4, 12)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.embed(x).transpose(1, 2).unflatten(1, (-1, 4))  # (B, windows, 4, C)
        parts = self.parts(z).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0)
        q, k, v = parts.transpose(-2, -3)  # (B, windows, heads, 4, C)
        w = torch.einsum(self.scores, q, k).softmax(-1)
        mixed = torch.einsum(self.values, w, v).transpose(-2, -3).flatten(-2)
        return self.head((z + mixed).tanh().mean((1, 2)))


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize(
    ("scores", "values"),
    [
        ("bghid,bghjd->bghij", "bghij,bghjd->bghid"),
        ("...id,...jd->...ij", "...ij,...jd->...id"),
        ("bghid,bghjd->gbhij", "gbhij,bghjd->bghid"),
        ("bghid,bghjd->hgbij", "hgbij,bghjd->bghid"),
    ],
)
def test_a_map_of_one_sample_is_that_in_a_batch(scores: str, values: str, heads: int) -> None:
    model = EinsumAttention(scores, values, heads).double()
    x = torch.randn(2, 3, 16, dtype=DOUBLE)
    for options in ({}, {"psi": "signed", "terms": "bias"}):
        two = fullgrad.saliency(model, x, 1, **options)
        torch.testing.assert_close(fullgrad.saliency(model, x[:1], 1, **options), two[:1])


def test_a_batch_of_one_in_a_network_of_windows_and_grids() -> None:
    torch.manual_seed(0)
    model = MaxVit(
        input_size=(32, 32),
        stem_channels=4,
        partition_size=2,
        block_channels=[4, 8],
        block_layers=[1, 1],
        head_dim=4,
        stochastic_depth_prob=0.0,
        num_classes=5,
    )
    for p in model.parameters():
        nn.init.normal_(p, std=0.2)
    model, x = model.double().eval(), torch.randn(2, 3, 32, 32, dtype=DOUBLE)
    for call in (
        lambda x: fullgrad.saliency(model, x, 1),
        lambda x: fullgrad.saliency(model, x, 1, psi="signed", terms="bias"),
        lambda x: fullgrad.complete_map(model, x, 1).map,
    ):
        torch.testing.assert_close(call(x[:1]), call(x)[:1])

"""What a model says of its input's axes: what it slides over, and what it weighs and sums."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import LayoutError

C, T = 5, 12


class Program(nn.Module):
    """Runs a function of its layers on a series."""

    def __init__(self, run: Callable[[Program, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.run = run
        self.conv, self.long = nn.Conv1d(C, 4, 3, padding=1), nn.Conv1d(T, 4, 3, padding=1)
        self.image, self.rows = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, (1, 3))
        self.over_time, self.over_channels = nn.LSTM(C, 4, batch_first=True), nn.Linear(C, C)
        self.one = nn.Conv1d(1, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x).flatten(1).double().square().sum(1, keepdim=True)


# Each on (B, C, T), or on (B, T, C), the other way round.
TELLING: dict[str, Callable[[Program, Tensor], Tensor]] = {
    "convolution": lambda m, x: m.conv(x).relu(),
    "after a softplus": lambda m, x: m.conv(nn.functional.softplus(x)),
    "depthwise": lambda m, x: nn.functional.conv1d(x, x.new_ones(C, 1, 3), groups=C).relu(),
    "max-pool": lambda m, x: nn.functional.max_pool1d(x, 2).exp(),
    "average pool": lambda m, x: nn.functional.avg_pool1d(x, 2).exp(),
    "kernels of 1": lambda m, x: nn.functional.conv1d(x, x.new_ones(3, C, 1)).exp(),
    "one channel after the other": lambda m, x: (
        m.one(x.reshape(-1, 1, T)).reshape(len(x), -1).exp()
    ),
    "an image, windows along time": lambda m, x: m.rows(x[:, None]).exp(),
    "a kernel over all channels": lambda m, x: nn.functional.conv2d(
        x[:, None], x.new_ones(3, 1, C, 1)
    ).exp(),
    "recurrent layer": lambda m, x: m.over_time(x.transpose(1, 2))[0],
    "dense layer": lambda m, x: m.over_channels(x.transpose(1, 2)).exp(),
    "weights on the left": lambda m, x: (m.over_channels.weight @ x).exp(),
    "a mean over time, then a dense layer": lambda m, x: m.over_channels(x.mean(2)).exp(),
}
SILENT: dict[str, Callable[[Program, Tensor], Tensor]] = {
    "no weights": lambda m, x: x.mean(1).exp(),
    "flat": lambda m, x: nn.functional.linear(x.flatten(1), x.new_ones(3, C * T)).exp(),
    "a spectrogram's rows and columns": lambda m, x: m.image(x[:, None]).exp(),
}


@pytest.mark.parametrize("name", TELLING)
def test_the_model_tells(name: str) -> None:
    model, x = Program(TELLING[name]), torch.rand(2, C, T)
    found = fullgrad.saliency(model, x, 0)
    assert found.shape == (2, 1, T)
    torch.testing.assert_close(found, fullgrad.saliency(model, x, 0, layout="BCT"))


@pytest.mark.parametrize("name", TELLING)
def test_channels_elsewhere_are_refused(name: str) -> None:
    model = Program(lambda m, x: TELLING[name](m, x.transpose(1, 2)))
    with pytest.raises(LayoutError, match="nothing in the model says that the second one does"):
        fullgrad.saliency(model, torch.rand(2, T, C), 0)
    assert fullgrad.saliency(model, torch.rand(2, T, C), 0, layout="BTC").shape == (2, 1, T)


@pytest.mark.parametrize("name", SILENT)
def test_where_nothing_tells_fullgrad_reads_as_documented_and_others_ask(name: str) -> None:
    model, x = Program(SILENT[name]), torch.rand(2, C, T)
    expected = fullgrad.saliency(model, x, 0, layout="BCT")
    torch.testing.assert_close(fullgrad.saliency(model, x, 0), expected)
    with pytest.raises(LayoutError, match="layout='BCT' if it is the second"):
        fullgrad.methods.attribute("input_gradient", model, x, 0)
    found = fullgrad.methods.attribute("input_gradient", model, x, 0, layout="BCT")
    assert found.shape == (2, 1, T)


def test_few_terms_with_positions_are_no_answer() -> None:
    """Where nothing tells, and most terms of three axes have no place, the layout is in doubt."""

    def mixed(m: Program, x: Tensor) -> Tensor:
        y = nn.functional.linear(x.flatten(1), x.new_ones(32, C * T)).unflatten(1, (8, 4))
        return y.sigmoid().tanh().sum(2)

    model, x = Program(mixed), torch.rand(2, C, T)
    with pytest.raises(
        LayoutError,
        match=r"2 terms with more than two axes have no spatial position, only 0 have one: it is "
        r"not known which axis .* layout='BTC' if it is the last one, layout='BCT' if",
    ):
        fullgrad.saliency(model, x, 0)
    for layout, steps in (("BCT", T), ("BTC", C)):  # what the message names works
        assert fullgrad.saliency(model, x, 0, layout=layout).shape == (2, 1, steps)


@pytest.mark.parametrize("channels", [3, 5])
def test_an_image_with_its_channels_last(channels: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten())
    x = torch.rand(2, channels, 8, 9)

    class Last(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = net(x.permute(0, 3, 1, 2))
            return out

    last = x.permute(0, 2, 3, 1).contiguous()
    with pytest.raises(LayoutError, match="layout='BHWC' if it is the last one"):
        fullgrad.saliency(Last(), last, 0)
    expected = fullgrad.saliency(net, x, 0)
    torch.testing.assert_close(fullgrad.saliency(Last(), last, 0, layout="BHWC"), expected)

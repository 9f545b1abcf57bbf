"""Models cut behind their front end."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import ModelError
from fullgrad.maps.front_end import behind


class Spectrogram(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        window = torch.hann_window(16, dtype=x.dtype)
        found = torch.stft(x, 16, 8, window=window, center=False, return_complex=True)
        return (found.abs() ** 2 + 0.1).log()


class Listener(nn.Module):
    """Reads a spectrogram, and perhaps the waveform beside it; or makes two of them."""

    def __init__(self, also: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.front, self.also = nn.ModuleDict({"spectrogram": Spectrogram()}), also
        self.see = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        frames = self.front["spectrogram"](x)
        if self.also == "twice":
            frames = frames + self.front["spectrogram"](x)
        seen = self.norm(self.see(frames[:, None])).relu()
        found = self.head(seen.mean((2, 3)))
        return found + x.mean(1, keepdim=True) if self.also == "waveform" else found


@pytest.fixture
def wave() -> Tensor:
    return torch.randn(3, 120, generator=torch.Generator().manual_seed(0)).double()


def test_a_map_of_time_and_frequency_is_that_of_the_rest(wave: Tensor) -> None:
    model = Listener().double()
    rest, frames = behind(model, "front.spectrogram", wave)
    assert frames.shape == (3, 9, 14)
    found = fullgrad.complete_map(rest, frames, 1, layout="BFT")
    alone = nn.Sequential(nn.Unflatten(1, (1, 9)), model.see, model.norm, nn.ReLU())
    alone = nn.Sequential(alone, nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.head)
    by_hand = fullgrad.complete_map(alone, frames, 1, layout="BFT")
    torch.testing.assert_close(found.map, by_hand.map)
    torch.testing.assert_close(found.output, model(wave)[:, 1])
    torch.testing.assert_close(found.map.sum((1, 2, 3)) + found.elsewhere, found.output)
    one = fullgrad.complete_map(rest, frames, 1, layout="BFT", batch_size=1)
    torch.testing.assert_close(one.map, found.map)
    assert isinstance(model.get_submodule("front.spectrogram"), Spectrogram)
    assert not rest.training


@pytest.mark.parametrize(
    ("also", "path", "message"),
    [
        (
            "",
            "front.spectrogran",
            "the model has no module 'front.spectrogran'; did you mean 'front.sp",
        ),
        ("", "", "the model has no module ''"),
        ("twice", "front.spectrogram", "the model calls front.spectrogram 2 times, not once"),
        (
            "waveform",
            "front.spectrogram",
            "without its inputs the model returns something else behind",
        ),
        ("", "front", "the model calls front 0 times, not once"),
    ],
    ids=["unknown", "none", "twice", "waveform", "not called"],
)
def test_what_cannot_be_cut(wave: Tensor, also: str, path: str, message: str) -> None:
    model = Listener(also).double()
    with pytest.raises(ModelError, match=f"^{message}"):
        behind(model, path, wave)
    assert not model.front["spectrogram"]._forward_hooks


def test_a_later_module_is_the_way_out(wave: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (3, 1, 120)), nn.Conv1d(1, 2, 5)).double()
    with pytest.raises(ModelError, match="0 returns no tensor with a row for each sample, so what"):
        behind(model, "0", wave)
    rest, given = behind(model, "1", wave)
    torch.testing.assert_close(rest(given), model(wave))


class Named(nn.Module):
    """A classifier in training that returns its logits by name."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.norm = nn.AvgPool1d(2), nn.BatchNorm1d(1)
        self.drop, self.head = nn.Dropout(), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.drop(self.norm(self.front(x)).flatten(1)))}


def test_a_model_in_training_is_given_back_as_it_was() -> None:
    model, x = Named().train(), torch.rand(2, 1, 12)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    state = torch.get_rng_state()
    rest, given = behind(model, "front", x)
    assert model.training and rest.training and model.norm.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    found = fullgrad.complete_map(rest, given, 1)
    torch.testing.assert_close(found.output, fullgrad.complete_map(model, x, 1).output)

"""Frames of a waveform, as a short-time Fourier transform cuts them, keep their places in time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import LayoutError


class Spectral(nn.Module):
    """A waveform's spectrogram, and one of its numbers."""

    def __init__(self, center: bool = False, frame: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.center, self.frame = center, frame
        self.conv = nn.Conv1d(9, 3, 3, padding=1)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        window = torch.hann_window(16, dtype=x.dtype)
        power = torch.stft(x, 16, 8, 16, window, center=self.center, return_complex=True).abs() ** 2
        hidden = nn.functional.gelu(self.conv((power + 0.1).log()))
        return hidden.mean(2) if self.frame is None else hidden[:, :, self.frame]


def sound(batch: int = 2, length: int = 96) -> Tensor:
    return torch.randn(batch, length, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("center", [False, True])
def test_a_waveform_has_a_map_over_time(center: bool) -> None:
    got = fullgrad.complete_map(Spectral(center), sound(), 1, layout="BT")
    total = got.map.double().sum((1, 2)) + got.elsewhere
    torch.testing.assert_close(total, got.output)
    assert got.map.shape == (2, 1, 96) and (got.map.abs() > 0).any()


def test_one_frame_reads_its_own_samples() -> None:
    # Frame 5 of the spectrogram and its neighbors read the samples 32 to 64.
    model, x = Spectral(frame=5), sound(1).requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    read = gradient[0].nonzero().flatten()
    got = fullgrad.complete_map(model, x.detach(), 1, layout="BT")
    lies = got.map[0, 0].nonzero().flatten()
    assert 32 <= int(read.min()) and int(read.max()) < 64 and len(read) > 20
    assert int(lies.min()) >= 32 and int(lies.max()) < 64
    assert set(read.tolist()) <= set(lies.tolist())


def test_frames_of_something_else_are_not_followed() -> None:
    class Strange(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rows = x.as_strided((2, 4, 16), (96, 16, 1), 3)
            return rows.exp().mean(2)

    with pytest.raises(LayoutError, match="it is not known where the numbers of exp"):
        fullgrad.complete_map(Strange(), sound(), 1, layout="BT")

